"""Slots of finished chunks: where the next one goes, and what a state holds of them.

Shape letters: B rows, M slots, C vectors of a chunk, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from embodied.core.errors import ConfigError, unknown_name
from embodied.memory.slots import decay
from embodied.nn.rows import looks_at_data

EVICTIONS = ("fifo", "least_selected", "retention")

EMPTY = -1
"""Number of a slot that holds no chunk."""

LATE = 2**31
"""More than the ticks and the chunks of an episode."""


@dataclasses.dataclass
class ChunkSlots:
    """The finished chunks of a layer.

    Attributes:
      contents: [B, M, C, D]; zero in empty slots, like all below but `number`.
      keys: [B, M, D]; the mean of each chunk's vectors.
      number: int64 [B, M]; which chunk of its episode a slot holds; `EMPTY` for none.
      time_s: float32 [B, M]; seconds of the episode when the chunk was finished.
      selected: int64 [B, M]; tick of the episode at which the chunk was last read, or finished.
        None under rules that do not look at it.
    """

    contents: Tensor
    keys: Tensor
    number: Tensor
    time_s: Tensor
    selected: Tensor | None = None

    @classmethod
    def empty(
        cls, batch: int, capacity: int, chunk: int, width: int, eviction: str, like: Tensor
    ) -> ChunkSlots:
        """Returns empty slots with the dtype and device of `like`."""
        if capacity < 1:
            raise ConfigError(
                f"memory capacity must be >= 1 chunk, got {capacity}; "
                "choose memory=transformer_xl for a window alone"
            )
        number = torch.full((batch, capacity), EMPTY, dtype=torch.int64, device=like.device)
        return cls(
            contents=like.new_zeros(batch, capacity, chunk, width),
            keys=like.new_zeros(batch, capacity, width),
            number=number,
            time_s=torch.zeros(batch, capacity, device=like.device),
            selected=torch.zeros_like(number) if eviction == "least_selected" else None,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Returns the arrays by name, without those that are None."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


def check_eviction(eviction: str) -> None:
    """Refuses unknown rules of eviction."""
    if eviction not in EVICTIONS:
        raise unknown_name("memory.eviction", eviction, EVICTIONS)


def slot_for(
    eviction: str,
    number: Tensor,
    live: Tensor,
    selected: Tensor | None,
    left: Tensor | None,
    coming: Tensor,
) -> Tensor:
    """Returns int64 [B]: the slot that the next chunk takes; an empty one while there are any.

    Args:
      eviction: ``"fifo"``, ``"least_selected"`` or ``"retention"``.
      number: int64 [B, M]; the chunk in each slot.
      live: bool [B, M]; slots in use.
      selected: int64 [B, M] as in `ChunkSlots`, for ``"least_selected"``; the older of two equals
        goes.
      left: float32 [B, M]; the log of what is left of each chunk, for ``"retention"``.
      coming: int64 [B]; number of the next chunk.
    """
    if eviction == "fifo":  # chunks fill the slots in turn, so the next in turn holds the oldest
        return coming % number.shape[1]
    if eviction == "least_selected":
        assert selected is not None
        rank = selected * LATE + number
        return torch.where(live, rank, -1).argmin(dim=1)
    assert left is not None
    return torch.where(live, left, -torch.inf).argmin(dim=1)


def what_is_left(forget_hz: Tensor, now_s: Tensor, time_s: Tensor) -> Tensor:
    """Returns float32 [..., M]: the log of what is left of chunks, <= 0; see `slots.decay`."""
    return decay(now_s[..., None], time_s, forget_hz)


@dataclasses.dataclass
class Writes:
    """Rows that are emptied, and rows that then write one slot each.

    Attributes:
      reset: bool [B]; rows emptied.
      rows: int64 [n]; rows that may write.
      slot: int64 [n]; where they do.
      real: bool [n]; rows that do.
      donate: Whether arrays may be changed in place.
      few: Whether `rows` are but those that write, found by looking at the data.
    """

    reset: Tensor
    rows: Tensor
    slot: Tensor
    real: Tensor
    donate: bool
    few: bool

    @classmethod
    def plan(cls, where: Tensor, slot: Tensor, reset: Tensor, donate: bool) -> Writes:
        """Plans the writes of rows `where`, bool [B], to slots int64 [B]."""
        few = looks_at_data(where)
        rows = torch.arange(len(where), device=where.device)
        if few:
            rows = where.nonzero()[:, 0]
            slot, where = slot[rows], where[rows]
        return cls(reset, rows, slot, where, donate, few)

    def into(self, array: Tensor, value: Tensor, empty: float = 0.0) -> Tensor:
        """Returns [B, M, ...] with `value` [n, ...] written, and `empty` in emptied rows."""
        value = value.to(array.dtype)
        if self.few:
            cleared = self.reset.nonzero()[:, 0]
            if not len(cleared) and not len(self.rows):
                return array
            array = array if self.donate else array.clone()
            if len(cleared):
                array[cleared] = empty
            array[self.rows, self.slot] = value
            return array
        emptied = self.reset.view(-1, *[1] * (array.dim() - 1))
        fill = array.masked_fill_ if self.donate else array.masked_fill
        array = fill(emptied, empty)
        real = self.real.view(-1, *[1] * (value.dim() - 1))
        kept = torch.where(real, value, array[self.rows, self.slot])
        return array.index_put_((self.rows, self.slot), kept)
