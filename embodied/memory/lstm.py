"""Long short-term memory: hidden and cell vectors a row, whatever the episode's length."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State
from embodied.memory import recurrent
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import Pending, StreamShapes, where_rows
from embodied.memory.vector import Record, VectorMemory
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


class LSTMVector(VectorMemory):
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
        super().__init__(width)
        if layers < 1:
            raise ConfigError(f"layers of memory lstm must be >= 1, got {layers}")
        self.cells = nn.ModuleList(nn.LSTMCell(width, width) for _ in range(layers))
        self.reads_present = reads_present
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns zero vectors; a capacity has no meaning here and changes nothing."""
        like = next(self.cells.parameters())
        return {
            "hidden": like.new_zeros(batch, len(self.cells), self.width),
            "cell": like.new_zeros(batch, len(self.cells), self.width),
            "count": torch.zeros(batch, dtype=torch.int64, device=like.device),
        }

    def read(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pending]:
        """Returns the top layer's hidden vector; see ``reads_present``."""
        hidden, cell = (where_rows(reset, torch.zeros_like(s), s) for s in _vectors(state))
        pending: Pending = {"reset": reset, "record": {}, "before": (hidden, cell), "query": query}
        if not self.reads_present:
            return hidden[:, -1], pending
        pending["after"] = self._advance(query, time_s, hidden, cell)
        return pending["after"][0][:, -1], pending

    def write(
        self, pending: Pending, item: Tensor, time_s: Tensor, state: State, donate: bool = False
    ) -> State:
        """Takes the item in."""
        if item is pending["query"] and "after" in pending:
            hidden, cell = pending["after"]
        else:
            hidden, cell = self._advance(item, time_s, *pending["before"])
        count = torch.where(pending["reset"], 0, state["count"]) + 1
        dtype = state["hidden"].dtype
        return {"hidden": hidden.to(dtype), "cell": cell.to(dtype), "count": count}

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
        """Runs T ticks layer by layer."""
        if stored is not None and self.reads_present:
            return super().unroll(
                items, time_s, state, is_first, valid, read_mask, wanted=wanted, stored=stored
            )
        use, first = valid if wanted is None else valid & wanted, is_first & valid
        taken = items if stored is None else stored
        x = self._coded(torch.where(valid[..., None], taken, 0.0), time_s)
        hidden, memory = [], []
        with torch.autocast(items.device.type, enabled=False):
            for i, cell in enumerate(self.cells):
                assert isinstance(cell, nn.LSTMCell)
                start = state["hidden"][:, i], state["cell"][:, i]
                x, h, c = recurrent.run_lstm(cell, x, *start, first, valid)
                hidden.append(h)
                memory.append(c)
        if not self.reads_present:
            x = recurrent.before_ticks(x, state["hidden"][:, -1], first)
        new = {
            "hidden": torch.stack(hidden, dim=1),
            "cell": torch.stack(memory, dim=1),
            "count": recurrent.counts_after(state["count"], is_first, valid),
        }
        return torch.where(use[..., None], x.to(items.dtype), items), new

    def filled(self, state: State) -> Tensor:
        """Rows with at least one item."""
        filled: Tensor = state["count"] > 0
        return filled

    def _coded(self, items: Tensor, time_s: Tensor) -> Tensor:
        return items if self.time is None else items + self.time(time_s)

    def _advance(
        self, item: Tensor, time_s: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns hidden and cell vectors [B, L, V] that have taken the item in."""
        x, new = self._coded(item, time_s), []
        for i, layer in enumerate(self.cells):
            x, below = layer(x, (hidden[:, i].to(x.dtype), cell[:, i].to(x.dtype)))
            new.append((x, below))
        return torch.stack([h for h, _ in new], dim=1), torch.stack([c for _, c in new], dim=1)


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


def _vectors(state: State) -> tuple[Tensor, Tensor]:
    return state["hidden"], state["cell"]
