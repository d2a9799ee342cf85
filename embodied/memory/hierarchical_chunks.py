"""Hierarchical chunk attention: stored ticks in chunks, a few chunks chosen by their summaries.

Each layer attends to its last inputs (the window), then to finished chunks of them: it compares
the present with the mean of every chunk, takes the k most relevant, and attends inside those. A
step costs M D + 2 k C D H multiply-adds a layer beside its projections: however long ago a chunk
was written, it costs one product with its mean.

Shape letters: B rows, L layers, M chunk slots, C vectors of a chunk, A past ticks of a window,
k chunks read, D width.
"""

from __future__ import annotations

from embodied.core.types import State
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import StreamShapes
from embodied.memory.chunk_config import HierarchicalChunksConfig
from embodied.memory.chunk_layer import ChunkLayer
from embodied.memory.chunk_slots import EMPTY
from embodied.memory.layered import LayeredMemory

__all__ = ["HierarchicalChunks", "HierarchicalChunksConfig", "HierarchicalChunksMemory"]


class HierarchicalChunks(LayeredMemory):
    """Hierarchical chunk attention over vectors.

    State: ``count`` int64 [B], ticks since the reset, and of each layer i: ``<i>.window``
    [B, A, D], its last inputs, the oldest first; ``<i>.contents`` [B, M, C, D], the inputs of
    finished chunks; ``<i>.keys`` [B, M, D], their means; ``<i>.number`` int64 [B, M], which chunk
    of the episode it is, -1 for an empty slot; ``<i>.time_s`` [B, M], when it was finished; and
    with eviction "least_selected" ``<i>.selected`` int64 [B, M]. Capacity is M. Vectors are
    stored as they came in: no projection of them has to be kept or made again, since the maps of
    keys and values move to the query's side.

    The unfinished chunk is the end of the window. A chunk finished at tick t is read from t + 1.

    Args:
      config: Options.

    Raises:
      ConfigError: For options that do not fit together.

    Source: HCAM, Towards mental time travel (arXiv 2105.14039). Deviations: empty slots are never
    read (the released code reads all of them where none is valid); the window has Transformer-XL
    positions; eviction, which a closed memory of the paper's sizes does not need.
    """

    def __init__(self, config: HierarchicalChunksConfig) -> None:
        config.check()
        super().__init__(
            config.width,
            [ChunkLayer(config) for _ in range(config.layers)],
            config.capacity,
            config.time_encoding,
            config.time_scale_hz,
        )
        self.config = config

    def capacity_of(self, state: State) -> int | None:
        """Returns the chunk slots of the state's layers."""
        return int(state["0.number"].shape[1])

    def nbytes_filled(self, state: State) -> int:
        """Returns the bytes of chunks and window ticks in use, and of the counter."""
        count = state["count"]
        total = count.numel() * count.element_size()
        for i in range(len(self.layers)):
            window, held = state[f"{i}.window"], state[f"{i}.number"] != EMPTY
            ticks = int(count.clamp(max=window.shape[1]).sum())
            total += ticks * self.width * window.element_size()
            for name, tensor in state.items():
                if name.startswith(f"{i}.") and name != f"{i}.window":
                    total += int(held.sum()) * tensor[:1, :1].numel() * tensor.element_size()
        return total


class HierarchicalChunksMemory(VectorAdapter):
    """Hierarchical chunk attention behind the contract of token streams.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = HierarchicalChunksConfig

    def __init__(
        self, streams: StreamShapes, config: HierarchicalChunksConfig | None = None
    ) -> None:
        config = config or HierarchicalChunksConfig()
        inner = HierarchicalChunks(config)
        super().__init__(streams, inner, config.pool_queries, capacity=config.capacity)
        self.config = config
