"""The memory contract: read, then write, with state as a value.

A memory holds parameters only. Its state is a flat ``dict[str, Tensor]`` of fixed shapes
whose first axis is the batch. A policy may decode between `read` and `write`, so that a
write can store what the policy predicted. Shape letters: B rows, T observation ticks,
M slots, N tokens of a stream, D width.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embodied.core.types import State, Streams

Pending = dict[str, Any]
StreamShapes = Mapping[str, tuple[int, int]]
"""Stream name -> (N, D)."""


class Memory(nn.Module, abc.ABC):
    """Base class of every memory.

    Rules, held by the conformance tests in ``tests/contracts/memory.py``:

    * a reset row behaves like a fresh row; rows never see one another;
    * an empty memory returns its neutral value exactly: the query itself, unless an option of it
      says otherwise;
    * invalid ticks change nothing; `unroll` equals T calls of `step`;
    * capacity belongs to the state, never to a weight.

    Args:
      streams: Stream name -> (N, D) of queries and items.
      capacity: Default number of slots of `initial`.

    Attributes:
      marks: Whether `write` stores, with a map of tokens, what the policy predicted on it. Then
        the item may hold, for each stream s, ``s.mark`` [B, P, 1]: heatmap logits over the P
        pixels of that view, row-major; and the query may hold ``s.position``, broadcastable to
        [B, N, D]: the positional code of the stream's tokens. Without them the memory does as
        its class says. Give neither to a memory that has no marks.
    """

    marks: ClassVar[bool] = False

    def __init__(self, streams: StreamShapes, capacity: int) -> None:
        super().__init__()
        self.streams = {name: (int(n), int(d)) for name, (n, d) in streams.items()}
        self.capacity = capacity

    @abc.abstractmethod
    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty state for `batch` rows on the parameters' device."""

    @abc.abstractmethod
    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Reads with the present as query; never sees the present's own item.

        Args:
          query: Stream name -> [B, N, D]; further entries as `marks` has them.
          time_s: [B] seconds since the episode began.
          state: Memory before the tick.
          reset: [B] bool; rows treated as empty.

        Returns:
          A value of the query's shape for each stream, and what `write` needs from the
          read (it always carries ``"reset"``).
        """

    @abc.abstractmethod
    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Stores `item` (stream name -> [B, N, D]); `state` is the one given to `read`.

        The item may hold further entries as `marks` has them.
        """

    def step(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, State]:
        """Reads and stores the query itself."""
        value, pending = self.read(query, time_s, state, reset)
        return value, self.write(pending, query, time_s, state)

    def unroll(
        self,
        items: Streams,
        time_s: Tensor,
        state: State,
        is_first: Tensor,
        valid: Tensor,
        read_mask: Tensor | None = None,
        item_of: Callable[[Streams, Streams], Streams] | None = None,
    ) -> tuple[Streams, State]:
        """Runs T ticks for learning; gradients flow through what was stored.

        Args:
          items: Stream name -> [B, T, N, D]; queries, and what is stored unless `item_of`.
            Further entries as `marks` has them, with T behind B.
          time_s: [B, T].
          state: Memory before the segment.
          is_first: [B, T] bool; the row is cleared before this tick.
          valid: [B, T] bool; False leaves the state untouched and returns the query.
          read_mask: [B, T] bool; False returns the query instead of what was read.
          item_of: (query, value) -> item to store at each tick, for stored fused tokens.

        Returns:
          Stream name -> [B, T, N, D] and memory after the segment.
        """
        values: dict[str, list[Tensor]] = {}
        for t in range(time_s.shape[1]):
            query = {name: tensor[:, t] for name, tensor in items.items()}
            value, pending = self.read(query, time_s[:, t], state, is_first[:, t] & valid[:, t])
            use = valid[:, t] if read_mask is None else valid[:, t] & read_mask[:, t]
            value = {name: where_rows(use, found, query[name]) for name, found in value.items()}
            item = query if item_of is None else item_of(query, value)
            written = self.write(pending, item, time_s[:, t], state)
            state = {k: where_rows(valid[:, t], written[k], state[k]) for k in state}
            for name, tensor in value.items():
                values.setdefault(name, []).append(tensor)
        return {name: torch.stack(ticks, dim=1) for name, ticks in values.items()}, state

    def clear(self, state: State, reset: Tensor) -> State:
        """Returns `state` with the rows in `reset` emptied, shapes unchanged."""
        fresh = self.initial(reset.shape[0], self.capacity_of(state))
        return {name: where_rows(reset, fresh[name], tensor) for name, tensor in state.items()}

    def capacity_of(self, state: State) -> int | None:
        """Returns the slots `state` was made with; None for memories without slots."""
        return None

    def nbytes(self, batch: int, capacity: int | None = None) -> int:
        """Returns the bytes `initial` allocates."""
        state = self.initial(batch, capacity)
        return sum(t.numel() * t.element_size() for t in state.values())

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes in use, over all rows; equals the allocation by default."""
        return sum(t.numel() * t.element_size() for t in state.values())

    def inspect(self, query: Streams, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Returns named tensors that explain a read (attention, ages); empty by default."""
        return {}


def where_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Selects whole rows: `rows` [B] bool against tensors [B, ...]."""
    return torch.where(rows.view(-1, *([1] * (yes.dim() - 1))), yes, no)
