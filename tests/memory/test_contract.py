"""Every built-in memory and its main options under the memory contract."""

from __future__ import annotations

import pytest

from embodied.core.types import State
from embodied.memory import build_memory
from embodied.memory.adapter import VectorAdapter
from embodied.memory.base import Memory
from embodied.memory.composite import CompositeMemory
from embodied.memory.gru import GRUVector
from tests.contracts.memory import MemoryCase, MemoryContract
from tests.contracts.tools import STREAMS


def poison(state: State) -> State:
    """Fills unused slots with garbage."""
    for name in state:
        if name.endswith(".tokens"):
            stem = name.removesuffix("tokens")
            for row, count in enumerate(state[stem + "count"]):
                state[name][row, count:] = 1e3
                state[stem + "time_s"][row, count:] = 1e3
                state[stem + "items"][row, count:] = 7
    return state


def bank(name: str = "perceptual_cognitive", **options: object) -> MemoryCase:
    def build(detach: bool) -> Memory:
        return build_memory(name, STREAMS, {"capacity": 3, "detach": detach, **options})

    shown = "-".join(f"{key}={value}" for key, value in options.items())
    return MemoryCase(f"{name}-{shown}" if shown else name, build, poison=poison)


def chained(detach: bool) -> Memory:
    """Two parts read the same streams one after the other."""
    return CompositeMemory(
        {
            "near": build_memory("perceptual_cognitive", STREAMS, {"detach": detach}),
            "far": VectorAdapter(STREAMS, GRUVector(8), detach=detach),
        }
    )


def split(detach: bool) -> Memory:
    """Each part has its own stream."""
    options = {"capacity": 3, "detach": detach}
    return CompositeMemory(
        {
            "scene": build_memory(
                "perceptual_cognitive", {"perceptual": STREAMS["perceptual"]}, options
            ),
            "self": build_memory("full_history", {"cognitive": STREAMS["cognitive"]}, options),
        }
    )


def retention(detach: bool) -> Memory:
    """Rates that differ from item to item, so that others than the oldest are dropped."""
    options = {"capacity": 3, "detach": detach, "overflow": "retention", "anchor": 1}
    memory = build_memory("perceptual_cognitive", STREAMS, options)
    for name, parameter in memory.named_parameters():
        if ".forget.weight" in name:
            parameter.data.normal_(std=3.0)
    return memory


def spatial(**options: object) -> MemoryCase:
    """Streams of two shapes, so of two sets of weights; the contract writes without marks."""
    small = {"capacity": 3, "layers": 2, "feedforward": 16, "entry_width": 8, "encoder_blocks": 1}

    def build(detach: bool) -> Memory:
        return build_memory("spatial", STREAMS, {**small, "detach": detach, **options})

    shown = "-".join(f"{key}={value}" for key, value in options.items())
    return MemoryCase(f"spatial-{shown}" if shown else "spatial", build, poison=poison)


def poison_chunks(state: State) -> State:
    """Fills empty slots of chunks, and windows before the episode's first tick, with garbage."""
    for name in state:
        if name.endswith(".number"):
            stem, empty = name.removesuffix("number"), state[name] < 0
            for part in ("contents", "keys", "time_s"):
                state[stem + part][empty] = 1e3
            if stem + "selected" in state:
                state[stem + "selected"][empty] = 77
        if name.endswith(".window"):
            for row, count in enumerate(state["count"]):
                state[name][row, : max(state[name].shape[1] - int(count), 0)] = 1e3
    return state


def layered(name: str, **options: object) -> MemoryCase:
    """Detached means here: no gradient to anything stored, in chunks or windows."""
    small = {"width": 8, "heads": 2, "layers": 2, "ffn_ratio": 2}
    if name == "hierarchical_chunks":
        small |= {"capacity": 3, "chunk": 2, "window": 3, "top_k": 2}

    def build(detach: bool) -> Memory:
        both = {"detach": detach}
        if name == "hierarchical_chunks":
            both["detach_window"] = detach
        memory = build_memory(name, STREAMS, {**small, **both, **options})
        for part, parameter in memory.named_parameters():
            if ".forget.weight" in part:
                parameter.data.normal_(std=3.0)
        return memory

    shown = "-".join(f"{key}={value}" for key, value in options.items())
    return MemoryCase(f"{name}-{shown}" if shown else name, build, poison=poison_chunks)


CASES = [
    MemoryCase("none", lambda _: build_memory("none", STREAMS), remembers=False, detachable=False),
    MemoryCase("gru", lambda d: build_memory("gru", STREAMS, {"width": 16, "detach": d})),
    MemoryCase(
        "recurrent-tokens",
        lambda d: build_memory("recurrent_tokens", STREAMS, {"heads": 2, "detach": d}),
    ),
    bank(),
    bank(overflow="fifo", heads=2, time_encoding=False),
    bank(count_weighted=True, merged_time="mean", pool={"perceptual": 2}, qk_init="independent"),
    bank(anchor=1, time_features=5),
    bank(anchor=2, overflow="fifo"),
    MemoryCase("perceptual_cognitive-retention", retention, poison=poison),
    bank("full_history", layers=1),
    spatial(),
    spatial(anchor=1, window=2, read="all"),
    MemoryCase("lstm", lambda d: build_memory("lstm", STREAMS, {"width": 16, "detach": d})),
    layered("transformer_xl", capacity=4),
    layered("gated_transformer_xl", capacity=3, time_encoding=False),
    layered("hierarchical_chunks"),
    layered("hierarchical_chunks", relevance_norm="all", eviction="least_selected"),
    layered("hierarchical_chunks", eviction="retention", layers=1),
    MemoryCase("composite-shared-streams", chained, poison=poison),
    MemoryCase("composite-own-streams", split, poison=poison),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestMemories(MemoryContract):
    pass
