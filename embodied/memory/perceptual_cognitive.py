"""MemoryVLA's perceptual-cognitive bank: token-level retrieval from slots that merge.

Each stream ("perceptual" [N, D], "cognitive" [1, D], or any other name) has its own slots,
retrieval blocks, time encoding, capacity and merge decision.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows
from embodied.memory.slots import Slots, StoreRule, store
from embodied.memory.timeline import unroll_reads
from embodied.nn.attention import RetrievalBlock
from embodied.nn.position import TimeEncoding


@dataclasses.dataclass
class PerceptualCognitiveConfig:
    """Options of the bank. Published values are those of MemoryVLA's first code base.

    Attributes:
      capacity: Default number of slots of every stream (published: 16).
      capacities: Stream name -> its own default number of slots.
      remember: Streams that have a bank; the others pass unchanged. Empty means all.
      pool: Stream name -> side of the squares of tokens averaged before storing. The tokens
        must form a square map whose side it divides. Published: not pooled.
      pool_maps: The same for every other stream whose tokens form such a map.
      layers: Retrieval blocks (published: 2).
      heads: Attention heads (published: 1; successor: 4).
      dropout: In attention weights and feed-forward, in training only (published: 0).
      qk_init: ``"equal"`` or ``"independent"`` (published); see `RetrievalBlock`.
      overflow: ``"similar"`` merges the most similar neighbours, ``"fifo"`` drops the oldest.
      merged_time: ``"earlier"`` (published) or ``"mean"`` (successor).
      count_weighted: Weighs merged slots by their number of items (published: False).
      detach: Stored items get no gradient (published). False trains through memory.
      skip_zero_tokens: Tokens stored as exact zeros stand for nothing (a masked entity) and
        are never read.
      time_encoding: Adds an encoding of the stored time to keys.
      time_scale_hz: Units of that encoding in a second; the control rate gives frame indices.
    """

    capacity: int = 16
    capacities: dict[str, int] = dataclasses.field(default_factory=dict)
    remember: list[str] = dataclasses.field(default_factory=list)
    pool: dict[str, int] = dataclasses.field(default_factory=dict)
    pool_maps: int = 1
    layers: int = 2
    heads: int = 1
    dropout: float = 0.0
    qk_init: str = "equal"
    overflow: str = "similar"
    merged_time: str = "earlier"
    count_weighted: bool = False
    detach: bool = False
    skip_zero_tokens: bool = True
    time_encoding: bool = True
    time_scale_hz: float = 1.0


class StreamBank(nn.Module):
    """Parameters and store rule of one stream.

    Args:
      name: Stream name, for messages.
      tokens: N of the stream.
      width: D of the stream.
      config: Options of the bank.
    """

    def __init__(
        self, name: str, tokens: int, width: int, config: PerceptualCognitiveConfig
    ) -> None:
        super().__init__()
        if config.layers < 1:
            raise ConfigError(f"layers of a memory bank must be >= 1, got {config.layers}")
        if config.pool_maps < 1:
            raise ConfigError(f"memory.pool_maps must be >= 1, got {config.pool_maps}")
        self.side = math.isqrt(tokens)
        fits = self.side**2 == tokens and self.side % config.pool_maps == 0
        self.pool = int(config.pool.get(name, config.pool_maps if fits else 1))
        if self.pool < 1 or (self.pool > 1 and (self.side**2 != tokens or self.side % self.pool)):
            raise ConfigError(
                f"memory.pool.{name}={self.pool} does not divide the stream's {tokens} tokens: "
                "they must form a square map whose side it divides; use 1 to store all tokens"
            )
        self.stored_tokens, self.width = tokens // self.pool**2, width
        self.rule = StoreRule(config.overflow, config.merged_time, config.count_weighted)
        self.skip_zero_tokens = config.skip_zero_tokens
        self.time = (
            TimeEncoding(width, scale_hz=config.time_scale_hz) if config.time_encoding else None
        )
        self.blocks = nn.ModuleList(
            RetrievalBlock(width, config.heads, config.dropout, qk_init=config.qk_init)
            for _ in range(config.layers)
        )

    def layers(self) -> list[RetrievalBlock]:
        """Returns the retrieval blocks in order."""
        return list(self.blocks)  # type: ignore[arg-type]

    def read(self, query: Tensor, slots: Slots, reset: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns what `query` [B, N, D] retrieves, and each block's attention weights."""
        live = slots.live(reset)[..., None] & self.present(slots.tokens)
        code = None if self.time is None else self.time(slots.time_s)
        value, attention = query, []
        for block in self.layers():
            value, weights = block(value, slots.tokens, code, live)
            attention.append(weights)
        return where_rows(live.flatten(1).any(dim=1), value.to(query.dtype), query), attention

    def present(self, tokens: Tensor) -> Tensor:
        """Returns bool [..., N]: stored tokens [..., N, D] that may be read."""
        if self.skip_zero_tokens:
            return (tokens != 0).any(dim=-1)
        return torch.ones_like(tokens[..., 0], dtype=torch.bool)

    def pooled(self, item: Tensor) -> Tensor:
        """Averages the tokens of [..., N, D] over squares, as they are stored."""
        if self.pool == 1:
            return item
        grid = item.reshape(-1, self.side, self.side, self.width).permute(0, 3, 1, 2)
        small = F.avg_pool2d(grid, self.pool).flatten(2).transpose(1, 2)
        return small.reshape(*item.shape[:-2], self.stored_tokens, self.width)


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
        names = [n for n in self.streams if not config.remember or n in config.remember]
        self.banks = nn.ModuleDict(
            {name: StreamBank(name, *self.streams[name], config) for name in names}
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
        """Retrieves from the slots of earlier ticks; an empty bank returns the query."""
        value = dict(query)
        for name, bank in self._banks():
            value[name], _ = bank.read(query[name], _slots(state, name), reset)
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
            after = store(before, bank.pooled(stored), time_s, bank.rule, reset, valid)
            _pack(new, name, after)
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
        total = 0
        for name in self.banks:
            slots = _slots(state, name)
            used = int(slots.count.sum())
            for tensor in (slots.tokens, slots.time_s, slots.items):
                total += used * tensor[0, 0].numel() * tensor.element_size()
            for tensor in (slots.count, slots.overflow):
                total += tensor.numel() * tensor.element_size()
        return total

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
            _, attention = bank.read(query[name], slots, torch.zeros_like(live[:, 0]))
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
