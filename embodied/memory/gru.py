"""A gated recurrent unit as memory: one hidden vector a row, whatever the episode's length."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.types import State
from embodied.memory.adapter import VectorAdapter, VectorMemory
from embodied.memory.base import Pending, StreamShapes, where_rows
from embodied.nn.position import TimeEncoding


@dataclasses.dataclass
class GRUConfig:
    """Options of the recurrent memory.

    Attributes:
      width: Size of the hidden vector and of pooled items.
      pool_queries: Attention maps a stream when tokens are pooled.
      detach: Stored items get no gradient; the recurrence itself still does.
      time_encoding: Adds an encoding of the time to what is stored.
      time_scale_hz: Units of that encoding in a second.
    """

    width: int = 256
    pool_queries: int = 4
    detach: bool = False
    time_encoding: bool = True
    time_scale_hz: float = 1.0


class GRUVector(VectorMemory):
    """State: ``hidden`` [B, V] and ``count`` int64 [B], the items stored since the reset.

    Args:
      width: V.
      time_encoding: Adds an encoding of the time to stored items.
      time_scale_hz: Units of that encoding in a second.
    """

    def __init__(self, width: int, time_encoding: bool = True, time_scale_hz: float = 1.0) -> None:
        super().__init__(width)
        self.cell = nn.GRUCell(width, width)
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns a zero hidden vector; a capacity has no meaning here and changes nothing."""
        weight = self.cell.weight_hh
        return {
            "hidden": weight.new_zeros(batch, self.width),
            "count": torch.zeros(batch, dtype=torch.int64, device=weight.device),
        }

    def read(
        self, query: Tensor, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Tensor, Pending]:
        """Returns the hidden vector, which knows earlier ticks only."""
        hidden = where_rows(reset, torch.zeros_like(state["hidden"]), state["hidden"])
        return hidden, {"reset": reset, "hidden": hidden}

    def write(self, pending: Pending, item: Tensor, time_s: Tensor, state: State) -> State:
        """Updates the hidden vector with the item."""
        if self.time is not None:
            item = item + self.time(time_s)
        hidden = self.cell(item, pending["hidden"].to(item.dtype))
        count = torch.where(pending["reset"], 0, state["count"]) + 1
        return {"hidden": hidden.to(state["hidden"].dtype), "count": count}

    def filled(self, state: State) -> Tensor:
        """Rows with at least one item."""
        filled: Tensor = state["count"] > 0
        return filled


class GRUMemory(VectorAdapter):
    """The recurrent memory behind the contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = GRUConfig

    def __init__(self, streams: StreamShapes, config: GRUConfig | None = None) -> None:
        config = config or GRUConfig()
        inner = GRUVector(config.width, config.time_encoding, config.time_scale_hz)
        super().__init__(streams, inner, config.pool_queries, config.detach)
        self.config = config
