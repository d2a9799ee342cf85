"""The weights and rules of SAM2Act+'s bank that streams of one shape share, and its options.

Shape letters: R rows (batch times streams of the shape), M slots, G side of the map, N = G * G
tokens, D width, C width of stored tokens, P pixels of a heatmap, H heads.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.memory.base import where_rows
from embodied.memory.slots import Slots
from embodied.memory.spatial_attention import MemoryAttention
from embodied.memory.spatial_encoder import STRIDE, MemoryEncoder, sine_code

READS = ("window", "all")

TEMPORAL_STD = 0.02
"""Spread of the temporal codes at the start, as in SAM 2."""


@dataclasses.dataclass
class SpatialConfig:
    """Options of the spatial memory. Published values are those of SAM2Act+'s released code.

    Attributes:
      capacity: Default number of slots of every stream (published: 9).
      window: Steps back that have a temporal code of their own (published: 9). It is the shape
        of a weight; the number of slots is not.
      read: ``"window"`` reads stored maps up to `window` steps old, and the anchored ones
        (published); ``"all"`` reads every stored map. Older ones take the last temporal code.
      anchor: So many first items of an episode are never dropped (published: 0).
      remember: Streams that have a bank; the others pass unchanged. Empty means all.
      layers: Memory attention layers (published: 4).
      heads: Attention heads (published: 1).
      feedforward: Hidden channels of the feed-forward layers (published: 2048).
      dropout: On attention weights, residual branches and hidden channels, in training only
        (published: 0.1).
      entry_width: Width of stored tokens (published: 64).
      encoder_blocks: ConvNeXt blocks of the memory encoder (published: 2).
      position_scale: Weight of the present's positional code in the query (published: 0.1).
      locality: How much more, at the start, a place of the map reads of itself in stored maps
        than of its neighbours, in attention scores (published: 0, attention starts even).
      detach: Stored features and heatmaps get no gradient; the encoder itself still learns.
        False (published) trains through memory.
    """

    capacity: int = 9
    window: int = 9
    read: str = "window"
    anchor: int = 0
    remember: list[str] = dataclasses.field(default_factory=list)
    layers: int = 4
    heads: int = 1
    feedforward: int = 2048
    dropout: float = 0.1
    entry_width: int = 64
    encoder_blocks: int = 2
    position_scale: float = 0.1
    locality: float = 0.0
    detach: bool = False

    def __post_init__(self) -> None:
        if self.read not in READS:
            raise unknown_name("memory.read", self.read, READS)
        for name in ("window", "layers", "feedforward", "entry_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"memory.{name} must be >= 1, got {getattr(self, name)}")
        for name in ("anchor", "encoder_blocks"):
            if getattr(self, name) < 0:
                raise ConfigError(f"memory.{name} must be >= 0, got {getattr(self, name)}")
        if self.locality < 0:
            raise ConfigError(f"memory.locality must be >= 0, got {self.locality}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"memory.dropout must be within [0, 1), got {self.dropout}")
        if 0 < self.capacity <= self.anchor:
            raise ConfigError(
                f"memory.anchor={self.anchor} pins all of the {self.capacity} slots, so that "
                f"nothing else could be stored; use a capacity of at least {self.anchor + 1}"
            )


class SpatialBank(nn.Module):
    """Memory encoder, memory attention and temporal codes.

    Args:
      side: G.
      width: D.
      config: Options.
    """

    position: Tensor
    place: Tensor

    def __init__(self, side: int, width: int, config: SpatialConfig) -> None:
        super().__init__()
        self.config, self.side = config, side
        self.encoder = MemoryEncoder(side, width, config.entry_width, config.encoder_blocks)
        self.attention = MemoryAttention(
            side,
            width,
            config.entry_width,
            config.layers,
            config.heads,
            config.feedforward,
            config.dropout,
            config.position_scale,
            config.locality,
        )
        self.temporal = nn.Parameter(torch.empty(config.window, config.entry_width))
        nn.init.trunc_normal_(self.temporal, std=TEMPORAL_STD)
        self.register_buffer("position", sine_code(side, width), persistent=False)
        self.register_buffer("place", sine_code(side, config.entry_width), persistent=False)

    def steps_ago(self, slots: Slots) -> Tensor:
        """Returns int64 [R, M]: how many writes ago each slot in use was stored; 1 is the last."""
        slot = torch.arange(slots.tokens.shape[1], device=slots.count.device)
        ago = slots.count[:, None] - slot
        # What was dropped stood between the anchored slots and the others.
        return torch.where(self._anchored(slot), ago + slots.overflow[:, None], ago)

    def _anchored(self, slot: Tensor) -> Tensor:
        return slot < min(self.config.anchor, slot.shape[0] - 1)

    def readable(self, slots: Slots, reset: Tensor) -> Tensor:
        """Returns bool [R, M]: slots that a read sees, none in rows of `reset` [R]."""
        live = slots.live(reset)
        if self.config.read == "all":
            return live
        slot = torch.arange(live.shape[1], device=live.device)
        return live & ((self.steps_ago(slots) <= self.config.window) | self._anchored(slot))

    def read(
        self,
        query: Tensor,
        position: Tensor,
        slots: Slots,
        reset: Tensor,
        explain: list[Tensor] | None = None,
    ) -> Tensor:
        """Reads the slots.

        Args:
          query: [R, N, D].
          position: Positional code of the query's tokens, broadcastable to [R, N, D].
          slots: What is stored.
          reset: [R] bool; rows whose slots count as empty.
          explain: Gets each layer's weights [R, H, N, M, N] appended.

        Returns:
          [R, N, D] of the query's dtype; the query itself in rows without a readable slot.
        """
        seen = self.readable(slots, reset)
        code = F.embedding(
            (self.steps_ago(slots) - 1).clamp(0, self.config.window - 1), self.temporal
        )
        keys = slots.tokens + self.place + code[:, :, None]
        value = self.attention(query, position, keys, slots.tokens, seen, explain)
        return where_rows(seen.any(dim=1), value.to(query.dtype), query)

    def encode(self, features: Tensor, marks: Tensor | None) -> Tensor:
        """Returns the entries [R, N, C] of features [R, N, D] and heatmap logits [R, P, 1]."""
        if marks is None:
            pixels = STRIDE * self.side
            return self._encode(features, features.new_zeros(1, pixels, pixels))
        side = math.isqrt(marks.shape[1])
        return self._encode(features, marks.reshape(-1, side, side))

    def _encode(self, features: Tensor, logits: Tensor) -> Tensor:
        if self.config.detach:
            features, logits = features.detach(), logits.detach()
        entry: Tensor = self.encoder(features, logits)
        return entry
