"""Memories that are stacks of layers, each of which stores what came into it.

A layer keeps its last inputs in a window. What is stored of a tick is known once the tick was
read, so acting runs the stack once a tick. In learning a layer needs the inputs of that layer
alone, so each runs over a whole segment at once.

Shape letters: B rows, T observation ticks, R asked ticks of a row, L layers, A past ticks of a
window, D width.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.types import State
from embodied.memory.base import Pending, where_rows
from embodied.memory.packed import Asked, Ticks, ask, pack, pick, place_into
from embodied.memory.vector import Record, StateSpec, VectorMemory, check_state
from embodied.nn.position import TimeEncoding
from embodied.nn.rows import looks_at_data
from embodied.nn.window_attention import WindowAttention, scaled_init

Part = dict[str, Tensor]
"""A layer's state under its own names."""

FEW = 0.5
"""Share of the ticks below which asked ticks are computed alone rather than with all others."""


@dataclasses.dataclass
class Tick:
    """What a layer knows of a tick beside its input.

    Attributes:
      age: int64 [B]; ticks of the episode before this one.
      time_s: float32 [B].
      reset: bool [B].
      look: bool [B]; rows that read what is costly to read. None: all.
    """

    age: Tensor
    time_s: Tensor
    reset: Tensor
    look: Tensor | None


class Layer(nn.Module, abc.ABC):
    """One layer of a `LayeredMemory`: state [B, ...] in, state out, of fixed shapes."""

    @abc.abstractmethod
    def initial(self, batch: int, capacity: int, like: Tensor) -> Part:
        """Returns the empty state."""

    @abc.abstractmethod
    def step(self, x: Tensor, part: Part, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """Returns [B, D] for [B, D], and what `store` needs."""

    @abc.abstractmethod
    def store(self, kept: dict[str, Any], part: Part, tick: Tick, donate: bool) -> Part:
        """Stores the input of a step."""

    @abc.abstractmethod
    def unroll(
        self,
        x: Tensor,
        stored: Tensor | None,
        part: Part,
        ticks: Ticks,
        asked: Asked | None,
        look: Tensor | None,
    ) -> tuple[Tensor, Part]:
        """Runs a segment of packed ticks.

        Args:
          x: [B, T, D], or [B, R, D] for the ticks `asked` alone.
          stored: [B, T, D], what is stored of each tick; None: `x` itself.
          part: State before.
          ticks: The packed ticks.
          asked: The ticks of `x`; None: all.
          look: bool [B, T] as in `Tick`; None: all.

        Returns:
          The shape of `x`, and the state after.
        """

    @abc.abstractmethod
    def explain(self, kept: dict[str, Any], part: Part, tick: Tick) -> dict[str, Tensor]:
        """Returns named tensors that explain a step."""

    def asks_all(self) -> bool:
        """Whether what the layer keeps depends on its reads, so that no tick may be left out."""
        return False


class LayeredMemory(VectorMemory):
    """State: ``count`` int64 [B], ticks since the reset, and ``<i>.<name>`` of each layer i.

    Args:
      width: D.
      layers: The stack.
      capacity: Default slots of `initial`.
      time_encoding: Adds an encoding of the time to what comes in.
      time_scale_hz: Units of that encoding in a second.
    """

    def __init__(
        self,
        width: int,
        layers: Sequence[Layer],
        capacity: int,
        time_encoding: bool,
        time_scale_hz: float,
    ) -> None:
        super().__init__(width)
        if not layers:
            raise ConfigError("memory.layers must be >= 1, got 0")
        self.layers, self.capacity = nn.ModuleList(layers), capacity
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None
        self._known: dict[tuple[int, torch.dtype], StateSpec] = {}
        self._shapes(capacity)  # refuses a capacity out of range now

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty state; `capacity` counts what the memory's class says."""
        like = next(self.layers.parameters()).detach()
        capacity = self.capacity if capacity is None else capacity
        self._shapes(capacity)
        state: State = {"count": torch.zeros(batch, dtype=torch.int64, device=like.device)}
        for i, layer in self._layers():
            part = layer.initial(batch, capacity, like)
            state.update({f"{i}.{name}": tensor for name, tensor in part.items()})
        return state

    def read(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pending]:
        """Runs the stack on the present vector.

        Raises:
          SpecMismatch: For a state of another memory, size or dtype.
        """
        self._check(state, len(query))
        tick = self._tick(time_s, state, reset, read_mask)
        value, inputs, kept = self._run(query, tick, state)
        record = {"inputs": torch.stack(inputs, dim=1).detach()}
        pending: Pending = {"reset": reset, "record": record}
        return value.to(query.dtype), {**pending, "query": query, "tick": tick, "kept": kept}

    def write(
        self, pending: Pending, item: Tensor, time_s: Tensor, state: State, donate: bool = False
    ) -> State:
        """Stores what comes into each layer when the item goes through the stack."""
        tick, kept = pending["tick"], pending["kept"]
        if item is not pending["query"]:
            _, _, own = self._run(item, tick, state)
            kept = [{**read, "tokens": new["tokens"]} for read, new in zip(kept, own, strict=True)]
        donate = donate and not torch.is_grad_enabled()
        new: State = {"count": tick.age + 1}
        for i, layer in self._layers():
            part = layer.store(kept[i], _part(state, i), tick, donate)
            new.update({f"{i}.{name}": tensor for name, tensor in part.items()})
        return new

    def record_spec(self) -> dict[str, tuple[int, ...]]:
        """What came into each layer, ``inputs`` [L, D]."""
        return {"inputs": (len(self.layers), self.width)}

    def unroll(
        self,
        items: Tensor,
        time_s: Tensor,
        state: State,
        is_first: Tensor,
        valid: Tensor,
        read_mask: Tensor | None = None,
        *,
        wanted: Tensor | None = None,
        stored: Tensor | None = None,
        record: Record | None = None,
    ) -> tuple[Tensor, State]:
        """Runs T ticks, layer by layer.

        Raises:
          SpecMismatch: For a state or a record of another memory, size or dtype.
        """
        self._check(state, len(items))
        if stored is not None:
            return super().unroll(
                items, time_s, state, is_first, valid, read_mask, wanted=wanted, stored=stored
            )
        inputs = None if record is None else self._recorded(record, items)
        use = valid if wanted is None else valid & wanted
        ticks = pack(state["count"], is_first, valid, time_s)
        used = ticks.take(use)
        asked = self._asked(used)
        look = None if read_mask is None else ticks.take(read_mask)
        with torch.autocast(items.device.type, enabled=False):
            x = self._coded(torch.where(valid[..., None], items, 0.0), time_s)
            x = ticks.take(x)
            kept = None if inputs is None else ticks.take(inputs)
            new: State = {"count": ticks.end()[0]}
            for i, layer in self._layers():
                few = asked if kept is not None or i == len(self.layers) - 1 else None
                given = None if kept is None else kept[:, :, i]
                if given is not None and layer.asks_all():
                    # Of ticks whose values nobody wants the items may be missing, and their reads
                    # count: they are asked again as they were when acting.
                    x = torch.where(used[..., None], x, given)
                if few is not None and x.shape[1] == ticks.shape[1]:
                    given = x if given is None else given
                    x = pick(x, few.tick)
                x, part = layer.unroll(x, given, _part(state, i), ticks, few, look)
                new.update({f"{i}.{name}": tensor for name, tensor in part.items()})
        if asked is not None:
            x = place_into(x.new_zeros(*ticks.shape, self.width), asked, x)
        value = torch.where(use[..., None], ticks.put(x).to(items.dtype), items)
        return value, new

    def filled(self, state: State) -> Tensor:
        """Rows with at least one item."""
        filled: Tensor = state["count"] > 0
        return filled

    def inspect(self, query: Tensor, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Returns what explains a read, with ``layer<i>.`` in front for each layer i."""
        self._check(state, len(query))
        tick = self._tick(time_s, state, torch.zeros_like(state["count"], dtype=torch.bool), None)
        kept = self._run(query, tick, state)[2]
        return {
            f"layer{i}.{name}": tensor
            for i, layer in self._layers()
            for name, tensor in layer.explain(kept[i], _part(state, i), tick).items()
        }

    def _layers(self) -> list[tuple[int, Layer]]:
        return list(enumerate(self.layers))  # type: ignore[arg-type]

    def _tick(self, time_s: Tensor, state: State, reset: Tensor, read_mask: Tensor | None) -> Tick:
        age = torch.where(reset, 0, state["count"])
        return Tick(age, time_s.float(), reset, read_mask)

    def _coded(self, items: Tensor, time_s: Tensor) -> Tensor:
        """What goes into the first layer, never narrower than the weights."""
        items = items.to(next(self.layers.parameters()).dtype)
        return items if self.time is None else items + self.time(time_s)

    def _run(
        self, x: Tensor, tick: Tick, state: State
    ) -> tuple[Tensor, list[Tensor], list[dict[str, Any]]]:
        """Returns the value, what came into each layer, and what the layers keep for `store`.

        In the digits of the weights, as `unroll`: the ways to one read differ in narrow floats.
        """
        inputs, kept = [], []
        with torch.autocast(x.device.type, enabled=False):
            x = self._coded(x, tick.time_s)
            for i, layer in self._layers():
                inputs.append(x)
                x, own = layer.step(x, _part(state, i), tick)
                kept.append(own)
        return x, inputs, kept

    def _asked(self, use: Tensor) -> Asked | None:
        """Lists the ticks worth computing alone; None to compute all."""
        if not looks_at_data(use) or any(layer.asks_all() for _, layer in self._layers()):
            return None
        asked = ask(use, least=1)
        return asked if asked.tick.shape[1] <= FEW * use.shape[1] else None

    def _recorded(self, record: Record, items: Tensor) -> Tensor:
        shape = (*items.shape[:2], len(self.layers), self.width)
        inputs = record.get("inputs")
        if inputs is None or inputs.shape != shape:
            came = "nothing" if inputs is None else f"shape {tuple(inputs.shape)}"
            raise SpecMismatch(
                f'the record\'s "inputs" must have shape {shape} (rows, ticks, layers, width), got '
                f'{came}; keep pending["record"] of each tick as record_spec() describes it'
            )
        return inputs.detach().to(next(self.layers.parameters()).dtype)

    def _check(self, state: State, batch: int) -> None:
        """Refuses a state of another memory, size or dtype; looks at shapes alone."""
        known = self._shapes(self.capacity)
        capacity = self.capacity_of(state) if state.keys() == known.keys() else None
        wanted = known if capacity is None else self._shapes(capacity)
        check_state(state, wanted, batch)

    def _shapes(self, capacity: int) -> StateSpec:
        """Returns shape, without rows, and dtype of each tensor of a state."""
        key = capacity, next(self.layers.parameters()).dtype
        if key not in self._known:
            like = torch.empty(0, device="meta", dtype=key[1])
            shapes: StateSpec = {"count": ((), torch.int64)}
            for i, layer in self._layers():
                for name, tensor in layer.initial(1, capacity, like).items():
                    shapes[f"{i}.{name}"] = (tuple(tensor.shape[1:]), tensor.dtype)
            self._known[key] = shapes
        return self._known[key]


def feed_forward(width: int, ratio: int) -> nn.Sequential:
    """Returns LayerNorm, Linear, GELU, Linear, to be added to what goes in."""
    if ratio < 1:
        raise ConfigError(f"memory.ffn_ratio must be >= 1, got {ratio}")
    wide, narrow = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)
    scaled_init(wide)
    scaled_init(narrow)
    return nn.Sequential(nn.LayerNorm(width), wide, nn.GELU(), narrow)


class Window(nn.Module):
    """A layer's window of past inputs and the attention over it.

    State: ``window`` [B, A, D], the oldest first, zero where the episode is younger.

    Args:
      width: D.
      heads: Attention heads.
      usual: A + 1 that is usual.
      detach: Past inputs get no gradient, those of the segment included.
      qk_init: As in `WindowAttention`.
    """

    def __init__(self, width: int, heads: int, usual: int, detach: bool, qk_init: str) -> None:
        super().__init__()
        self.attention, self.detach = WindowAttention(width, heads, usual, qk_init), detach

    def tokens(self, x: Tensor, window: Tensor, tick: Tick) -> tuple[Tensor, Tensor]:
        """Returns the window with the present behind it, [B, A + 1, D], and what is live in it."""
        past = where_rows(tick.reset, torch.zeros_like(window), window)
        tokens = torch.cat([past.to(x.dtype), x[:, None]], dim=1)
        ages = torch.arange(window.shape[1], -1, -1, device=x.device)
        return tokens, ages <= tick.age[:, None]

    def forward(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Attends at one tick: [B, A + 1, D] to [B, D], and the weights [B, H, A + 1]."""
        return self.attention.attend(tokens, live)

    def explain(self, kept: dict[str, Any], tick: Tick) -> dict[str, Tensor]:
        """Returns how much a step attended to each past tick, the oldest first.

        Returns:
          ``attention`` [B, 1, 1, A], the mean over heads; ``live`` bool [B, A], the ticks there
          are, in front; ``items`` [B, A], 1 for each; ``age_ticks`` int64 [B, A]; and ``self``
          [B], the attention to the present.
        """
        weights = kept["attention"].mean(1)
        A = weights.shape[1] - 1
        place = torch.arange(A, device=weights.device)
        there = tick.age.clamp(max=A)[:, None]
        live = place < there
        index = (A - there + place).clamp(max=max(A - 1, 0))
        return {
            "attention": torch.where(live, weights[:, :-1].gather(1, index), 0.0)[:, None, None],
            "live": live,
            "items": live.to(weights.dtype),
            "age_ticks": torch.where(live, there - place, 0),
            "self": weights[:, -1],
        }

    def after(self, tokens: Tensor, window: Tensor) -> Tensor:
        """Returns the window that the present has joined."""
        kept = tokens[:, 1:].to(window.dtype)
        return kept.detach() if self.detach else kept

    def unroll(
        self, x: Tensor, stored: Tensor | None, window: Tensor, ticks: Ticks, asked: Asked | None
    ) -> Tensor:
        """Attends at the ticks of `x`; arguments as in `Layer.unroll`."""
        past = window.to(x.dtype)
        if asked is None:
            kept = x.detach() if stored is None and self.detach else stored
            kept = kept.detach() if kept is not None and self.detach else kept
            value: Tensor = self.attention.band(x, past, kept, ticks.age)
            return value
        assert stored is not None, "few ticks were asked for, and what was stored of all is needed"
        (B, R, D), A = x.shape, window.shape[1]
        pool = torch.cat([past, stored.detach() if self.detach else stored], dim=1)
        lag = torch.arange(A, device=x.device)
        tokens = torch.cat([pick(pool, asked.tick[..., None] + lag), x[:, :, None]], dim=2)
        live = torch.arange(A, -1, -1, device=x.device) <= pick(ticks.age, asked.tick)[..., None]
        flat, _ = self.attention.attend(tokens.view(B * R, A + 1, D), live.view(B * R, A + 1))
        return flat.view(B, R, D)

    def end(self, stored: Tensor, window: Tensor, ticks: Ticks) -> Tensor:
        """Returns the window after a segment of stored vectors [B, T, D]."""
        A = window.shape[1]
        pool = torch.cat([window, stored.to(window.dtype)], dim=1)
        lag = torch.arange(A, device=window.device)
        last = pick(pool, ticks.count[:, None] + lag)
        alive = (A - lag) <= ticks.end()[0][:, None]
        kept = torch.where(alive[..., None], last, 0.0)
        return kept.detach() if self.detach else kept


def _part(state: State, i: int) -> Part:
    prefix = f"{i}."
    return {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}
