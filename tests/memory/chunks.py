"""A small memory of chunks, and ticks for it."""

from __future__ import annotations

import torch

from embodied.core.types import State
from embodied.memory.hierarchical_chunks import HierarchicalChunks, HierarchicalChunksConfig
from tests.contracts.vectors import Vectors, act, random_vectors

SMALL = {"width": 8, "heads": 2, "layers": 2, "ffn_ratio": 2, "capacity": 3, "chunk": 3}
SMALL |= {"window": 4, "top_k": 2, "time_encoding": False}


def build(**options: object) -> HierarchicalChunks:
    torch.manual_seed(0)
    return HierarchicalChunks(HierarchicalChunksConfig(**{**SMALL, **options})).eval()


def steady(memory: HierarchicalChunks, length: int, seed: int = 0, batch: int = 2) -> Vectors:
    """Ticks of one episode a row, without holes."""
    ticks = random_vectors(memory, length, seed, batch)
    yes = torch.ones_like(ticks.valid)
    return Vectors(ticks.items, ticks.time_s, ~yes, yes, yes, yes)


def after(memory: HierarchicalChunks, ticks: Vectors, batch: int = 2) -> State:
    return act(memory, ticks, memory.initial(batch))[1]
