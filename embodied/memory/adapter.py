"""Lets a memory of vectors serve streams of tokens: learned pooling in, learned broadcast back.

Shape letters: B rows, T observation ticks, N tokens of a stream, D its width, V width of
the vectors, P pooling queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending, StreamShapes
from embodied.memory.vector import VectorMemory, filled_before

__all__ = ["TokenBroadcast", "TokenPool", "VectorAdapter", "VectorMemory"]


class TokenPool(nn.Module):
    """Summarises the tokens of all streams as one vector, by learned queries.

    Args:
      streams: Stream name -> (N, D).
      width: V.
      queries: P a stream; one attention map each.
    """

    def __init__(self, streams: StreamShapes, width: int, queries: int) -> None:
        super().__init__()
        if queries < 1:
            raise ConfigError(f"pool_queries must be >= 1, got {queries}")
        # A stream of one token has nothing to choose among: it is passed on as it is.
        maps = {s: queries if n > 1 else 1 for s, (n, _) in streams.items()}
        self.score = nn.ModuleDict(
            {s: nn.Linear(d, queries) for s, (n, d) in streams.items() if n > 1}
        )
        self.project = nn.ModuleDict(
            {s: nn.Linear(maps[s] * d, width) for s, (_, d) in streams.items()}
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, streams: Streams) -> Tensor:
        """Pools stream name -> [..., N, D] to [..., V]."""
        total = None
        for name, project in self.project.items():
            summary = streams[name]
            if name in self.score:
                weights = torch.softmax(self.score[name](summary), dim=-2)
                summary = torch.matmul(weights.transpose(-1, -2), summary)
            part = project(summary.flatten(-2))
            total = part if total is None else total + part
        pooled: Tensor = self.norm(total)
        return pooled


class TokenBroadcast(nn.Module):
    """Gives each token what it needs from one vector: x + Wo SiLU(Wx x + Wy y).

    Args:
      streams: Stream name -> (N, D).
      width: V.
    """

    def __init__(self, streams: StreamShapes, width: int) -> None:
        super().__init__()
        self.token = nn.ModuleDict({s: nn.Linear(d, d) for s, (_, d) in streams.items()})
        self.vector = nn.ModuleDict({s: nn.Linear(width, d) for s, (_, d) in streams.items()})
        self.out = nn.ModuleDict({s: nn.Linear(d, d) for s, (_, d) in streams.items()})

    def forward(self, streams: Streams, vector: Tensor) -> Streams:
        """Returns stream name -> [..., N, D] for tokens of that shape and [..., V]."""
        return {
            name: tokens
            + self.out[name](
                nn.functional.silu(
                    self.token[name](tokens) + self.vector[name](vector).unsqueeze(-2)
                )
            )
            for name, tokens in streams.items()
        }


class VectorAdapter(Memory):
    """Runs a `VectorMemory` behind the memory contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      inner: The vector memory.
      pool_queries: P, attention maps a stream when pooling.
      detach: Stored items get no gradient.
      capacity: Default slots, for inner memories that have some.

    Attributes:
      OWN: Options of its config that are the adapter's, and nothing to a memory of vectors.
    """

    OWN: ClassVar[tuple[str, ...]] = ("pool_queries",)

    def __init__(
        self,
        streams: StreamShapes,
        inner: VectorMemory,
        pool_queries: int = 4,
        detach: bool = False,
        capacity: int = 0,
    ) -> None:
        super().__init__(streams, capacity)
        self.inner, self.detach = inner, detach
        self.pool = TokenPool(self.streams, inner.width, pool_queries)
        self.broadcast = TokenBroadcast(self.streams, inner.width)

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns the inner memory's empty state."""
        return self.inner.initial(batch, capacity)

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Reads with the pooled query and spreads the result over the tokens."""
        pooled = self.pool(query)
        vector, inner = self.inner.read(pooled, time_s, state, reset)
        filled = self.inner.filled(state) & ~reset
        pending = {"reset": reset, "inner": inner, "query": query, "pooled": pooled}
        return self._spread(query, vector, filled), pending

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Stores the pooled item."""
        query = pending["query"]
        again = not self.detach and all(item[name] is query[name] for name in self.streams)
        pooled = pending["pooled"] if again else self._pooled_item(item)
        return self.inner.write(pending["inner"], pooled, time_s, state)

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
        """Runs T ticks; pools and spreads all of them at once unless `item_of` is given."""
        if item_of is not None:
            return super().unroll(items, time_s, state, is_first, valid, read_mask, item_of)
        queries = self.pool(items)
        stored = self._pooled_item(items) if self.detach else None
        use = filled_before(self.inner.filled(state), is_first, valid) & valid
        if read_mask is not None:
            use = use & read_mask
        vectors, state = self.inner.unroll(
            queries, time_s, state, is_first, valid, wanted=use, stored=stored
        )
        return self._spread(items, vectors, use), state

    def capacity_of(self, state: State) -> int | None:
        """Returns the inner memory's slots."""
        return self.inner.capacity_of(state)

    def nbytes_filled(self, state: State) -> int:
        """Returns the inner memory's bytes in use."""
        return self.inner.nbytes_filled(state)

    def inspect(self, query: Streams, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Returns what explains the inner memory's read."""
        return self.inner.inspect(self.pool(query), time_s, state)

    def _pooled_item(self, item: Streams) -> Tensor:
        if self.detach:
            item = {name: tensor.detach() for name, tensor in item.items()}
        pooled: Tensor = self.pool(item)
        return pooled

    def _spread(self, query: Streams, vector: Tensor, use: Tensor) -> Streams:
        spread = self.broadcast(query, vector)
        keep = use[..., None, None]
        return {n: torch.where(keep, spread[n].to(query[n].dtype), query[n]) for n in query}
