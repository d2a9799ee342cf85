"""A gated recurrent unit as memory: one hidden vector a row, whatever the episode's length."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from embodied.core.types import State
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import StreamShapes
from embodied.memory.cells import run_gru
from embodied.memory.recurrent import RecurrentVector, Shapes
from embodied.nn.position import TimeEncoding


@dataclasses.dataclass
class GRUConfig:
    """Options of the recurrent memory.

    Attributes:
      width: Size of the hidden vector and of pooled items.
      reads_present: A read returns the hidden vector that has taken the present in, as in
        recurrent agents; False returns the one before, which knows earlier ticks only.
      pool_queries: Attention maps a stream when tokens are pooled.
      detach: Stored items get no gradient; the recurrence itself still does.
      time_encoding: Adds an encoding of the time to what is stored.
      time_scale_hz: Units of that encoding in a second.
    """

    width: int = 256
    reads_present: bool = False
    pool_queries: int = 4
    detach: bool = False
    time_encoding: bool = True
    time_scale_hz: float = 1.0


class GRUVector(RecurrentVector):
    """State: ``hidden`` [B, V] and ``count`` int64 [B], the items stored since the reset.

    Args:
      width: V.
      time_encoding: Adds an encoding of the time to stored items.
      time_scale_hz: Units of that encoding in a second.
      reads_present: As in `GRUConfig`.
    """

    def __init__(
        self,
        width: int,
        time_encoding: bool = True,
        time_scale_hz: float = 1.0,
        reads_present: bool = False,
    ) -> None:
        super().__init__(width, reads_present)
        self.cell = nn.GRUCell(width, width)
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None

    def shapes(self) -> Shapes:
        """One hidden vector."""
        return {"hidden": (self.width,)}

    def advance(self, item: Tensor, vectors: State) -> State:
        """Updates the hidden vector with an item."""
        return {"hidden": self.cell(item, vectors["hidden"])}

    def run(
        self, items: Tensor, vectors: State, first: Tensor, valid: Tensor
    ) -> tuple[Tensor, State]:
        """Runs T ticks at once."""
        after, hidden = run_gru(self.cell, items, vectors["hidden"], first, valid)
        return after, {"hidden": hidden}

    def answer(self, vectors: State) -> Tensor:
        """The hidden vector."""
        return vectors["hidden"]


class GRUMemory(VectorAdapter):
    """The recurrent memory behind the contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = GRUConfig
    OWN = ("pool_queries", "detach")

    def __init__(self, streams: StreamShapes, config: GRUConfig | None = None) -> None:
        config = config or GRUConfig()
        inner = GRUVector(
            config.width, config.time_encoding, config.time_scale_hz, config.reads_present
        )
        super().__init__(streams, inner, config.pool_queries, config.detach)
        self.config = config
