"""A memory of one's own: it keeps the first item of an episode and nothing else.

To make it a built-in one, move this file to ``embodied/memory/``, add a row to ``MEMORIES`` in
``embodied/memory/__init__.py`` and a case to ``tests/memory/test_contract.py``; then
``memory=first_item`` runs it in every policy.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes, where_rows


@dataclasses.dataclass
class FirstItemConfig:
    """Options of the memory.

    Attributes:
      detach: Stored items get no gradient.
    """

    detach: bool = False


class FirstItemMemory(Memory):
    """Adds a learned projection of the first item to the query.

    State: ``first.<stream>`` [B, N, D] and ``filled`` bool [B].
    """

    config_class = FirstItemConfig

    def __init__(self, streams: StreamShapes, config: FirstItemConfig | None = None) -> None:
        super().__init__(streams, capacity=1)
        self.config = config or FirstItemConfig()
        self.project = nn.ModuleDict({name: nn.Linear(d, d) for name, (_, d) in streams.items()})

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns an empty memory; it has one slot at any capacity."""
        like = next(self.parameters())
        first = {f"first.{s}": like.new_zeros(batch, n, d) for s, (n, d) in self.streams.items()}
        return {**first, "filled": torch.zeros(batch, dtype=torch.bool, device=like.device)}

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Returns the query plus what was first; the query alone while there is nothing."""
        filled = state["filled"] & ~reset
        value = {
            name: where_rows(filled, token + self.project[name](state[f"first.{name}"]), token)
            for name, token in query.items()
        }
        return value, {"reset": reset, "filled": filled}

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Stores the item where nothing is stored yet."""
        filled = pending["filled"]
        first = {
            f"first.{name}": where_rows(
                filled, state[f"first.{name}"], token.detach() if self.config.detach else token
            )
            for name, token in item.items()
        }
        return {**first, "filled": torch.ones_like(filled)}
