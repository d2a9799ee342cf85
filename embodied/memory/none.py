"""No memory: the value is the query. A policy with it is the memoryless twin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes


@dataclasses.dataclass
class NoneConfig:
    """`none` has no options."""


class NoMemory(Memory):
    """Remembers nothing; its state has no entry and 0 bytes, at any capacity."""

    config_class = NoneConfig

    def __init__(self, streams: StreamShapes, config: NoneConfig | None = None) -> None:
        super().__init__(streams, capacity=0)

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns the empty dictionary."""
        return {}

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Returns the query itself."""
        return dict(query), {"reset": reset}

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Stores nothing."""
        return {}

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
        """Returns the items themselves."""
        return dict(items), {}
