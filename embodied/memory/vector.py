"""The contract of memories of single vectors, which agents use bare or behind `VectorAdapter`.

Shape letters: B rows, T observation ticks, V width of the vectors.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.types import State
from embodied.memory.base import Pending, where_rows

Record = dict[str, Tensor]
"""What a learner keeps of acting: name -> [B, ...] of a tick, or [B, T, ...] of a segment."""

StateSpec = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name -> shape without rows, and dtype, of each tensor of a state."""


class VectorMemory(nn.Module, abc.ABC):
    """A memory whose queries, values and items are single vectors [B, V].

    The rules of `embodied.memory.base.Memory` hold, but the neutral value of an empty
    memory is the adapter's business: `filled` tells it which rows hold anything.

    An agent acts by `step`, or by `read` and `write` where it keeps a record, and learns by
    `unroll`, which equals T steps. Two ways to learn: without a record everything is computed
    again with the present weights; with what ``pending["record"]`` held at each tick, stored
    vectors are those of acting, and only the ticks whose values are wanted cost anything.

    Args:
      width: V.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"memory width must be >= 1, got {width}")
        self.width = width

    @abc.abstractmethod
    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns empty state for `batch` rows."""

    @abc.abstractmethod
    def read(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
    ) -> tuple[Tensor, Pending]:
        """Reads with the present vector.

        Args:
          query: [B, V].
          time_s: [B] seconds since the episode began.
          state: Memory before the tick.
          reset: [B] bool; rows treated as empty.
          read_mask: [B] bool; False where the observation itself says that no recall is needed,
            so that a memory may leave its costly reads out. It is a part of the input, the same
            in acting and in learning; a memory whose reads cost nothing takes no notice.

        Returns:
          [B, V], and what `write` needs: ``"reset"``, and ``"record"`` as in `record_spec`.
        """

    @abc.abstractmethod
    def write(
        self, pending: Pending, item: Tensor, time_s: Tensor, state: State, donate: bool = False
    ) -> State:
        """Stores [B, V].

        Args:
          pending: From `read` at this tick.
          item: [B, V]; the query itself, unless something else shall be stored.
          time_s: [B].
          state: The one given to `read`.
          donate: The caller gives `state` up, and all that shares arrays with it: large arrays
            are written in place, so that a step costs nothing for what is stored already.
            Without gradients only.
        """

    @abc.abstractmethod
    def filled(self, state: State) -> Tensor:
        """Returns bool [B]: rows that hold at least one item."""

    def step(
        self,
        query: Tensor,
        time_s: Tensor,
        state: State,
        reset: Tensor,
        read_mask: Tensor | None = None,
        donate: bool = False,
    ) -> tuple[Tensor, State]:
        """Reads, and stores the query itself."""
        value, pending = self.read(query, time_s, state, reset, read_mask)
        return value, self.write(pending, query, time_s, state, donate)

    def record_spec(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes, without B, of what a learner may keep of each tick; maybe none."""
        return {}

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
        """Runs T ticks for learning.

        Args:
          items: [B, T, V]; with a record, those of unwanted ticks may be anything.
          time_s: [B, T].
          state: Memory before the segment.
          is_first: [B, T] bool; the row is cleared before this tick.
          valid: [B, T] bool; False leaves the state untouched.
          read_mask: [B, T] bool; as in `read`.
          wanted: [B, T] bool; ticks whose value is used. None: all.
          stored: [B, T, V]; what is stored instead of the items, which are still the queries.
          record: Name -> [B, T, ...] as `record_spec` has it, kept when these ticks were acted.

        Returns:
          [B, T, V], the item itself where a tick is invalid or unwanted, and the state after.
        """
        values, used = [], valid if wanted is None else valid & wanted
        for t in range(time_s.shape[1]):
            now, item = time_s[:, t], items[:, t] if stored is None else stored[:, t]
            query = item if stored is None else items[:, t]
            mask = None if read_mask is None else read_mask[:, t]
            value, pending = self.read(query, now, state, is_first[:, t] & valid[:, t], mask)
            written = self.write(pending, item, now, state)
            state = {k: where_rows(valid[:, t], written[k], state[k]) for k in state}
            values.append(where_rows(used[:, t], value.to(query.dtype), query))
        return torch.stack(values, dim=1), state

    def capacity_of(self, state: State) -> int | None:
        """Returns the slots `state` was made with; None without slots."""
        return None

    def nbytes(self, batch: int, capacity: int | None = None) -> int:
        """Returns the bytes `initial` allocates."""
        return state_bytes(self.initial(batch, capacity))

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes in use, over all rows; equals the allocation by default."""
        return state_bytes(state)

    def inspect(self, query: Tensor, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Returns named tensors that explain a read; empty by default."""
        return {}


def check_state(state: State, wanted: StateSpec, batch: int) -> None:
    """Refuses a state of another memory, size or dtype; looks at shapes alone.

    Args:
      state: What is to be read.
      wanted: What the memory's own state is like.
      batch: Rows of the queries.

    Raises:
      SpecMismatch: Naming what was expected, and what came.
    """
    if state.keys() == wanted.keys() and all(
        state[name].shape == (batch, *shape) and state[name].dtype == dtype
        for name, (shape, dtype) in wanted.items()
    ):
        return
    found = {name: (tuple(t.shape[1:]), t.dtype) for name, t in state.items()}
    rows = {len(tensor) for tensor in state.values()}
    names = [n for n in [*wanted, *found] if wanted.get(n) != found.get(n)]
    what = f"there are {batch} rows of queries, and {sorted(rows)} of state"
    if names:
        name = names[0]
        what = f"{name!r} should be {_shown(wanted.get(name))}, got {_shown(found.get(name))}"
    raise SpecMismatch(
        f"the memory's state does not fit: {what}; a state belongs to the memory whose "
        "`initial` made it, for as many rows as it was made for"
    )


def _shown(entry: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    if entry is None:
        return "absent"
    shape, dtype = entry
    return f"[rows{''.join(f', {size}' for size in shape)}] of {str(dtype).removeprefix('torch.')}"


def state_bytes(state: State) -> int:
    """Returns the bytes of all tensors of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def filled_before(filled: Tensor, is_first: Tensor, valid: Tensor) -> Tensor:
    """Returns bool [B, T]: whether a row holds anything when tick t reads.

    Args:
      filled: [B] bool; whether it did before the segment.
      is_first: [B, T] bool.
      valid: [B, T] bool.
    """
    tick = torch.arange(valid.shape[1], device=valid.device)
    begun = torch.where(is_first & valid, tick, -1).cummax(dim=1).values
    stored = torch.where(valid, tick, -2).cummax(dim=1).values
    before = torch.cat([torch.full_like(stored[:, :1], -2), stored[:, :-1]], dim=1)
    return (before >= begun.clamp(min=0)) | (filled[:, None] & (begun < 0))
