"""SAM2Act+'s memory: a bank of encoded maps for each view, read by memory attention.

Each stream is a view: a square, row-major map of tokens. What is stored is not the token map
itself but an encoding of it together with the heatmap that the policy predicted for the view.

Shape letters: B rows, V streams of one shape, R = V * B rows of those streams together, M slots,
G side of the map, N = G * G tokens, D width, C width of stored tokens, S side of a heatmap in
pixels, P = S * S.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows
from embodied.memory.slots import Slots, StoreRule, store
from embodied.memory.spatial_bank import SpatialBank, SpatialConfig
from embodied.nn.rows import looks_at_data

MARK, POSITION = ".mark", ".position"
"""Endings of the further entries that `write` and `read` know; see `SpatialMemory`."""


class SpatialMemory(Memory):
    """Banks of encoded maps, one a stream; see the module docstring.

    State of each remembered stream s: ``s.tokens`` [B, M, N, C], ``s.time_s`` float32 [B, M],
    ``s.count`` int64 [B], ``s.items`` float32 [B, M], ``s.overflow`` int64 [B]; meanings in
    `embodied.memory.slots.Slots`. A full bank drops its oldest map that is not anchored.

    Streams of equal shape share all weights and run as rows of one batch; they never read one
    another. `read` takes a further entry ``s.position`` of the query, broadcastable to
    [B, N, D]: the positional code of the view's tokens (a sinusoidal one where it is missing).
    `write` takes ``s.mark`` [B, P, 1] of the item: the heatmap logits predicted for the view,
    row-major (zeros where missing). Its ``s`` are the features *before* the read.

    Args:
      streams: Stream name -> (N, D).
      config: Options.

    Raises:
      ConfigError: For a remembered stream that is no square map, or options that do not fit.

    Source: SAM2Act+ (arXiv 2501.18564), section on memory, and its released code. Deviations: the
    bank is a state of fixed size (the original keeps all and reads the last); the present's
    positional code has the order of views and tokens (the original's is scrambled).
    """

    config_class = SpatialConfig
    marks: ClassVar[bool] = True

    def __init__(self, streams: StreamShapes, config: SpatialConfig | None = None) -> None:
        config = config or self.config_class()
        super().__init__(streams, config.capacity)
        self.config = config
        for name in config.remember:
            if name not in self.streams:
                raise unknown_name("stream in memory.remember", name, self.streams)
        self.groups: dict[str, list[str]] = {}
        self.banks = nn.ModuleDict()
        for name, (tokens, width) in self.streams.items():
            if config.remember and name not in config.remember:
                continue
            group = f"{tokens}x{width}"
            if group not in self.banks:
                self.banks[group] = SpatialBank(_side(name, tokens), width, config)
            self.groups.setdefault(group, []).append(name)
        self.initial(1)

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty banks; `capacity` overrides the slots of every stream."""
        state: State = {}
        slots = self.capacity if capacity is None else capacity
        for bank, names in self._banks():
            for name in names:
                tokens, _ = self.streams[name]
                empty = Slots.empty(batch, slots, tokens, self.config.entry_width, bank.temporal)
                _pack(state, name, empty)
        return state

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Attends to the maps of earlier ticks; see the class for further entries."""
        value = {name: query[name] for name in self.streams}
        for bank, names in self._banks():
            found = self._read(bank, names, query, state, reset)
            value.update(zip(names, found.chunk(len(names)), strict=True))
        return value, {"reset": reset}

    def _read(
        self,
        bank: SpatialBank,
        names: list[str],
        query: Streams,
        state: State,
        reset: Tensor,
        explain: list[Tensor] | None = None,
    ) -> Tensor:
        """Returns what the streams of one shape read, [R, N, D], stream after stream."""
        asked = torch.cat([query[name] for name in names])
        position = bank.position
        if any(name + POSITION in query for name in names):
            codes = [query.get(name + POSITION, position) for name in names]
            position = torch.cat([c.expand_as(query[n]) for n, c in zip(names, codes, strict=True)])
        return bank.read(asked, position, _rows(state, names), reset.repeat(len(names)), explain)

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Encodes and appends the item, dropping a map where a row is full."""
        new: State = {}
        rule = StoreRule(overflow="fifo", anchor=self.config.anchor)
        for bank, names in self._banks():
            features = torch.cat([item[name] for name in names])
            entries = bank.encode(features, self._marks(names, item))
            for name, entry in zip(names, entries.chunk(len(names)), strict=True):
                slots = store(_slots(state, name), entry, time_s, rule, pending["reset"])
                _pack(new, name, slots)
        return new

    def _marks(self, names: list[str], item: Streams) -> Tensor | None:
        """Returns the heatmap logits of the streams as rows [R, P, 1]; None without any."""
        given = {name: item[name + MARK] for name in names if name + MARK in item}
        for name, mark in given.items():
            if (
                mark.dim() != 3
                or mark.shape[2] != 1
                or math.isqrt(mark.shape[1]) ** 2 != mark.shape[1]
            ):
                raise ConfigError(
                    f"{name}{MARK}: expected heatmap logits [B, S * S, 1] of a square view, got "
                    f"{list(mark.shape)}; flatten the map row by row and keep one channel"
                )
        if not given:
            return None
        like = next(iter(given.values()))
        return torch.cat([given.get(name, torch.zeros_like(like)) for name in names])

    def unroll(
        self,
        items: Streams,
        time_s: Tensor,
        state: State,
        is_first: Tensor,
        valid: Tensor,
        read_mask: Tensor | None = None,
        item_of: Callable[[Streams, Streams], Streams] | None = None,
    ) -> tuple[Streams, State]:
        """Runs T ticks; see the base class.

        On a CPU slots that no row can have filled yet are left out, which looks at the data.
        """
        if not self.groups or not looks_at_data(time_s):
            return super().unroll(items, time_s, state, is_first, valid, read_mask, item_of)
        counts = [state[f"{name}.count"].max() for _, names in self._banks() for name in names]
        start = int(torch.stack(counts).max())
        values: dict[str, list[Tensor]] = {name: [] for name in self.streams}
        for t in range(time_s.shape[1]):
            query = {name: tensor[:, t] for name, tensor in items.items()}
            value, reset = query, is_first[:, t] & valid[:, t]
            if start + t:
                filled = {k: v[:, : start + t] if v.dim() > 1 else v for k, v in state.items()}
                value, _ = self.read(query, time_s[:, t], filled, reset)
            use = valid[:, t] if read_mask is None else valid[:, t] & read_mask[:, t]
            value = {name: where_rows(use, value[name], query[name]) for name in self.streams}
            item = query if item_of is None else item_of(query, value)
            written = self.write({"reset": reset}, item, time_s[:, t], state)
            state = {k: where_rows(valid[:, t], written[k], state[k]) for k in state}
            for name, tensor in value.items():
                values[name].append(tensor)
        return {name: torch.stack(ticks, dim=1) for name, ticks in values.items()}, state

    def clear(self, state: State, reset: Tensor) -> State:
        """Empties the rows in `reset`."""
        return {k: where_rows(reset, torch.zeros_like(v), v) for k, v in state.items()}

    def capacity_of(self, state: State) -> int | None:
        """Returns the slots of every stream."""
        sizes = [int(state[f"{n}.time_s"].shape[1]) for _, names in self._banks() for n in names]
        return max(sizes, default=None)

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes of the slots in use, with the counters, over all rows."""
        return sum(_rows(state, names).nbytes_filled() for _, names in self._banks())

    @torch.no_grad()
    def inspect(self, query: Streams, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Explains a read.

        Returns:
          For each stream s: ``s.attention`` [B, layers, N, M], the weight each token puts on
          each slot (mean over heads, sum over the slot's tokens; zero for an empty bank),
          ``s.frames`` [B, M], its mean over layers and tokens, ``s.age_s`` [B, M], ``s.live``
          bool [B, M] and ``s.items`` [B, M].
        """
        report: dict[str, Tensor] = {}
        for bank, names in self._banks():
            weights: list[Tensor] = []
            keep = torch.zeros_like(time_s, dtype=torch.bool)
            self._read(bank, names, query, state, keep, weights)
            layers = torch.stack([w.mean(1).sum(-1) for w in weights], dim=1)
            for name, attention in zip(names, layers.chunk(len(names)), strict=True):
                slots = _slots(state, name)
                live = slots.live()
                attention = torch.where(live[:, None, None], attention, 0.0)
                age_s = time_s[:, None].to(slots.time_s.dtype) - slots.time_s
                report[f"{name}.attention"] = attention
                report[f"{name}.frames"] = attention.mean(dim=(1, 2))
                report[f"{name}.age_s"] = torch.where(live, age_s, 0.0)
                report[f"{name}.live"] = live
                report[f"{name}.items"] = slots.items
        return report

    def _banks(self) -> list[tuple[SpatialBank, list[str]]]:
        return [(self.banks[group], names) for group, names in self.groups.items()]  # type: ignore[misc]


def _side(name: str, tokens: int) -> int:
    """Returns G of a stream of G * G tokens."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ConfigError(
            f"spatial memory needs square maps of tokens, but stream {name!r} has {tokens} tokens; "
            "leave it out by naming the others in memory.remember, or choose "
            "memory=perceptual_cognitive"
        )
    return side


def _slots(state: State, name: str) -> Slots:
    return _rows(state, [name])


def _rows(state: State, names: list[str]) -> Slots:
    """Returns the slots of several streams as rows, stream after stream."""
    fields = [f.name for f in dataclasses.fields(Slots)]
    if len(names) == 1:
        return Slots(*(state[f"{names[0]}.{field}"] for field in fields))
    return Slots(*(torch.cat([state[f"{n}.{field}"] for n in names]) for field in fields))


def _pack(state: State, name: str, slots: Slots) -> None:
    for field in dataclasses.fields(Slots):
        state[f"{name}.{field.name}"] = getattr(slots, field.name)
