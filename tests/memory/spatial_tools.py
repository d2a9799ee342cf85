"""Small spatial memories over three views, and what is put into them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.types import State, Streams
from embodied.memory import build_memory
from embodied.memory.base import Memory
from embodied.memory.slots import Slots
from embodied.memory.spatial import SpatialMemory
from embodied.memory.spatial_bank import SpatialBank

VIEWS = ("top", "front", "right")
SIDE, WIDTH, PIXELS, ROWS = 4, 16, 32, 2
TOKENS = SIDE * SIDE
SMALL = {"capacity": 3, "layers": 2, "feedforward": 32, "entry_width": 8}


def shake(module: nn.Module, scale: float = 0.2) -> None:
    """Moves every parameter, so that branches which start near zero take part."""
    for parameter in module.parameters():
        parameter.data.add_(scale * torch.randn_like(parameter))


def build(views: tuple[str, ...] = VIEWS, **options: object) -> SpatialMemory:
    torch.manual_seed(0)
    memory = build_memory("spatial", dict.fromkeys(views, (TOKENS, WIDTH)), {**SMALL, **options})
    assert isinstance(memory, SpatialMemory)
    shake(memory)
    return memory.eval()


def bank_of(memory: SpatialMemory) -> SpatialBank:
    return memory.banks[f"{TOKENS}x{WIDTH}"]  # type: ignore[return-value]


def features(seed: int, rows: int = ROWS, views: tuple[str, ...] = VIEWS) -> Streams:
    generator = torch.Generator().manual_seed(seed)
    return {v: torch.randn(rows, TOKENS, WIDTH, generator=generator) for v in views}


def marks(seed: int, rows: int = ROWS, views: tuple[str, ...] = VIEWS) -> Streams:
    generator = torch.Generator().manual_seed(1000 + seed)
    return {f"{v}.mark": torch.randn(rows, PIXELS**2, 1, generator=generator) for v in views}


def no(rows: int = ROWS) -> Tensor:
    return torch.zeros(rows, dtype=torch.bool)


def at(t: float, rows: int = ROWS) -> Tensor:
    return torch.full((rows,), float(t))


def push(memory: Memory, item: Streams, t: float, state: State, reset: Tensor | None = None):
    reset = no(len(next(iter(item.values())))) if reset is None else reset
    return memory.write({"reset": reset}, item, at(t, len(reset)), state)


def fill(memory: Memory, steps: int, rows: int = ROWS, seed: int = 0) -> State:
    state, views = memory.initial(rows), tuple(memory.streams)
    for t in range(steps):
        item = {**features(seed + t, rows, views), **marks(seed + t, rows, views)}
        state = push(memory, item, t, state)
    return state


def read(memory: Memory, query: Streams, state: State, reset: Tensor | None = None) -> Streams:
    rows = len(next(iter(query.values())))
    return memory.read(query, at(99, rows), state, no(rows) if reset is None else reset)[0]


def moved(left: Streams, right: Streams) -> float:
    return max(float((left[name] - right[name]).abs().max().detach()) for name in left)


def permuted(state: State, order: list[int]) -> State:
    """Moves the maps alone; times and counts stay."""
    return {k: v[:, order] if k.endswith(".tokens") else v for k, v in state.items()}


def code_used(memory: SpatialMemory, state: State) -> list[list[int]]:
    """Returns, for each slot in use, which rows of the temporal table its read depends on."""
    bank, live = bank_of(memory), int(state["top.count"][0])
    query, rows = features(50), []
    plain = read(memory, query, state)
    for row in range(len(bank.temporal)):
        kept = bank.temporal.data.clone()
        bank.temporal.data[row] += 1.0
        if moved(read(memory, query, state), plain) > 1e-4:
            rows.append(row)
        bank.temporal.data.copy_(kept)
    ago = bank.steps_ago(slots_of(state, "top"))[0, :live].tolist()
    return [rows, ago]


def slots_of(state: State, name: str) -> Slots:
    return Slots(*(state[f"{name}.{f.name}"] for f in dataclasses.fields(Slots)))


class Decoder(nn.Module):
    """Predicts each view's heatmap from what was read: the part of a policy that memory needs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, (PIXELS // SIDE) ** 2)

    def forward(self, query: Streams, value: Streams) -> Streams:
        rows = len(query["top"])
        logits = {f"{v}.mark": self.out(value[v]).reshape(rows, -1, 1) for v in VIEWS}
        return {**{v: query[v] for v in VIEWS}, **logits}


def segment(length: int = 10) -> tuple[Streams, Tensor, Tensor, Tensor]:
    ticks = [features(t) for t in range(length)]
    items = {v: torch.stack([tick[v] for tick in ticks], dim=1) for v in VIEWS}
    valid = torch.ones(ROWS, length, dtype=torch.bool)
    return items, torch.arange(float(length)).expand(ROWS, length), ~valid, valid
