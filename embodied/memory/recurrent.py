"""Memories that are a few vectors a row, which each item advances.

A subclass says how one item, and how a whole segment, advances its vectors; what clears them, what
a read answers and how holes in a segment are passed over is the same for all, and here.

Shape letters: B rows, T observation ticks, V width.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from embodied.core.types import State
from embodied.memory.base import Pending, where_rows
from embodied.memory.cells import before_ticks, counts_after
from embodied.memory.vector import Record, StateSpec, VectorMemory, check_state
from embodied.nn.position import TimeEncoding

Shapes = dict[str, tuple[int, ...]]


class RecurrentVector(VectorMemory):
    """State: the vectors of `shapes`, and ``count`` int64 [B], the items stored since the reset.

    Args:
      width: V.
      reads_present: A read answers what has taken the present in, as in recurrent agents; False
        answers what was before, which knows earlier ticks only.

    Attributes:
      time: Encoding of the time that is added to stored items, or None; the subclass makes it.
    """

    time: TimeEncoding | None  # no default: an attribute of the class would hide the module

    def __init__(self, width: int, reads_present: bool) -> None:
        super().__init__(width)
        self.reads_present = reads_present
        self._known: dict[torch.dtype, StateSpec] = {}

    @abc.abstractmethod
    def shapes(self) -> Shapes:
        """Returns the shape of each vector of the state, without B."""

    @abc.abstractmethod
    def advance(self, item: Tensor, vectors: State) -> State:
        """Returns the vectors that have taken in an item [B, V], its time encoded; no autocast."""

    @abc.abstractmethod
    def run(
        self, items: Tensor, vectors: State, first: Tensor, valid: Tensor
    ) -> tuple[Tensor, State]:
        """Takes in T items in turn, without autocast.

        Args:
          items: [B, T, V], their times encoded.
          vectors: Before the segment.
          first: [B, T] bool; the row is cleared before this tick.
          valid: [B, T] bool; False leaves the vectors as they are.

        Returns:
          The answer after each tick, [B, T, V], and the vectors at the end.
        """

    @abc.abstractmethod
    def answer(self, vectors: State) -> Tensor:
        """Returns what a read of these vectors answers, [B, V]."""

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns zero vectors; a capacity has no meaning here and changes nothing."""
        like = next(self.parameters())
        vectors = {name: like.new_zeros(batch, *own) for name, own in self.shapes().items()}
        return {**vectors, "count": torch.zeros(batch, dtype=torch.int64, device=like.device)}

    def read(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pending]:
        """Returns the answer; see ``reads_present``.

        Raises:
          SpecMismatch: For a state of another memory, size or dtype.
        """
        self._check(state, len(query))
        before = {k: where_rows(reset, torch.zeros_like(state[k]), state[k]) for k in self.shapes()}
        pending: Pending = {"reset": reset, "record": {}, "before": before, "query": query}
        if not self.reads_present:
            return self.answer(before), pending
        pending["after"] = self._advanced(query, time_s, before)
        return self.answer(pending["after"]), pending

    def write(
        self, pending: Pending, item: Tensor, time_s: Tensor, state: State, donate: bool = False
    ) -> State:
        """Takes the item in."""
        if item is pending["query"] and "after" in pending:
            after = pending["after"]
        else:
            after = self._advanced(item, time_s, pending["before"])
        count = torch.where(pending["reset"], 0, state["count"]) + 1
        return {**{k: after[k].to(state[k].dtype) for k in self.shapes()}, "count": count}

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
        """Runs T ticks at once.

        Raises:
          SpecMismatch: For a state of another memory, size or dtype.
        """
        self._check(state, len(items))
        if stored is not None and self.reads_present:
            return super().unroll(
                items, time_s, state, is_first, valid, read_mask, wanted=wanted, stored=stored
            )
        use, first = valid if wanted is None else valid & wanted, is_first & valid
        taken = items if stored is None else stored
        coded = self._coded(torch.where(valid[..., None], taken, 0.0), time_s)
        with torch.autocast(items.device.type, enabled=False):
            answers, vectors = self.run(coded, state, first, valid)
        if not self.reads_present:
            answers = before_ticks(answers, self.answer(state), first)
        count = counts_after(state["count"], is_first, valid)
        value = torch.where(use[..., None], answers.to(items.dtype), items)
        return value, {**vectors, "count": count}

    def filled(self, state: State) -> Tensor:
        """Rows with at least one item."""
        filled: Tensor = state["count"] > 0
        return filled

    def _check(self, state: State, batch: int) -> None:
        dtype = next(self.parameters()).dtype
        if dtype not in self._known:
            own: StateSpec = {name: (shape, dtype) for name, shape in self.shapes().items()}
            self._known[dtype] = {**own, "count": ((), torch.int64)}
        check_state(state, self._known[dtype], batch)

    def _advanced(self, item: Tensor, time_s: Tensor, vectors: State) -> State:
        """As `advance`, in the digits of the weights: as `run`, or acting would drift off it."""
        coded = self._coded(item, time_s).to(next(self.parameters()).dtype)
        with torch.autocast(item.device.type, enabled=False):
            return self.advance(coded, vectors)

    def _coded(self, items: Tensor, time_s: Tensor) -> Tensor:
        return items if self.time is None else items + self.time(time_s)
