"""A bank's whole segment at once: first what it held at every tick, then all reads together.

When items do not depend on reads, the history of a bank needs no gradient and no attention.
Every entry that a row ever holds goes into one pool: the slots it started with, the T items,
and one merged entry a tick at most. A tick reads the pool under the mask of what was in the
bank then, which equals T single steps (a contract test) and projects each entry once.

On a CPU entries and ticks that nobody needs are left out, which looks at the data; on other
devices the shapes alone decide, so that nothing waits for the device.

Shape letters: B rows, T observation ticks, M slots, N stored tokens, Q query tokens, D width,
S = M + T given entries, R merged entries (T or 0), P = S + R entries.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from embodied.memory.bank import StreamBank
from embodied.memory.slots import (
    Slots,
    StoreRule,
    decay,
    dropped,
    most_alike,
    pair_weight,
    similarity,
)
from embodied.nn.attention import masked_score
from embodied.nn.precision import at_least_float32
from embodied.nn.rows import looks_at_data

GROUP_TOKENS = 160
"""Query tokens that attend together on a CPU: few enough that a group skips the entries of
later ticks, enough that a matrix product stays efficient."""

GATHER_GAIN = 1.25
"""A group gathers each row's entries where a common slice would be this much longer."""


@dataclasses.dataclass
class History:
    """What a bank held over a segment, without gradients. Pool index P is an all-zero entry.

    Attributes:
      live: bool [B, T + 1, P]; entries in the bank when tick t reads, and at the end.
      time_s: float32 [B, P + 1] time of each entry.
      items: float32 [B, P + 1] number of items in each entry.
      mix: float32 [B, R, S]; weights of the given entries in each merged entry.
      final: int64 [B, M] pool index of each slot after the segment.
      count: int64 [B] as in `Slots`, after the segment.
      overflow: int64 [B] as in `Slots`, after the segment.
    """

    live: Tensor
    time_s: Tensor
    items: Tensor
    mix: Tensor
    final: Tensor
    count: Tensor
    overflow: Tensor


def unroll_reads(
    bank: StreamBank,
    queries: Tensor,
    stored: Tensor,
    time_s: Tensor,
    slots: Slots,
    reset: Tensor,
    valid: Tensor,
    use: Tensor,
) -> tuple[Tensor, Slots]:
    """Reads and stores T ticks.

    Args:
      bank: The stream's parameters and store rule.
      queries: [B, T, Q, D].
      stored: [B, T, N, D] items as they are stored.
      time_s: [B, T].
      slots: Slots before the segment.
      reset: [B, T] bool; False where not `valid`.
      valid: [B, T] bool; ticks that store.
      use: [B, T] bool; ticks whose read is wanted. Others return their query.

    Returns:
      [B, T, Q, D] and the slots after the segment.
    """
    stored = stored.to(slots.tokens.dtype)
    pool = torch.cat([slots.tokens, stored], dim=1)
    past = trace(slots, stored, time_s, reset, valid, bank.rule, bank.forget_hz(pool))
    if past.mix.shape[1]:
        with torch.autocast(pool.device.type, enabled=False):
            merged = torch.bmm(past.mix.to(pool.dtype), pool.flatten(2)).view(
                *past.mix.shape[:2], *pool.shape[2:]
            )
        pool = torch.cat([pool, merged], dim=1)
    rows = torch.arange(pool.shape[0], device=pool.device)[:, None]
    held = pool[rows, past.final.clamp(max=pool.shape[1] - 1)]
    after = Slots(
        tokens=torch.where((past.final < pool.shape[1])[..., None, None], held, 0.0),
        time_s=past.time_s.gather(1, past.final),
        count=past.count,
        items=past.items.gather(1, past.final),
        overflow=past.overflow,
    )
    return _read(bank, queries, time_s, pool, past, use), after


@torch.no_grad()
def trace(
    slots: Slots,
    stored: Tensor,
    time_s: Tensor,
    reset: Tensor,
    valid: Tensor,
    rule: StoreRule,
    forget_hz: Tensor | None = None,
) -> History:
    """Works out the history of a bank; the same choices as `slots.store`, tick by tick.

    `forget_hz` [B, M + T] holds the rates of the slots and of the items, under retention.
    """
    B, M, N, D = slots.tokens.shape
    T, device = time_s.shape[1], stored.device
    count, overflow = slots.count, slots.overflow
    alike = partial(similarity, kind=rule.similarity)
    merging = rule.overflow == "similar"
    if looks_at_data(stored):
        start = torch.where(reset[:, 0], 0, count)
        merging = merging and bool((start + T > M).any())
    S = M + T
    R = T if merging else 0
    P = S + R
    rows = torch.arange(B, device=device)
    slot = torch.arange(M, device=device)[None]

    ones = torch.ones(B, T, device=device)
    blank = torch.zeros(B, R + 1, device=device)
    times = torch.cat([slots.time_s, time_s.to(slots.time_s.dtype), blank], dim=1)
    items = torch.cat([slots.items, ones, blank], dim=1)
    rates = None if forget_hz is None else torch.cat([at_least_float32(forget_hz), blank], dim=1)
    mix = torch.zeros(B, R, S, device=device)
    live = torch.zeros(B, T + 1, P + 1, dtype=torch.bool, device=device)
    index = torch.where(slots.live(), slot, P).expand(B, M)
    if merging:
        tokens = torch.cat([slots.tokens, stored, stored.new_zeros(B, R, N, D)], dim=1)
        unit = torch.eye(S, device=device)
        # Similarity of each entry with the one that follows it in its bank.
        follow = at_least_float32(stored.new_zeros(B, P + 1))
        if M > 1:
            follow[:, : M - 1] = alike(slots.tokens[:, :-1], slots.tokens[:, 1:])

    for t in range(T):
        count = torch.where(reset[:, t], 0, count)
        overflow = torch.where(reset[:, t], 0, overflow)
        index = torch.where(slot < count[:, None], index, P)
        live[:, t].scatter_(1, index, True)
        full = (count >= M) & valid[:, t]
        extended = torch.cat([index, torch.full_like(index[:, :1], M + t)], dim=1)
        if merging:
            new, pair = M + t, S + t
            last = index.gather(1, (count - 1).clamp(min=0)[:, None])[:, 0].clamp(max=P - 1)
            follow[rows, last] = alike(tokens[rows, last], stored[:, t])
            first = most_alike(rule, follow.gather(1, extended[:, :M]))
            left, right = extended[rows, first], extended[rows, first + 1]
            weight = pair_weight(items[rows, left], items[rows, right], rule)
            side = weight[:, None, None].to(tokens.dtype)
            left, right = left.clamp(max=P - 1), right.clamp(max=P - 1)
            tokens[:, pair] = side * tokens[rows, left] + (1 - side) * tokens[rows, right]
            weights = torch.cat([unit.expand(B, S, S), mix], dim=1)[
                rows[:, None], torch.stack([left, right], dim=1)
            ]
            mix[:, t] = weight[:, None] * weights[:, 0] + (1 - weight)[:, None] * weights[:, 1]
            items[:, pair] = items[rows, left] + items[rows, right]
            mean = weight * times[rows, left] + (1 - weight) * times[rows, right]
            times[:, pair] = times[rows, left] if rule.merged_time == "earlier" else mean
            before = extended[rows, (first - 1).clamp(min=0)].clamp(max=P - 1)
            behind = extended[rows, (first + 2).clamp(max=M)].clamp(max=P - 1)
            beside = torch.stack([before, behind], dim=1)
            near = alike(tokens[rows[:, None], beside], tokens[:, pair, None])
            at_before = torch.where(full & (first > 0), before, P)
            follow[rows, at_before] = near[:, 0]
            follow[:, pair] = near[:, 1]
        elif rule.overflow == "similar":
            new, first = M + t, torch.zeros_like(count)  # no row of this segment overflows
        else:
            new = M + t
            now = time_s[:, t].to(times.dtype)
            slot_rates = None if rates is None else rates.gather(1, index)
            first = dropped(rule, now, times.gather(1, index), slot_rates)
        # A pair stands where its first part stood; of a dropped slot nothing stands anywhere.
        moved = slot + (slot >= first[:, None]).long()
        shifted = extended.gather(1, moved)
        if merging:
            shifted = torch.where(slot == first[:, None], pair, shifted)
        appended = torch.where((slot == count[:, None]) & valid[:, t, None], new, index)
        index = torch.where(full[:, None], shifted, appended)
        overflow = overflow + full.long()
        count = torch.where(valid[:, t], torch.clamp(count + 1, max=M), count)
    live[:, T].scatter_(1, index, True)
    return History(live[..., :P], times, items, mix, index, count, overflow)


def _read(
    bank: StreamBank, queries: Tensor, time_s: Tensor, pool: Tensor, past: History, use: Tensor
) -> Tensor:
    """Returns what every tick retrieves, [B, T, Q, D]; the query where it is not used."""
    B, T, Q, D = queries.shape
    live, times, present = past.live[:, :T], past.time_s[:, :-1], bank.present(pool)
    wanted = use & (live & present.any(dim=-1)[:, None]).any(dim=-1)
    unread = queries
    if bank.reads_itself:
        alone = use & ~wanted
        unread = torch.where(alone[..., None, None], bank.neutral(queries, time_s), queries)
    ticks, asked = torch.arange(T, device=queries.device), queries
    groups: list[tuple[int, int, slice | Tensor]] = [(0, T, slice(None))]
    if looks_at_data(pool):
        ticks = wanted.any(dim=0).nonzero()[:, 0]
        if not len(ticks):
            return unread
        read = (live & wanted[..., None]).index_select(1, ticks)
        entries = _by_birth(read.flatten(0, 1).any(dim=0), past)
        pool, times = pool.index_select(1, entries), times.index_select(1, entries)
        live = live.index_select(1, ticks).index_select(2, entries)
        present = present.index_select(1, entries)
        groups = _groups(read.index_select(2, entries), Q)
        asked, time_s = queries.index_select(1, ticks), time_s.index_select(1, ticks)

    rates = bank.forget_hz(pool)
    code = None if bank.time is None else bank.time(times)
    projected = [block.project(pool, code) for block in bank.layers()]
    parts = [needed for *_, needed in groups]
    picked = [[_Parts.apply(side, *parts) for side in block] for block in projected]
    dtype, values = projected[0][0].dtype, []
    for group, (start, stop, needed) in enumerate(groups):
        # [B, t, 1, P, N]: what was in the bank at each tick, expanded over the tick's queries.
        held = _pick(live[:, start:stop].transpose(1, 2), needed).transpose(1, 2)
        seen = held[:, :, None, :, None] & _pick(present, needed)[:, None, None]
        known: float | Tensor = 0.0
        if rates is not None:
            ages = decay(
                time_s[:, start:stop, None].to(times.dtype),
                _pick(times, needed)[:, None],
                _pick(rates, needed)[:, None],
            )
            known = ages[:, :, None, :, None]
        bias = torch.where(seen, known, masked_score(dtype)).to(dtype)
        bias = bias.expand(-1, -1, Q, -1, -1).reshape(B, 1, (stop - start) * Q, -1)
        value = asked[:, start:stop].reshape(B, -1, D)
        for block, (keys, vals) in zip(bank.layers(), picked, strict=True):
            value = block.attend(value, keys[group], vals[group], bias)
        values.append(value.view(B, stop - start, Q, D))
    found = torch.cat(values, dim=1).to(queries.dtype)
    if len(ticks) < T:
        position = torch.zeros(T, dtype=torch.int64, device=queries.device)
        position[ticks] = torch.arange(len(ticks), device=queries.device)
        found = found.index_select(1, position)
    return torch.where(wanted[..., None, None], found, unread)


def _pick(pool: Tensor, entries: slice | Tensor) -> Tensor:
    """Returns entries of [B, P, ...]: a slice for all rows, or int64 [B, W] for each row."""
    if isinstance(entries, slice):
        return pool[:, entries]
    B, P = pool.shape[:2]
    rows = torch.arange(B, device=pool.device)[:, None] * P
    flat = pool.reshape(B * P, *pool.shape[2:]).index_select(0, (rows + entries).flatten())
    return flat.view(*entries.shape, *pool.shape[2:])


class _Parts(torch.autograd.Function):
    """Several `_pick` of one pool, whose gradients are summed where they belong.

    Picked one by one, each part would fill a gradient of the whole pool with zeros.
    """

    @staticmethod
    def forward(ctx: Any, pool: Tensor, *parts: slice | Tensor) -> tuple[Tensor, ...]:
        ctx.shape, ctx.parts = pool.shape, parts
        ctx.set_materialize_grads(False)
        return tuple(_pick(pool, entries) for entries in parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [(p, g) for p, g in zip(ctx.parts, gradients, strict=True) if g is not None]
        pool = known[0][1].new_zeros(ctx.shape)
        rows = torch.arange(ctx.shape[0], device=pool.device)[:, None] * ctx.shape[1]
        for entries, gradient in known:
            if isinstance(entries, slice):
                pool[:, entries] += gradient
            else:
                place = (rows + entries).flatten()
                pool.flatten(0, 1).index_add_(0, place, gradient.flatten(0, 1))
        return (pool, *[None] * len(ctx.parts))


def _by_birth(needed: Tensor, past: History) -> Tensor:
    """Returns the needed pool entries in the order in which they came to be, int64 [n]."""
    given, merged = past.mix.shape[2], past.mix.shape[1]
    ticks = past.live.shape[1] - 1
    slots = given - ticks
    birth = torch.cat(
        [
            torch.zeros(slots, dtype=torch.int64),
            2 * torch.arange(ticks) + 1,
            2 * torch.arange(merged) + 2,
        ]
    )
    entries = needed.nonzero()[:, 0]
    return entries[torch.argsort(birth[entries], stable=True)]


def _groups(read: Tensor, tokens: int) -> list[tuple[int, int, slice | Tensor]]:
    """Splits ticks into groups, each with the entries it needs.

    Args:
      read: bool [B, t, P]; entries read at each tick.
      tokens: Q.

    Returns:
      (first tick, end, entries): a slice of the pool or, where rows keep different entries
      and the slice would hold many dead ones, int64 [B, W] for each row.
    """
    size = max(1, round(GROUP_TOKENS / tokens))
    groups: list[tuple[int, int, slice | Tensor]] = []
    for start in range(0, read.shape[1], size):
        stop = min(start + size, read.shape[1])
        needed = read[:, start:stop].any(dim=1)
        anyone = needed.any(dim=0).nonzero()[:, 0]
        span = slice(int(anyone[0]), int(anyone[-1]) + 1)
        width = int(needed.sum(dim=1).max())
        if GATHER_GAIN * width < span.stop - span.start:
            order = torch.argsort(needed.logical_not().long(), dim=1, stable=True)
            groups.append((start, stop, order[:, :width]))
        else:
            groups.append((start, stop, span))
    return groups
