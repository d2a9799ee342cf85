"""A layer of hierarchical chunk attention: window, chunks, feed-forward.

Shape letters: B rows, T packed ticks, R ticks of a row, M slots, P chunks of a segment, C vectors
of a chunk, k chunks read, A past ticks of a window, D width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embodied.memory.bank import FORGET_AT_START
from embodied.memory.chunk_config import HierarchicalChunksConfig
from embodied.memory.chunk_history import (
    Pool,
    collect,
    last_in_turn,
    settle,
    trace,
    visible,
)
from embodied.memory.chunk_slots import EMPTY, ChunkSlots, Writes, slot_for, what_is_left
from embodied.memory.layered import Layer, Part, Tick, Window, feed_forward
from embodied.memory.packed import Asked, Ticks, ask, pick, place_into
from embodied.nn.chunk_attention import Choice, ChunkAttention, choose
from embodied.nn.rows import looks_at_data

DENSE_CHUNK, DENSE_READ = 4.0, 0.15
"""What `ChunkAttention.dense` costs a row for each chunk, and for each query of each chunk, where
a gathered chunk of a query costs 1 (measured on one CPU thread, forward and backward)."""

DENSE_BLOCK = 64
"""Queries of a row that are attended together."""

BLOCK_FLOATS = 2**22
"""Numbers in each array of a block of reads: about what a cache holds."""

KEPT_FLOATS = 2**24
"""Beyond so many numbers in each array of all blocks together, what a block made on the way is
made again for its gradient rather than kept: 64 MiB an array, of which there are a few."""


class ChunkLayer(Layer):
    """h = x + window(x); h += chunks(h), finished ones alone; result h + ffn(h).

    Args:
      config: Options.

    Source: HCAM (arXiv 2105.14039), section 3.1; the order of the parts and the residuals as in
    its figure 1. What is stored is what came in.
    """

    def __init__(self, config: HierarchicalChunksConfig) -> None:
        super().__init__()
        self.config = config
        self.window = Window(
            config.width, config.heads, config.window, config.detach_window, config.qk_init
        )
        self.norm = nn.LayerNorm(config.width)
        self.chunks = ChunkAttention(
            config.width, config.heads, config.chunk, config.position_code, config.qk_init
        )
        self.ffn = feed_forward(config.width, config.ffn_ratio)
        self.forget: nn.Linear | None = None
        if config.eviction == "retention":
            self.forget = nn.Linear(config.width, 1)
            nn.init.zeros_(self.forget.weight)
            nn.init.constant_(self.forget.bias, FORGET_AT_START)

    def initial(self, batch: int, capacity: int, like: Tensor) -> Part:
        """Returns an empty window and `capacity` empty slots for chunks."""
        c = self.config
        slots = ChunkSlots.empty(batch, capacity, c.chunk, c.width, c.eviction, like)
        return {"window": like.new_zeros(batch, c.window - 1, c.width), **slots.tensors()}

    def asks_all(self) -> bool:
        """Under ``"least_selected"`` what is kept depends on every read."""
        return self.config.eviction == "least_selected"

    # ---- one tick -----------------------------------------------------------------------

    def step(self, x: Tensor, part: Part, tick: Tick) -> tuple[Tensor, dict[str, Any]]:
        """Reads window and chunks."""
        tokens, live = self.window.tokens(x, part["window"], tick)
        value, attention = self.window(tokens, live)
        h = x + value
        kept = {"tokens": tokens, "live": live, "attention": attention}
        rows = torch.arange(len(x), device=x.device)
        if tick.look is not None and looks_at_data(x):
            rows = tick.look.nonzero()[:, 0]
            if not len(rows):
                return h + self.ffn(h), kept
        value, choice, inside = self._read(h, part, tick, rows)
        if len(rows) < len(x):
            h = h.index_add(0, rows, value)
        else:
            h = h + (value if tick.look is None else torch.where(tick.look[:, None], value, 0.0))
        kept.update(choice=choice, inside=inside, rows=rows)
        return h + self.ffn(h), kept

    def _read(
        self, h: Tensor, part: Part, tick: Tick, rows: Tensor
    ) -> tuple[Tensor, Choice, Tensor]:
        """Reads the chunks of some rows: [n, D] and, with one query a row, what was chosen."""
        few = len(rows) < len(h)
        query = self.norm(h[rows] if few else h)[:, None]
        number = torch.where(tick.reset[:, None], EMPTY, part["number"])
        keys, time_s, now = part["keys"], part["time_s"], tick.time_s
        if few:
            number, keys, time_s, now = number[rows], keys[rows], time_s[rows], now[rows]
        logits = self.chunks.relevance(query, keys)
        left = self._left(keys, now, time_s)
        logits = logits if left is None else logits + left[:, None]
        live = (number != EMPTY)[:, None]
        choice = choose(logits, live, number, self.config.top_k, self.config.relevance_norm)
        value, inside = self.chunks.gather(query, part["contents"], choice, rows)
        return value[:, 0], choice, inside[:, 0]

    def store(self, kept: dict[str, Any], part: Part, tick: Tick, donate: bool) -> Part:
        """Moves the window on, and writes a chunk where one is finished."""
        C, tokens = self.config.chunk, kept["tokens"]
        slots = _slots(part)
        selected = self._selected(kept, slots, tick)
        finished = (tick.age + 1) // C
        live = (slots.number != EMPTY) & ~tick.reset[:, None]
        left = self._left(slots.keys, tick.time_s, slots.time_s)
        slot = slot_for(self.config.eviction, slots.number, live, selected, left, finished - 1)
        writes = Writes.plan((tick.age + 1) % C == 0, slot, tick.reset, donate)
        chunk = tokens[writes.rows, tokens.shape[1] - C :]
        chunk = chunk.detach() if self.config.detach else chunk
        new = ChunkSlots(
            contents=writes.into(slots.contents, chunk),
            keys=writes.into(slots.keys, chunk.mean(dim=1)),
            number=writes.into(slots.number, finished[writes.rows] - 1, EMPTY),
            time_s=writes.into(slots.time_s, tick.time_s[writes.rows]),
            selected=None if selected is None else writes.into(selected, tick.age[writes.rows]),
        )
        return {"window": self.window.after(tokens, part["window"]), **new.tensors()}

    def _selected(self, kept: dict[str, Any], slots: ChunkSlots, tick: Tick) -> Tensor | None:
        """Returns `ChunkSlots.selected` after the read."""
        selected = slots.selected
        if selected is None or "choice" not in kept:
            return selected
        choice, rows = kept["choice"], kept["rows"]
        index, real = choice.index[:, 0], choice.real[:, 0]
        if len(rows) == len(selected) and tick.look is not None:
            real = real & tick.look[:, None]
        own = selected[rows]
        now = torch.where(real, tick.age[rows][:, None], own.gather(1, index))
        return selected.index_copy(0, rows, own.scatter(1, index, now))

    def _rates(self, keys: Tensor) -> Tensor:
        """Returns rates of forgetting in Hz, float32 [...], of summaries [..., D]."""
        assert self.forget is not None
        with torch.autocast(keys.device.type, enabled=False):
            rate: Tensor = F.softplus(self.forget(keys.to(self.forget.weight.dtype))[..., 0])
        return rate

    def _left(self, keys: Tensor, now_s: Tensor, time_s: Tensor) -> Tensor | None:
        """Returns the log of what is left of chunks; None where nothing is forgotten."""
        return None if self.forget is None else what_is_left(self._rates(keys), now_s, time_s)

    def explain(self, kept: dict[str, Any], part: Part, tick: Tick) -> dict[str, Tensor]:
        """Returns which chunks a step read and how much of each of their ticks.

        S = M C + C - 1 places for past ticks: those of the chunks, the oldest first, then those
        of the unfinished chunk, which only the window reads.

        Returns:
          ``attention`` [B, 1, 1, S], the mean over heads, times the chunk's weight; ``live``
          bool [B, S]; ``items`` [B, S], 1 for each; ``age_ticks`` int64 [B, S];
          ``chunk_weight`` [B, M] with 0 for chunks not read, ``chunk_live`` bool [B, M],
          ``chunk_number`` int64 [B, M] and ``chunk_age_s`` [B, M], the oldest chunk first; and
          ``window`` [B, A + 1], the attention to the last ticks, itself last.
        """
        C, number, choice = self.config.chunk, part["number"], kept["choice"]
        B, M = number.shape
        order = torch.argsort(torch.where(number == EMPTY, torch.iinfo(torch.int64).max, number))
        number = number.gather(1, order)
        there = number != EMPTY
        weight = choice.weight.new_zeros(B, M).scatter(1, choice.index[:, 0], choice.weight[:, 0])
        inside = kept["inside"].mean(1)
        each = inside.new_zeros(B, M, C).scatter(
            1, choice.index[:, 0, :, None].expand(-1, -1, C), inside
        )
        each = each.gather(1, order[..., None].expand(-1, -1, C)).view(B, M * C)
        held, loose = there.sum(1, keepdim=True) * C, (tick.age % C)[:, None]
        place = torch.arange(M * C + C - 1, device=number.device)
        ticks = (number[..., None] * C + torch.arange(C, device=number.device)).view(B, M * C)
        ages = F.pad(tick.age[:, None] - ticks, (0, C - 1))
        ages = torch.where(place < held, ages, loose - (place - held))
        live = place < held + loose
        since = tick.time_s[:, None] - part["time_s"].gather(1, order)
        return {
            "attention": F.pad(each, (0, C - 1))[:, None, None],
            "live": live,
            "items": live.to(each.dtype),
            "age_ticks": torch.where(live, ages, 0),
            "chunk_weight": weight.gather(1, order),
            "chunk_live": there,
            "chunk_number": number,
            "chunk_age_s": torch.where(there, since, 0.0),
            "window": kept["attention"].mean(1),
        }

    # ---- a segment ----------------------------------------------------------------------

    def unroll(
        self,
        x: Tensor,
        stored: Tensor | None,
        part: Part,
        ticks: Ticks,
        asked: Asked | None,
        look: Tensor | None,
    ) -> tuple[Tensor, Part]:
        """Reads window and chunks at all asked ticks."""
        h = x + self.window.unroll(x, stored, part["window"], ticks, asked)
        kept = x if stored is None else stored
        slots, C = _slots(part), self.config.chunk
        past = part["window"][:, part["window"].shape[1] - C + 1 :].to(kept.dtype)
        whole = torch.cat([past, kept], dim=1)
        pool = collect(slots, whole.detach() if self.config.detach else whole, ticks)
        seen, final, selected = self._history(h, slots, pool, ticks, asked, look)
        h = self._add_reads(h, pool, ticks, seen, asked, look)
        after = settle(slots, pool, final, selected)
        window = self.window.end(kept, part["window"], ticks)
        return h + self.ffn(h), {"window": window, **after.tensors()}

    def _history(
        self,
        h: Tensor,
        slots: ChunkSlots,
        pool: Pool,
        ticks: Ticks,
        asked: Asked | None,
        look: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns what the ticks of `h` may read, bool [B, R, P], and `Traced`'s other fields."""
        (B, T), M, eviction = ticks.shape, slots.number.shape[1], self.config.eviction
        every = torch.arange(T, device=h.device).expand(B, T)
        at = every if asked is None else asked.tick
        if eviction == "fifo":
            return visible(pool, ticks, at, M), last_in_turn(slots, pool, ticks), None
        if eviction == "retention":
            most = (ticks.age + 1) // self.config.chunk
            if looks_at_data(h) and int(most.max()) <= M:
                return visible(pool, ticks, at, None), last_in_turn(slots, pool, ticks), None
            traced = trace(slots, pool, ticks, eviction, self._rates, None)
            return pick(traced.visible, at), traced.final, None
        with torch.no_grad():
            logits = self._logits(self.norm(h), pool, ticks, every)
        present = ticks.present if look is None else ticks.present & look

        def chosen(t: int, seen: Tensor) -> tuple[Tensor, Tensor]:
            choice = choose(
                logits[:, t : t + 1], seen[:, None], pool.number, self.config.top_k, "topk"
            )
            return choice.index[:, 0], choice.real[:, 0] & present[:, t, None]

        traced = trace(slots, pool, ticks, eviction, None, chosen if logits.shape[2] else None)
        return pick(traced.visible, at), traced.final, traced.selected

    def _logits(self, query: Tensor, pool: Pool, ticks: Ticks, at: Tensor) -> Tensor:
        """Returns relevance [B, R, P] of all chunks to the queries at ticks [B, R]."""
        logits = self.chunks.relevance(query, pool.keys)
        if self.forget is None:
            return logits
        now = ticks.time_s.gather(1, at)
        return logits + what_is_left(self._rates(pool.keys)[:, None], now, pool.time_s[:, None])

    def _add_reads(
        self,
        h: Tensor,
        pool: Pool,
        ticks: Ticks,
        seen: Tensor,
        asked: Asked | None,
        look: Tensor | None,
    ) -> Tensor:
        """Adds to h [B, R, D] what its ticks read; nothing where there is nothing to read."""
        B, R = h.shape[:2]
        if not pool.number.shape[1]:
            return h
        at = torch.arange(R, device=h.device).expand(B, R) if asked is None else asked.tick
        reads = ticks.present if asked is None else asked.real
        if look is not None:
            reads = reads & look.gather(1, at)
        sub = Asked(torch.arange(R, device=h.device).expand(B, R), reads)
        if looks_at_data(h):
            some = ask(reads & seen.any(dim=-1))
            if not some.tick.shape[1]:
                return h
            sub = some if some.tick.shape[1] < R else sub
        query = self.norm(pick(h, sub.tick))
        values = self._reads(query, pool, ticks, pick(seen, sub.tick), at.gather(1, sub.tick))
        return place_into(h, sub, pick(h, sub.tick) + values)

    def _reads(self, query: Tensor, pool: Pool, ticks: Ticks, seen: Tensor, at: Tensor) -> Tensor:
        """Reads with queries [B, R, D] what is seen, bool [B, R, P], at ticks `at` [B, R].

        Block by block: what a block makes on the way stays in the cache, and a block leaves out
        the chunks that none of its queries sees.
        """
        (B, R, D), (P, C), c = query.shape, pool.contents.shape[1:3], self.config
        dense = R * min(c.top_k, P) > P * (DENSE_CHUNK + DENSE_READ * R)
        size = c.heads * P * C if dense else c.top_k * C * D
        span = min(R, DENSE_BLOCK) if dense else max(1, min(R, BLOCK_FLOATS // (B * size)))
        rows = max(1, min(B, BLOCK_FLOATS // (span * size))) if dense else B
        blocks = [
            (slice(b, b + rows), slice(r, r + span))
            for b in range(0, B, rows)
            for r in range(0, R, span)
        ]
        again = torch.is_grad_enabled() and B * R * size > KEPT_FLOATS
        logits = self._logits(query, pool, ticks, at)
        keys, held = self.chunks.project(pool.contents) if dense else (None, pool.contents)
        values = []
        for b, r in blocks:
            p = _span(seen[b, r]) if dense and looks_at_data(query) else slice(0, P)
            if p.start == p.stop:
                values.append(torch.zeros_like(query[b, r]))
                continue
            args = [query[b, r], logits[b, r, p], seen[b, r, p], pool.number[b, p]]
            if keys is None:
                args.append(held[b])
            else:
                cut = slice(p.start * C, p.stop * C)
                args.extend((keys[b, :, :, cut], held[b, :, :, cut]))
            if again:
                value = checkpoint(self._read_block, *args, use_reentrant=False)
            else:
                value = self._read_block(*args)
            values.append(value)
        per_row = -(-R // span)
        lines = [torch.cat(values[i : i + per_row], 1) for i in range(0, len(values), per_row)]
        return torch.cat(lines, dim=0)

    def _read_block(
        self, query: Tensor, logits: Tensor, seen: Tensor, number: Tensor, *held: Tensor
    ) -> Tensor:
        """Reads with queries [b, r, D]; `held` is chunks, or the keys and values of all."""
        choice = choose(logits, seen, number, self.config.top_k, self.config.relevance_norm)
        if len(held) == 2:
            return self.chunks.dense(query, held[0], held[1], choice)
        rows = torch.arange(len(query), device=query.device)
        return self.chunks.gather(query, held[0], choice, rows)[0]


def _span(seen: Tensor) -> slice:
    """Returns the chunks between the first and the last that any query sees; looks at data."""
    anyone = seen.flatten(0, 1).any(dim=0).nonzero()[:, 0]
    return slice(int(anyone[0]), int(anyone[-1]) + 1) if len(anyone) else slice(0, 0)


def _slots(part: Part) -> ChunkSlots:
    return ChunkSlots(**{name: tensor for name, tensor in part.items() if name != "window"})
