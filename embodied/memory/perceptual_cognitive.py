"""MemoryVLA's perceptual-cognitive bank: token-level retrieval from slots that merge.

Each stream ("perceptual" [N, D], "cognitive" [1, D], or any other name) has its own slots,
retrieval blocks, time encoding, capacity and merge decision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.types import State, Streams
from embodied.memory.bank import PerceptualCognitiveConfig, StreamBank
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows
from embodied.memory.slots import Slots, store
from embodied.memory.timeline import unroll_reads


class PerceptualCognitiveMemory(Memory):
    """Banks of slots, one a stream; see the module docstring.

    State of each remembered stream s: ``s.tokens`` [B, M, N, D], ``s.time_s`` float32 [B, M],
    ``s.count`` int64 [B], ``s.items`` float32 [B, M], ``s.overflow`` int64 [B]; meanings in
    `embodied.memory.slots.Slots`.

    Args:
      streams: Stream name -> (N, D).
      config: Options.

    Source: MemoryVLA (arXiv 2508.19236), section 3.3 and its released code. Deviations: time is in
    seconds, the same in training and in use (the original trains on frame indices and runs
    on call counts); gradients may reach stored items; query and key projections start equal;
    similarities are rounded before the choice. Each is an option except the first and last.
    """

    config_class = PerceptualCognitiveConfig

    def __init__(
        self, streams: StreamShapes, config: PerceptualCognitiveConfig | None = None
    ) -> None:
        config = config or self.config_class()
        super().__init__(streams, config.capacity)
        self.config = config
        for option in ("remember", "capacities", "pool"):
            for name in getattr(config, option):
                if name not in self.streams:
                    raise unknown_name(f"stream in memory.{option}", name, self.streams)
        for option in ("capacities", "pool"):
            for name, number in getattr(config, option).items():
                if type(number) is not int or number < 1:
                    raise ConfigError(
                        f"memory.{option}.{name} must be a whole number >= 1, got {number!r}"
                    )
        names = [n for n in self.streams if not config.remember or n in config.remember]
        self.banks = nn.ModuleDict(
            {name: StreamBank(name, *self.streams[name], config) for name in names}
        )
        for name in names:
            slots = config.capacities.get(name, self.capacity)
            if 0 < slots <= config.anchor:
                raise ConfigError(
                    f"memory.anchor={config.anchor} pins all of the {slots} slots of {name}, so "
                    "that nothing else could be stored; use a capacity of at least "
                    f"{config.anchor + 1}"
                )
        self.initial(1)

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty slots; `capacity` overrides the slots of every stream."""
        state: State = {}
        for name, bank in self._banks():
            slots = self.config.capacities.get(name, self.capacity)
            slots = slots if capacity is None else capacity
            like = next(bank.parameters())
            _pack(state, name, Slots.empty(batch, slots, bank.stored_tokens, bank.width, like))
        return state

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Retrieves from the slots of earlier ticks; see ``empty_read`` for an empty bank."""
        value = dict(query)
        for name, bank in self._banks():
            value[name], _ = bank.read(query[name], time_s, _slots(state, name), reset)
        return value, {"reset": reset}

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Appends the item, or merges or drops where a row is full."""
        return self._write(pending["reset"], item, time_s, state, None)

    def _banks(self) -> list[tuple[str, StreamBank]]:
        return list(self.banks.items())  # type: ignore[arg-type]

    def _write(
        self, reset: Tensor, item: Streams, time_s: Tensor, state: State, valid: Tensor | None
    ) -> State:
        new: State = {}
        for name, bank in self._banks():
            stored = item[name].detach() if self.config.detach else item[name]
            before = _slots(state, name)
            item_s, rates = bank.pooled(stored), bank.forget_hz(before.tokens)
            _pack(new, name, store(before, item_s, time_s, bank.rule, reset, valid, rates))
        return new

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

        Without `item_of` what is stored does not depend on what is read, so the banks'
        histories are worked out first and every tick reads in one masked attention.
        """
        reset = is_first & valid
        use = valid if read_mask is None else valid & read_mask
        if item_of is None:
            values = dict(items)
            new: State = {}
            for name, bank in self._banks():
                stored = items[name].detach() if self.config.detach else items[name]
                values[name], after = unroll_reads(
                    bank,
                    items[name],
                    bank.pooled(stored),
                    time_s,
                    _slots(state, name),
                    reset,
                    valid,
                    use,
                )
                _pack(new, name, after)
            return values, new
        ticks: list[Streams] = []
        for t in range(time_s.shape[1]):
            query = {name: tensor[:, t] for name, tensor in items.items()}
            value, _ = self.read(query, time_s[:, t], state, reset[:, t])
            value = {n: where_rows(use[:, t], v, query[n]) for n, v in value.items()}
            item = item_of(query, value)
            state = self._write(reset[:, t], item, time_s[:, t], state, valid[:, t])
            ticks.append(value)
        return {n: torch.stack([tick[n] for tick in ticks], dim=1) for n in items}, state

    def clear(self, state: State, reset: Tensor) -> State:
        """Empties the rows in `reset`, keeping each stream's own capacity."""
        return {k: where_rows(reset, torch.zeros_like(v), v) for k, v in state.items()}

    def capacity_of(self, state: State) -> int | None:
        """Returns the slots of the largest stream."""
        sizes = [int(state[f"{name}.time_s"].shape[1]) for name in self.banks]
        return max(sizes, default=None)

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes of the slots in use, with the counters, over all rows."""
        return sum(_slots(state, name).nbytes_filled() for name in self.banks)

    @torch.no_grad()
    def inspect(self, query: Streams, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Explains a read.

        Returns:
          For each stream s: ``s.attention`` [B, layers, N, M], the weight each token puts on
          each slot (mean over heads, sum over the slot's tokens; zero for an empty bank),
          ``s.age_s`` [B, M], ``s.live`` bool [B, M] and ``s.items`` [B, M].
        """
        report: dict[str, Tensor] = {}
        for name, bank in self._banks():
            slots = _slots(state, name)
            live = slots.live()
            _, attention = bank.read(query[name], time_s, slots, torch.zeros_like(live[:, 0]))
            weights = torch.stack([w.mean(1).sum(-1) for w in attention], dim=1)
            report[f"{name}.attention"] = torch.where(live[:, None, None], weights, 0.0)
            report[f"{name}.age_s"] = torch.where(
                live, time_s[:, None].to(slots.time_s.dtype) - slots.time_s, 0.0
            )
            report[f"{name}.live"] = live
            report[f"{name}.items"] = slots.items
        return report


def _slots(state: State, name: str) -> Slots:
    return Slots(*(state[f"{name}.{f.name}"] for f in dataclasses.fields(Slots)))


def _pack(state: State, name: str, slots: Slots) -> None:
    for field in dataclasses.fields(Slots):
        state[f"{name}.{field.name}"] = getattr(slots, field.name)
