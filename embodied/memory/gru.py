"""A gated recurrent unit as memory: one hidden vector a row, whatever the episode's length."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.types import State
from embodied.memory import recurrent
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import Pending, StreamShapes, where_rows
from embodied.memory.vector import Record, VectorMemory
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


class GRUVector(VectorMemory):
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
        super().__init__(width)
        self.cell = nn.GRUCell(width, width)
        self.time = TimeEncoding(width, scale_hz=time_scale_hz) if time_encoding else None
        self.reads_present = reads_present

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns a zero hidden vector; a capacity has no meaning here and changes nothing."""
        weight = self.cell.weight_hh
        return {
            "hidden": weight.new_zeros(batch, self.width),
            "count": torch.zeros(batch, dtype=torch.int64, device=weight.device),
        }

    def read(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pending]:
        """Returns the hidden vector; see ``reads_present``."""
        hidden = where_rows(reset, torch.zeros_like(state["hidden"]), state["hidden"])
        pending: Pending = {"reset": reset, "record": {}, "hidden": hidden, "query": query}
        if not self.reads_present:
            return hidden, pending
        pending["after"] = self._advance(query, time_s, hidden)
        return pending["after"], pending

    def write(
        self, pending: Pending, item: Tensor, time_s: Tensor, state: State, donate: bool = False
    ) -> State:
        """Updates the hidden vector with the item."""
        if item is pending["query"] and "after" in pending:
            hidden = pending["after"]
        else:
            hidden = self._advance(item, time_s, pending["hidden"])
        count = torch.where(pending["reset"], 0, state["count"]) + 1
        return {"hidden": hidden.to(state["hidden"].dtype), "count": count}

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
        """Runs T ticks at once."""
        if stored is not None and self.reads_present:
            return super().unroll(
                items, time_s, state, is_first, valid, read_mask, wanted=wanted, stored=stored
            )
        use, first = valid if wanted is None else valid & wanted, is_first & valid
        taken = items if stored is None else stored
        x = self._coded(torch.where(valid[..., None], taken, 0.0), time_s)
        with torch.autocast(items.device.type, enabled=False):
            x, hidden = recurrent.run_gru(self.cell, x, state["hidden"], first, valid)
        if not self.reads_present:
            x = recurrent.before_ticks(x, state["hidden"], first)
        count = recurrent.counts_after(state["count"], is_first, valid)
        value = torch.where(use[..., None], x.to(items.dtype), items)
        return value, {"hidden": hidden, "count": count}

    def filled(self, state: State) -> Tensor:
        """Rows with at least one item."""
        filled: Tensor = state["count"] > 0
        return filled

    def _coded(self, items: Tensor, time_s: Tensor) -> Tensor:
        return items if self.time is None else items + self.time(time_s)

    def _advance(self, item: Tensor, time_s: Tensor, hidden: Tensor) -> Tensor:
        item = self._coded(item, time_s)
        advanced: Tensor = self.cell(item, hidden.to(item.dtype))
        return advanced


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
