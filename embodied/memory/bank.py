"""One stream's bank: its options, its retrieval blocks, and the rule by which it stores."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.memory.base import where_rows
from embodied.memory.slots import Slots, StoreRule
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
