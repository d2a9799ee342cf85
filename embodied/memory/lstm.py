"""Long short-term memory: hidden and cell vectors a row, whatever the episode's length."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import StreamShapes
from embodied.memory.cells import run_lstm
from embodied.memory.recurrent import RecurrentVector, Shapes
from embodied.nn.position import TimeEncoding


@dataclasses.dataclass
class LSTMConfig:
    """Options of the recurrent memory.

    Attributes:
      width: Size of the hidden and cell vectors and of pooled items.
      layers: Cells on top of one another.
      reads_present: A read returns the hidden vector that has taken the present in, as in
        recurrent agents; False returns the one before, which knows earlier ticks only.
      pool_queries: Attention maps a stream when tokens are pooled.
      detach: Stored items get no gradient; the recurrence itself still does.
      time_encoding: Adds an encoding of the time to what is stored.
      time_scale_hz: Units of that encoding in a second.
    """

    width: int = 256
    layers: int = 1
    reads_present: bool = True
    pool_queries: int = 4
    detach: bool = False
    time_encoding: bool = True
    time_scale_hz: float = 1.0


class LSTMVector(RecurrentVector):
    """State: ``hidden`` and ``cell`` [B, L, V], and ``count`` int64 [B], items since the reset.

    c' = f c + i g, h' = o tanh(c'), with i, f, g, o from (x, h); a layer's x is the h' below it.

    Args:
      width: V.
      layers: L.
      reads_present: As in `LSTMConfig`.
      time_encoding: Adds an encoding of the time to stored items.
      time_scale_hz: Units of that encoding in a second.

    Source: Long Short-Term Memory (Hochreiter and Schmidhuber 1997), with forget gates.
    """

    def __init__(
        self,
        width: int,
        layers: int = 1,
        reads_present: bool = True,
        time_encoding: bool = True,
        time_scale_hz: float = 1.0,
    ) -> None:
        super().__init__(width, reads_present)
        if layers < 1:
            raise ConfigError(f"layers of memory lstm must be >= 1, got {layers}")
        self.cells = nn.ModuleList(nn.LSTMCell(width, width) for _ in range(layers))
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None

    def shapes(self) -> Shapes:
        """A hidden and a cell vector a layer."""
        return dict.fromkeys(("hidden", "cell"), (len(self.cells), self.width))

    def advance(self, item: Tensor, vectors: State) -> State:
        """Lets an item through all layers."""
        x, hidden, memory = item, [], []
        for i, cell in enumerate(self.cells):
            x, c = cell(x, (vectors["hidden"][:, i], vectors["cell"][:, i]))
            hidden.append(x)
            memory.append(c)
        return {"hidden": torch.stack(hidden, dim=1), "cell": torch.stack(memory, dim=1)}

    def run(
        self, items: Tensor, vectors: State, first: Tensor, valid: Tensor
    ) -> tuple[Tensor, State]:
        """Runs T ticks layer by layer."""
        x, hidden, memory = items, [], []
        for i, cell in enumerate(self.cells):
            assert isinstance(cell, nn.LSTMCell)
            start = vectors["hidden"][:, i], vectors["cell"][:, i]
            x, h, c = run_lstm(cell, x, *start, first, valid)
            hidden.append(h)
            memory.append(c)
        return x, {"hidden": torch.stack(hidden, dim=1), "cell": torch.stack(memory, dim=1)}

    def answer(self, vectors: State) -> Tensor:
        """The top layer's hidden vector."""
        return vectors["hidden"][:, -1]


class LSTMMemory(VectorAdapter):
    """The recurrent memory behind the contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = LSTMConfig
    OWN = ("pool_queries", "detach")

    def __init__(self, streams: StreamShapes, config: LSTMConfig | None = None) -> None:
        config = config or LSTMConfig()
        inner = LSTMVector(
            config.width,
            config.layers,
            config.reads_present,
            config.time_encoding,
            config.time_scale_hz,
        )
        super().__init__(streams, inner, config.pool_queries, config.detach)
        self.config = config
