"""One stream's bank: its options, its retrieval blocks, and the rule by which it stores."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.memory.base import where_rows
from embodied.memory.slots import Slots, StoreRule, decay
from embodied.nn.attention import RetrievalBlock
from embodied.nn.position import TimeEncoding

EMPTY_READS = ("query", "self")

FORGET_AT_START = -5.0
"""Before the soft-plus: rates start at 0.0067 a second, so that a minute halves nothing twice
and reads begin as they are without rates."""


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
      projections: Learned query, key and value maps (published code); False compares tokens as
        they are (paper).
      qk_init: ``"equal"`` or ``"independent"`` (published); see `RetrievalBlock`.
      overflow: ``"similar"`` merges the most similar neighbours, ``"fifo"`` drops the oldest,
        ``"retention"`` what a learned rate has let decay furthest: each item gets a rate of
        forgetting when it is stored, which also lowers the scores of its reads.
      anchor: So many first items of an episode are never merged or dropped (published: 0).
      merged_time: ``"earlier"`` (published) or ``"mean"`` (successor).
      similarity: Of neighbours: ``"tokens"``, mean of the cosines of their tokens (published
        code), or ``"entry"``, cosine of the whole (paper).
      count_weighted: Weighs merged slots by their number of items (published: False).
      detach: Stored items get no gradient (published). False trains through memory.
      skip_zero_tokens: Tokens stored as exact zeros stand for nothing (a masked entity) and
        are never read.
      time_encoding: Adds an encoding of the stored time to keys.
      time_scale_hz: Units of that encoding in a second; the control rate gives frame indices.
      time_network: A two-layer network behind the sinusoid (published code); False adds the
        sinusoid itself (paper).
      time_features: Width of the sinusoid before its network; 0 for a quarter of the stream's
        width (published; successor: 256).
      empty_read: What an empty bank answers: ``"query"`` (published) or ``"self"``: the tick
        reads itself (successor).
    """

    capacity: int = 16
    capacities: dict[str, int] = dataclasses.field(default_factory=dict)
    remember: list[str] = dataclasses.field(default_factory=list)
    pool: dict[str, int] = dataclasses.field(default_factory=dict)
    pool_maps: int = 1
    layers: int = 2
    heads: int = 1
    dropout: float = 0.0
    projections: bool = True
    qk_init: str = "equal"
    overflow: str = "similar"
    anchor: int = 0
    merged_time: str = "earlier"
    similarity: str = "tokens"
    count_weighted: bool = False
    detach: bool = False
    skip_zero_tokens: bool = True
    time_encoding: bool = True
    time_scale_hz: float = 1.0
    time_network: bool = True
    time_features: int = 0
    empty_read: str = "query"


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
        self.rule = StoreRule(
            config.overflow,
            config.merged_time,
            config.count_weighted,
            config.similarity,
            config.anchor,
        )
        self.skip_zero_tokens = config.skip_zero_tokens
        if config.empty_read not in EMPTY_READS:
            raise unknown_name("memory.empty_read", config.empty_read, EMPTY_READS)
        self.reads_itself = config.empty_read == "self"
        if config.time_features < 0:
            raise ConfigError(f"memory.time_features must be >= 0, got {config.time_features}")
        self.time = None
        if config.time_encoding:
            features = config.time_features or None
            self.time = TimeEncoding(width, features, config.time_scale_hz, config.time_network)
        self.forget: nn.Linear | None = None
        if config.overflow == "retention":
            self.forget = nn.Linear(width, 1)
            nn.init.zeros_(self.forget.weight)
            nn.init.constant_(self.forget.bias, FORGET_AT_START)
        self.blocks = nn.ModuleList(
            RetrievalBlock(
                width,
                config.heads,
                config.dropout,
                qk_init=config.qk_init,
                projections=config.projections,
            )
            for _ in range(config.layers)
        )

    def layers(self) -> list[RetrievalBlock]:
        """Returns the retrieval blocks in order."""
        return list(self.blocks)  # type: ignore[arg-type]

    def read(
        self, query: Tensor, time_s: Tensor, slots: Slots, reset: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Reads the slots.

        Args:
          query: [B, N, D].
          time_s: [B] seconds of the episode.
          slots: What is stored.
          reset: [B] bool; rows whose slots count as empty.

        Returns:
          [B, N, D] of the query's dtype, and each block's attention weights.
        """
        live = slots.live(reset)[..., None] & self.present(slots.tokens)
        code = None if self.time is None else self.time(slots.time_s)
        rates, bias = self.forget_hz(slots.tokens), None
        if rates is not None:
            bias = decay(time_s[:, None], slots.time_s, rates)
        value, attention = query, []
        for block in self.layers():
            value, weights = block(value, slots.tokens, code, live, bias)
            attention.append(weights)
        found = live.flatten(1).any(dim=1)
        return where_rows(found, value.to(query.dtype), self.neutral(query, time_s)), attention

    def neutral(self, query: Tensor, time_s: Tensor) -> Tensor:
        """Returns what an empty bank answers to `query` [..., N, D] at `time_s` [...]."""
        if not self.reads_itself:
            return query
        flat = query.flatten(0, -3)
        item = self.pooled(flat)[:, None]
        live = self.present(item)
        code = None if self.time is None else self.time(time_s.reshape(-1, 1))
        value = flat
        for block in self.layers():
            value, _ = block(value, item, code, live)
        return where_rows(live.flatten(1).any(dim=1), value, flat).view_as(query).to(query.dtype)

    def forget_hz(self, tokens: Tensor) -> Tensor | None:
        """Returns the rate of forgetting [...] of items [..., N, D]; None without retention."""
        if self.forget is None:
            return None
        with torch.autocast(tokens.device.type, enabled=False):
            mean = tokens.to(self.forget.weight.dtype).mean(dim=-2)
            rate: Tensor = F.softplus(self.forget(mean)[..., 0])
        return rate

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
