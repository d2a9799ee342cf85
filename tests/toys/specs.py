"""What the toy policies share."""

from __future__ import annotations

from embodied.core.specs import ArraySpec
from embodied.memory.base import Memory


def memory_specs(memory: Memory) -> dict[str, ArraySpec]:
    """Returns the specs of a memory's state at its default capacity."""
    return {
        name: ArraySpec(tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in memory.initial(1).items()
    }
