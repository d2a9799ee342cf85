"""A segment's valid ticks, packed to the front of their rows, and where each stands in its episode.

Windows and chunks count the ticks that were stored. Once the others are out of the way, the last
W stored ticks are W neighbours and a chunk is a slice, whatever the holes in the segment were.

Shape letters: B rows, T observation ticks, R asked ticks of a row.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from embodied.nn.rows import looks_at_data


@dataclasses.dataclass
class Ticks:
    """Packed ticks. Behind ``count`` a row holds padding, which nothing before it can see.

    Attributes:
      order: int64 [B, T]; where each packed tick stood. None: all stay where they were.
      place: int64 [B, T]; where each tick of the segment is now; any place for invalid ones.
      count: int64 [B]; valid ticks.
      age: int64 [B, T]; ticks of the same episode before this one.
      start: int64 [B, T]; where the tick's episode began; -1 for before the segment.
      first: bool [B, T]; a reset comes before this tick.
      time_s: float32 [B, T].
    """

    order: Tensor | None
    place: Tensor | None
    count: Tensor
    age: Tensor
    start: Tensor
    first: Tensor
    time_s: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """B and T."""
        return self.age.shape[0], self.age.shape[1]

    @property
    def present(self) -> Tensor:
        """False on padding, bool [B, T]."""
        return torch.arange(self.shape[1], device=self.count.device) < self.count[:, None]

    def take(self, ticks: Tensor) -> Tensor:
        """Packs [B, T, ...]."""
        return ticks if self.order is None else pick(ticks, self.order)

    def put(self, packed: Tensor) -> Tensor:
        """Puts [B, T, ...] back where the ticks stood; anything at invalid ones."""
        return packed if self.place is None else pick(packed, self.place)

    def end(self) -> tuple[Tensor, Tensor]:
        """Returns the ticks of the episode so far, int64 [B], and whether it began here, [B].

        For a row without a valid tick: as before the segment.
        """
        # The place behind the last valid tick; `age` and `start` are made to hold it.
        last = self.count[:, None]
        ages = torch.cat([self.age, self.age[:, -1:] + 1], dim=1)
        starts = torch.cat([self.start, self.start[:, -1:]], dim=1)
        return ages.gather(1, last)[:, 0], starts.gather(1, last)[:, 0] >= 0


def pack(count: Tensor, is_first: Tensor, valid: Tensor, time_s: Tensor) -> Ticks:
    """Packs a segment.

    Args:
      count: int64 [B]; ticks of each row's episode before the segment.
      is_first: [B, T] bool; the row is cleared before this tick.
      valid: [B, T] bool.
      time_s: [B, T].
    """
    order = place = None
    if not (looks_at_data(valid) and bool(valid.all())):
        order = torch.argsort((~valid).long(), dim=1, stable=True)
        place = (valid.long().cumsum(dim=1) - 1).clamp(min=0)
    first, time_s = is_first & valid, time_s.float()
    if order is not None:
        first, time_s = first.gather(1, order), time_s.gather(1, order)
    tick = torch.arange(valid.shape[1], device=valid.device)
    start = torch.where(first, tick, -1).cummax(dim=1).values
    age = torch.where(start >= 0, tick - start, count[:, None] + tick)
    return Ticks(order, place, valid.sum(dim=1), age, start, first, time_s)


@dataclasses.dataclass
class Asked:
    """Some ticks of each row, as many for every row; the rest is padding.

    Attributes:
      tick: int64 [B, R]; packed ticks, all different within a row.
      real: bool [B, R]; False on padding.
    """

    tick: Tensor
    real: Tensor


def ask(mask: Tensor, least: int = 0) -> Asked:
    """Lists the ticks of a mask [B, T], R >= `least`; looks at the data, so on a CPU alone."""
    longest = max(least, int(mask.sum(dim=1).max()))
    tick = torch.argsort((~mask).long(), dim=1, stable=True)[:, :longest]
    return Asked(tick, mask.gather(1, tick))


def pick(pool: Tensor, index: Tensor) -> Tensor:
    """Returns each row's entries: [B, P, ...] at int64 [B, ...] as [B, ..., ...]."""
    B, P = pool.shape[:2]
    rows = torch.arange(B, device=pool.device).view(B, *([1] * (index.dim() - 1)))
    flat = pool.reshape(B * P, *pool.shape[2:]).index_select(0, (rows * P + index).flatten())
    return flat.view(*index.shape, *pool.shape[2:])


def place_into(base: Tensor, asked: Asked, values: Tensor) -> Tensor:
    """Returns `base` [B, T, D] with `values` [B, R, D] at the asked ticks."""
    index = asked.tick[..., None].expand_as(values)
    kept = torch.where(asked.real[..., None], values, base.gather(1, index))
    return base.scatter(1, index, kept)
