"""Options of hierarchical chunk attention."""

from __future__ import annotations

import dataclasses

from embodied.core.errors import ConfigError
from embodied.memory.chunk_slots import check_eviction
from embodied.nn.chunk_attention import check_read


@dataclasses.dataclass
class HierarchicalChunksConfig:
    """Options of hierarchical chunk attention. "Released" is HCAM's released code.

    Attributes:
      width: D, size of the vectors, of pooled items and of the layers.
      capacity: M, default number of finished chunks that a layer keeps.
      chunk: C, ticks of a chunk.
      window: W, ticks that a layer's local attention sees, the present included. At least
        `chunk`: the ticks of the unfinished chunk are nowhere else.
      top_k: k, chunks read; at most `capacity`.
      layers: L. The paper has 4.
      heads: H, of the window and inside chunks; relevance has one. Divides the width.
      ffn_ratio: Hidden size of the feed-forward layers over the width.
      relevance_norm: ``"topk"``: weights are a softmax over the chosen chunks (released);
        ``"all"``: over all, so that they sum to less than 1 (paper). With top_k=1 and "topk"
        the weight is always 1, and what is relevant is never learnt.
      position_code: Tells the ticks of a chunk apart by their age within it (released).
      eviction: What a full memory gives up for a new chunk: ``"fifo"`` the oldest,
        ``"least_selected"`` the one that was read longest ago, ``"retention"`` what a learned
        rate has let decay furthest, which also lowers its relevance.
      detach: Vectors in chunks get no gradient (published). False lets those written in the
        segment have one.
      detach_window: The same for past vectors in the window.
      qk_init: ``"equal"`` or ``"independent"`` (released); see `WindowAttention`.
      pool_queries: Attention maps a stream when tokens are pooled.
      time_encoding: Adds an encoding of the time to what comes in.
      time_scale_hz: Units of that encoding in a second.
    """

    width: int = 128
    capacity: int = 64
    chunk: int = 8
    window: int = 8
    top_k: int = 4
    layers: int = 2
    heads: int = 4
    ffn_ratio: int = 4
    relevance_norm: str = "topk"
    position_code: bool = True
    eviction: str = "fifo"
    detach: bool = False
    detach_window: bool = False
    qk_init: str = "equal"
    pool_queries: int = 4
    time_encoding: bool = True
    time_scale_hz: float = 1.0

    def check(self) -> None:
        """Refuses options that do not fit together.

        Raises:
          ConfigError: Naming the option.
        """
        if self.chunk < 1:
            raise ConfigError(f"memory.chunk must be >= 1 tick, got {self.chunk}")
        if self.window < self.chunk:
            raise ConfigError(
                f"memory.window must be >= memory.chunk={self.chunk} ticks, got {self.window}: "
                "chunks are read once they are finished, so the window must reach over the "
                "unfinished one"
            )
        check_read(self.top_k, self.capacity, self.relevance_norm)
        check_eviction(self.eviction)
