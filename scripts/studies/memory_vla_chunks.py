"""Hierarchical chunks as the memory of MemoryVLA: PutBlockBack from the simulator's state.

It learns from ``embodied collect task=put_block_back observation=state episodes=1600
label_horizon=8``.
"""

from __future__ import annotations

from studies.study import Study, Variant

TWO = (0, 1)

STUDY = Study(
    name="memory_vla_chunks",
    title="MemoryVLA with hierarchical chunks, by imitation",
    about=(
        "PutBlockBack (four places) from the simulator's state, each run 800 steps of 8 "
        "demonstrations: a block is carried from its place and put back there after a gap. The "
        "policy is MemoryVLA with another memory in the place of its own; each memory has its own "
        "defaults. Swapped memories are those of episodes with another cue. Chance is 25 %."
    ),
    train=(
        "task=put_block_back",
        "observation=state",
        "preset=state",
        "steps=800",
        "checkpoint_every=200",
    ),
    evaluate=(
        "episodes=500",
        "intervene=none,swapped",
        "intervene_episodes=150",
        "seed_start=1900000",
        "videos=0",
    ),
    variants=(
        Variant(
            "hierarchical_chunks",
            "hierarchical chunks of 8 ticks, 4 read, two layers",
            ("memory=hierarchical_chunks",),
            seeds=TWO,
        ),
        Variant("lstm", "LSTM", ("memory=lstm",), seeds=TWO),
        Variant("none", "no memory: the twin", ("memory=none",), ("intervene=none",), TWO),
    ),
    facts=("parameters", "state bytes"),
)
