"""Pure functions on a bank of slots: append, and when full merge two neighbours or drop one.

Slots are ordered by time and packed to the front. Everything is a `torch.where` or an index
with fixed shapes, so batching and export need nothing more. Shape letters: B rows, M slots,
N tokens a slot, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.precision import at_least_float32

OVERFLOWS = ("similar", "fifo", "retention")
MERGED_TIMES = ("earlier", "mean")
SIMILARITIES = ("tokens", "entry")

SIMILARITY_STEP = 1.0e-4
"""Similarities are rounded to this before the first largest is taken. The published rule has
no such step; without it the last bit (another batch size, another backend) would decide
between frames of a still scene, which are all equally similar."""


@dataclasses.dataclass(frozen=True)
class StoreRule:
    """What happens when an item arrives.

    Attributes:
      overflow: ``"similar"`` replaces the most similar adjacent pair by its mean, the new
        item included; ``"fifo"`` drops the oldest slot; ``"retention"`` drops the slot whose
        learned retention has decayed furthest (see `decay`).
      merged_time: ``"earlier"`` keeps the earlier time of a merged pair, ``"mean"`` averages.
      count_weighted: Weighs a merged slot by the number of items in it. Without it repeated
        merges weigh later items geometrically more.
      similarity: ``"tokens"``: mean over tokens of their cosines; ``"entry"``: cosine of the
        whole entries.
      anchor: The first so many items of an episode are never merged and never dropped; one
        slot is always left beside them.
    """

    overflow: str = "similar"
    merged_time: str = "earlier"
    count_weighted: bool = False
    similarity: str = "tokens"
    anchor: int = 0

    def __post_init__(self) -> None:
        if self.overflow not in OVERFLOWS:
            raise unknown_name("overflow rule", self.overflow, OVERFLOWS)
        if self.merged_time not in MERGED_TIMES:
            raise unknown_name("merged_time", self.merged_time, MERGED_TIMES)
        if self.similarity not in SIMILARITIES:
            raise unknown_name("memory.similarity", self.similarity, SIMILARITIES)
        if self.anchor < 0:
            raise ConfigError(f"memory.anchor must be >= 0, got {self.anchor}")


@dataclasses.dataclass
class Slots:
    """The slots of one stream.

    Attributes:
      tokens: [B, M, N, D]; zero in empty slots.
      time_s: float32 [B, M] seconds of the episode; zero in empty slots.
      count: int64 [B] slots in use; they are the first ones.
      items: float32 [B, M] number of items in each slot.
      overflow: int64 [B] writes since the episode began that found no free slot.
    """

    tokens: Tensor
    time_s: Tensor
    count: Tensor
    items: Tensor
    overflow: Tensor

    @classmethod
    def empty(cls, batch: int, capacity: int, tokens: int, width: int, like: Tensor) -> Slots:
        """Returns empty slots with the dtype and device of `like`."""
        if capacity < 1:
            raise ConfigError(
                f"memory capacity must be >= 1 slot, got {capacity}; "
                "choose memory=none for a policy without memory"
            )
        device = like.device
        return cls(
            tokens=torch.zeros(batch, capacity, tokens, width, dtype=like.dtype, device=device),
            time_s=torch.zeros(batch, capacity, device=device),
            count=torch.zeros(batch, dtype=torch.int64, device=device),
            items=torch.zeros(batch, capacity, device=device),
            overflow=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def live(self, reset: Tensor | None = None) -> Tensor:
        """Returns bool [B, M]: slots in use, none in rows of `reset` [B]."""
        slot = torch.arange(self.tokens.shape[1], device=self.count.device)
        used = slot < self.count[:, None]
        return used if reset is None else used & ~reset[:, None]

    def nbytes_filled(self) -> int:
        """Returns the bytes of the slots in use, with the counters, over all rows."""
        used = int(self.count.sum())
        slots = (self.tokens, self.time_s, self.items)
        total = sum(used * t[0, 0].numel() * t.element_size() for t in slots)
        return total + sum(t.numel() * t.element_size() for t in (self.count, self.overflow))


def similarity(left: Tensor, right: Tensor, kind: str) -> Tensor:
    """Returns how alike entries [..., N, D] are, rounded; [...].

    Args:
      left: Entries.
      right: Entries.
      kind: ``"tokens"``: the mean over tokens of their cosines, 0 for a zero token (MemoryVLA,
        arXiv 2508.19236, its released code); ``"entry"``: the cosine of the whole entries
        (its paper).
    """
    left, right = at_least_float32(left), at_least_float32(right)
    if kind == "entry":
        left, right = left.flatten(-2).unsqueeze(-2), right.flatten(-2).unsqueeze(-2)
    norms = torch.linalg.vector_norm(left, dim=-1) * torch.linalg.vector_norm(right, dim=-1)
    cosine = (left * right).sum(-1) / norms.clamp(min=1e-8)
    return torch.round(cosine.mean(-1) / SIMILARITY_STEP) * SIMILARITY_STEP


def decay(time_s: Tensor, stored_s: Tensor, forget_hz: Tensor) -> Tensor:
    """Returns the log of what is left of stored items, <= 0: their age times their rate.

    Args:
      time_s: Now, in seconds of the episode; broadcastable to the others.
      stored_s: When each item was stored.
      forget_hz: Each item's own rate, >= 0: after 1 / rate seconds it counts e times less.

    Source: learned-retention eviction, after TRIM-KV (2025).
    """
    return -forget_hz * (time_s - stored_s).clamp(min=0.0)


def pair_weight(items_left: Tensor, items_right: Tensor, rule: StoreRule) -> Tensor:
    """Returns the weight of the left entry of a merged pair, in 0..1."""
    if rule.count_weighted:
        return items_left / (items_left + items_right).clamp(min=1)
    return torch.full_like(items_left, 0.5)


def store(
    slots: Slots,
    item: Tensor,
    time_s: Tensor,
    rule: StoreRule,
    reset: Tensor,
    valid: Tensor | None = None,
    forget_hz: Tensor | None = None,
) -> Slots:
    """Stores one item a row.

    Args:
      slots: Slots before; not changed.
      item: [B, N, D].
      time_s: [B] seconds of the episode.
      rule: What to do when a row is full.
      reset: [B] bool; rows emptied before storing.
      valid: [B] bool or None; rows that store (and reset) nothing where False.
      forget_hz: [B, M] rate of each slot, for ``overflow="retention"`` alone.

    Returns:
      New slots of the same shapes.
    """
    B, M, N, D = slots.tokens.shape
    valid = torch.ones_like(reset) if valid is None else valid
    item = item.to(slots.tokens.dtype)
    now = time_s.to(slots.time_s.dtype)
    count = torch.where(reset & valid, 0, slots.count)
    overflow = torch.where(reset & valid, 0, slots.overflow)
    full = (count >= M) & valid

    # Candidates of the new bank: old slots 0..M-1, the item M, the merged pair M+1, zero M+2.
    # Slots behind `first` move down by one; the pair takes the place of `first` itself.
    rows = torch.arange(B, device=item.device)
    times = torch.cat([slots.time_s, now[:, None]], dim=1)
    items = torch.cat([slots.items, torch.ones_like(now)[:, None]], dim=1)
    if rule.overflow == "similar":
        with torch.no_grad():
            follow = torch.cat([slots.tokens[:, 1:], item[:, None]], dim=1)
            first = most_alike(rule, similarity(slots.tokens, follow, rule.similarity))
        flat = slots.tokens.reshape(B * M, N, D)
        left = flat.index_select(0, rows * M + first)
        right = flat.index_select(0, rows * M + (first + 1).clamp(max=M - 1))
        right = torch.where((first == M - 1)[:, None, None], item, right)
        items_left, items_right = items[rows, first], items[rows, first + 1]
        w = pair_weight(items_left, items_right, rule)
        merged = (
            w[:, None, None].to(item.dtype) * left + (1 - w)[:, None, None].to(item.dtype) * right
        )
        time_left, time_right = times[rows, first], times[rows, first + 1]
        mean_time = w * time_left + (1 - w) * time_right
        merged_time = time_left if rule.merged_time == "earlier" else mean_time
        merged_items = items_left + items_right
    else:
        # No pair: the slots behind the one dropped move down, and the candidate is not chosen.
        first = dropped(rule, now, slots.time_s, forget_hz) - 1
        merged, merged_time, merged_items = item, now, torch.ones_like(now)
    first = torch.where(full, first, M)

    slot = torch.arange(M, device=item.device)[None]
    source = slot + (slot > first[:, None])
    if rule.overflow == "similar":
        source = torch.where(slot == first[:, None], M + 1, source)
    free, n = ~full[:, None], count[:, None]
    source = torch.where(free & (slot == n), torch.where(valid, M, M + 2)[:, None], source)
    source = torch.where(free & (slot > n), M + 2, source)

    pool = torch.cat(
        [slots.tokens, item[:, None], merged[:, None], torch.zeros_like(item)[:, None]], dim=1
    )
    index = (rows[:, None] * (M + 3) + source).reshape(-1)
    tokens = pool.view(B * (M + 3), N, D).index_select(0, index).view(B, M, N, D)
    zero = torch.zeros_like(now)[:, None]
    return Slots(
        tokens=tokens,
        time_s=torch.cat([times, merged_time[:, None], zero], dim=1).gather(1, source),
        count=torch.where(valid, torch.clamp(count + 1, max=M), count),
        items=torch.cat([items, merged_items[:, None], zero], dim=1).gather(1, source),
        overflow=overflow + full.long(),
    )


def dropped(rule: StoreRule, now: Tensor, stored_s: Tensor, forget_hz: Tensor | None) -> Tensor:
    """Returns int64 [B]: which slot a full row drops, under a rule that merges nothing.

    Args:
      rule: ``"fifo"`` or ``"retention"``.
      now: [B] seconds of the episode.
      stored_s: [B, M] time of each slot.
      forget_hz: [B, M] rate of each slot; None under ``"fifo"``.
    """
    if rule.overflow == "fifo":
        oldest = min(rule.anchor, stored_s.shape[1] - 1)
        return torch.full_like(now, oldest, dtype=torch.int64)
    assert forget_hz is not None, "retention needs rates"
    left = decay(now[:, None], stored_s, at_least_float32(forget_hz.detach()))
    return _behind(rule.anchor, left, torch.inf).argmin(dim=1)


def most_alike(rule: StoreRule, alike: Tensor) -> Tensor:
    """Returns int64 [B]: the first slot of the pair that a full row merges.

    Args:
      rule: ``"similar"``.
      alike: [B, M] similarity of each slot with what follows it, the new item behind the last.
    """
    return _behind(rule.anchor, alike, -torch.inf).argmax(dim=1)


def _behind(anchor: int, scores: Tensor, never: float) -> Tensor:
    """Gives the `anchor` first of [B, M] scores the value that is never chosen."""
    if not anchor:
        return scores
    slots = scores.shape[1]
    slot = torch.arange(slots, device=scores.device)
    return scores.masked_fill(slot < min(anchor, slots - 1), never)
