"""Random ticks and comparisons that the contracts of memories and policies share."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from embodied.core.types import State, Streams
from embodied.memory.base import Memory

STREAMS = {"perceptual": (4, 8), "cognitive": (1, 6)}
TOLERANCE = 1e-5
BATCH = 3
PERIOD_S = 0.4


class NoCopies(TorchFunctionMode):
    """Inside it, making a tensor of data that lies elsewhere is an error."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.from_numpy)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert func not in self.MAKERS, f"{func.__name__} of {args[0]!r} inside a step"
        return func(*args, **(kwargs or {}))


@dataclasses.dataclass
class Ticks:
    """Inputs of T ticks; `items` stream name -> [B, T, N, D]."""

    items: Streams
    time_s: Tensor
    is_first: Tensor
    valid: Tensor
    read_mask: Tensor

    @property
    def length(self) -> int:
        return self.time_s.shape[1]

    def query(self, t: int) -> Streams:
        return {name: tensor[:, t] for name, tensor in self.items.items()}

    def rows(self, index: Tensor) -> Ticks:
        items = {name: tensor[index] for name, tensor in self.items.items()}
        rest = (self.time_s, self.is_first, self.valid, self.read_mask)
        return Ticks(items, *(tensor[index] for tensor in rest))

    def span(self, start: int, stop: int) -> Ticks:
        items = {name: tensor[:, start:stop] for name, tensor in self.items.items()}
        rest = (self.time_s, self.is_first, self.valid, self.read_mask)
        return Ticks(items, *(tensor[:, start:stop] for tensor in rest))


def random_ticks(memory: Memory, length: int, seed: int, batch: int = BATCH) -> Ticks:
    """Returns ticks with some resets, holes and skipped reads, of the memory's dtype."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next((parameter.dtype for parameter in memory.parameters()), torch.float32)
    items = {
        name: torch.randn(batch, length, *shape, generator=generator).to(dtype)
        for name, shape in memory.streams.items()
    }
    chance = torch.rand(3, batch, length, generator=generator)
    time_s = PERIOD_S * torch.arange(length).expand(batch, length)
    return Ticks(items, time_s, chance[0] < 0.15, chance[1] < 0.85, chance[2] < 0.7)


def plain_ticks(memory: Memory, length: int, seed: int = 0, batch: int = BATCH) -> Ticks:
    """Returns ticks of one episode a row, without resets, holes or skipped reads."""
    ticks = random_ticks(memory, length, seed, batch)
    yes = torch.ones_like(ticks.valid)
    return Ticks(ticks.items, ticks.time_s, ~yes, yes, yes)


def run(memory: Memory, ticks: Ticks, state: State, **options: object) -> tuple[Streams, State]:
    return memory.unroll(ticks.items, ticks.time_s, state, ticks.is_first, ticks.valid, **options)


def fill(memory: Memory, length: int = 5, seed: int = 1, batch: int = BATCH) -> State:
    """Returns a state that has seen `length` ticks."""
    return run(memory, plain_ticks(memory, length, seed, batch), memory.initial(batch))[1]


def no_reset(batch: int = BATCH) -> Tensor:
    return torch.zeros(batch, dtype=torch.bool)


def assert_close(left: State, right: State, tolerance: float = TOLERANCE) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].shape == right[name].shape, name
        error = (left[name].double() - right[name].double()).abs()
        assert error.numel() == 0 or error.max() <= tolerance, (name, error.max())


def assert_equal(left: State, right: State) -> None:
    assert_close(left, right, tolerance=0.0)


def clone(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def run_state(memory: Memory, ticks: Ticks) -> State:
    """Returns the detached state after `ticks` from empty."""
    with torch.no_grad():
        return run(memory, ticks, memory.initial(BATCH))[1]
