"""A segment's chunks: those a layer started with, those finished on the way, and who saw which.

Every chunk that a row ever holds goes into one pool: first the slots at the start, then the
chunks finished in the segment, in order. A tick reads the pool under the mask of what the slots
held then. Under FIFO that mask follows from the chunks' numbers; under the other rules it is
traced tick by tick, without attention.

Shape letters: B rows, T packed ticks, M slots, J chunks finished in the segment, m slots that are
in the pool, P = m + J, R asked ticks, C vectors of a chunk, D width, k chunks read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from embodied.memory.chunk_slots import EMPTY, ChunkSlots, slot_for, what_is_left
from embodied.memory.packed import Ticks, pick
from embodied.nn.rows import looks_at_data

Rates = Callable[[Tensor], Tensor]
"""Summaries [..., D] -> rates of forgetting in Hz [...]."""


@dataclasses.dataclass
class Pool:
    """Chunks of a segment.

    Attributes:
      contents: [B, P, C, D].
      keys: [B, P, D].
      number: int64 [B, P]; which chunk of its episode.
      time_s: float32 [B, P].
      start: int64 [B, P]; where the chunk's episode began, -1 for before the segment.
      done: int64 [B, P]; the tick that finished the chunk, -1 for before the segment.
      real: bool [B, P].
      given: m, the slots in front.
    """

    contents: Tensor
    keys: Tensor
    number: Tensor
    time_s: Tensor
    start: Tensor
    done: Tensor
    real: Tensor
    given: int


def collect(slots: ChunkSlots, stored: Tensor, ticks: Ticks) -> Pool:
    """Gathers the chunks of a segment.

    Args:
      slots: At the start of the segment.
      stored: [B, C - 1 + T, D]; stored vectors, those of the C - 1 ticks before in front.
      ticks: The packed ticks.
    """
    C = slots.contents.shape[2]
    B, T = ticks.shape
    finishes = ((ticks.age + 1) % C == 0) & ticks.present
    J, given = -(-T // C), slots.number.shape[1]
    held = slots.number != EMPTY
    if looks_at_data(stored):
        J = int(finishes.sum(dim=1).max())
        # A row that begins another episode at once keeps nothing of what it held.
        used = (held & ~ticks.first[:, :1]).any(dim=0).nonzero()
        given = int(used[-1]) + 1 if len(used) else 0
    done = torch.argsort((~finishes).long(), dim=1, stable=True)[:, :J]
    fresh = pick(stored, done[..., None] + torch.arange(C, device=done.device))
    parts = {
        "contents": (slots.contents[:, :given].to(stored.dtype), fresh),
        "keys": (slots.keys[:, :given].to(stored.dtype), fresh.mean(dim=2)),
        "number": (slots.number[:, :given], (ticks.age.gather(1, done) + 1) // C - 1),
        "time_s": (slots.time_s[:, :given], ticks.time_s.gather(1, done)),
        "start": (torch.full((B, given), -1, device=done.device), ticks.start.gather(1, done)),
        "done": (torch.full((B, given), -1, device=done.device), done),
        "real": (held[:, :given], finishes.gather(1, done)),
    }
    joined = {name: torch.cat(pair, dim=1) if given else pair[1] for name, pair in parts.items()}
    return Pool(**joined, given=given)


def visible(pool: Pool, ticks: Ticks, asked: Tensor, kept: int | None) -> Tensor:
    """Returns bool [B, R, P]: the chunks that each asked tick may read.

    Args:
      pool: The chunks.
      ticks: The packed ticks.
      asked: int64 [B, R].
      kept: M; older chunks are gone, as under FIFO. None: none is gone.
    """
    begun = ticks.start.gather(1, asked)[..., None]
    seen = pool.real[:, None] & (pool.start[:, None] == begun)
    seen = seen & (pool.done[:, None] < asked[..., None])
    if kept is None:
        return seen
    finished = ticks.age.gather(1, asked) // pool.contents.shape[2]
    return seen & (pool.number[:, None] >= (finished - kept)[..., None])


@dataclasses.dataclass
class Traced:
    """What the slots held over a segment.

    Attributes:
      visible: bool [B, T, P]; the chunks that each packed tick may read.
      final: int64 [B, M]; the chunk in each slot after the segment; P for none.
      selected: int64 [B, M] as in `ChunkSlots`, after the segment; None without.
    """

    visible: Tensor
    final: Tensor
    selected: Tensor | None


@torch.no_grad()
def trace(
    slots: ChunkSlots,
    pool: Pool,
    ticks: Ticks,
    eviction: str,
    rates: Rates | None,
    chosen: Callable[[int, Tensor], tuple[Tensor, Tensor]] | None,
) -> Traced:
    """Works out the history of the slots tick by tick; the same choices as in acting.

    Args:
      slots: At the start.
      pool: The chunks.
      ticks: The packed ticks.
      eviction: ``"least_selected"`` or ``"retention"``.
      rates: For retention.
      chosen: (tick, what is visible [B, P]) -> the chunks read, int64 [B, k], and which of them
        count, bool [B, k]; for least selected.
    """
    (B, T), M = ticks.shape, slots.number.shape[1]
    P, J = pool.number.shape[1], pool.number.shape[1] - pool.given
    device = pool.number.device
    slot = torch.arange(M, device=device)
    # Each slot's chunk as an index into the pool, whose last column stands for none.
    index = torch.where((slots.number != EMPTY) & (slot < pool.given), slot, P)
    number = torch.cat([pool.number, torch.full((B, 1), EMPTY, device=device)], dim=1)
    time_s = torch.cat([pool.time_s, torch.zeros(B, 1, device=device)], dim=1)
    forget = None if rates is None else torch.cat([rates(pool.keys), time_s[:, :1] * 0], dim=1)
    selected = torch.zeros_like(number)
    if slots.selected is not None:
        selected[:, : pool.given] = slots.selected[:, : pool.given]
    seen = torch.zeros(B, T, P + 1, dtype=torch.bool, device=device)
    done, coming = pool.done[:, pool.given :], torch.zeros(B, dtype=torch.int64, device=device)
    finished = pool.real[:, pool.given :]
    for t in range(T):
        now = ticks.age[:, t]
        index = torch.where(ticks.first[:, t, None], P, index)
        seen[:, t].scatter_(1, index, True)
        seen[:, t, P] = False
        if chosen is not None:
            read, counts = chosen(t, seen[:, t, :P])
            latest = torch.where(counts, now[:, None], selected.gather(1, read))
            selected.scatter_(1, read, latest)
        if not J:
            continue
        new = coming.clamp(max=J - 1)[:, None]
        writes = (done.gather(1, new) == t) & finished.gather(1, new) & (coming[:, None] < J)
        left = None
        if forget is not None:
            left = what_is_left(
                forget.gather(1, index), ticks.time_s[:, t], time_s.gather(1, index)
            )
        next_number = pool.number.gather(1, pool.given + new)[:, 0]
        target = slot_for(
            eviction, number.gather(1, index), index < P, selected.gather(1, index), left,
            next_number,
        )  # fmt: skip
        entry = torch.where(writes, pool.given + new, index.gather(1, target[:, None]))
        index = index.scatter(1, target[:, None], entry)
        born = torch.where(writes, now[:, None], selected.gather(1, entry))
        selected.scatter_(1, entry, born)
        coming = coming + writes[:, 0].long()
    kept = torch.where(index < P, selected.gather(1, index), 0)
    return Traced(seen[..., :P], index, kept if slots.selected is not None else None)


def last_in_turn(slots: ChunkSlots, pool: Pool, ticks: Ticks) -> Tensor:
    """Returns int64 [B, M]: the pool's chunk in each slot after the segment, chunks in turn.

    That is FIFO, and every rule as long as nothing is evicted. P stands for none.
    """
    M, (P, C) = slots.number.shape[1], (pool.number.shape[1], pool.contents.shape[2])
    age, _ = ticks.end()
    start = torch.cat([ticks.start, ticks.start[:, -1:]], dim=1).gather(1, ticks.count[:, None])
    finished = (age // C)[:, None]
    slot = torch.arange(M, device=age.device)
    last = finished - 1 - (finished - 1 - slot) % M
    if not P:
        return torch.zeros_like(last)
    same = pool.real & (pool.start == start)
    match = same[:, None] & (pool.number[:, None] == last[..., None]) & (last >= 0)[..., None]
    none = match.new_ones(*last.shape, 1)
    return torch.cat([match, none], dim=2).long().argmax(dim=2)


def settle(slots: ChunkSlots, pool: Pool, final: Tensor, selected: Tensor | None) -> ChunkSlots:
    """Returns the slots after the segment.

    Args:
      slots: Before.
      pool: The chunks.
      final: int64 [B, M]; the pool's chunk in each slot, P for none.
      selected: int64 [B, M] as in `ChunkSlots`.
    """
    P, m = pool.number.shape[1], pool.given
    stays, new = final < m, (final >= m) & (final < P)  # a chunk that stays is where it was
    if m == P:
        return _mix(stays, slots, torch.zeros_like(stays), slots, selected)
    source = (final - m).clamp(min=0, max=P - m - 1)
    fresh = ChunkSlots(
        contents=pick(pool.contents[:, m:], source),
        keys=pick(pool.keys[:, m:], source),
        number=pool.number[:, m:].gather(1, source),
        time_s=pool.time_s[:, m:].gather(1, source),
    )
    return _mix(stays, slots, new, fresh, selected)


def _mix(
    stays: Tensor, old: ChunkSlots, new: Tensor, fresh: ChunkSlots, selected: Tensor | None
) -> ChunkSlots:
    def mix(before: Tensor, after: Tensor, empty: float = 0.0) -> Tensor:
        wide = [*stays.shape] + [1] * (before.dim() - 2)
        written = torch.where(new.view(wide), after.to(before.dtype), empty)
        return torch.where(stays.view(wide), before, written).to(before.dtype)

    return ChunkSlots(
        contents=mix(old.contents, fresh.contents),
        keys=mix(old.keys, fresh.keys),
        number=mix(old.number, fresh.number, EMPTY),
        time_s=mix(old.time_s, fresh.time_s),
        selected=selected,
    )
