"""A policy of a few thousand weights, its data, and environments for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from embodied.core.specs import ArraySpec
from embodied.core.task import EnvConfig
from embodied.core.types import Segment
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.train.config import Component, OptimConfig, TrainConfig
from tests.data.conftest import collect_fake
from tests.evaluate.fakes import OBSERVATIONS, FakeVecEnv

POLICY = {
    "width": 16,
    "channels": [8, 16],
    "readout_queries": 2,
    "head": {"dit": {"depth": 1, "hidden": 16, "heads": 2}},
}
INSTRUCTION = ArraySpec((160,), "uint8")


def make_data(out: Path) -> Path:
    """Collects twelve seeds of the fake task."""
    collect_fake(out, config=EnvConfig(image_size=16))
    return out


def make_config(data: Path, **options) -> TrainConfig:
    """Returns a run of 100 steps on `data`; short memories, so that slots merge."""
    options = {
        "steps": 100,
        "batch_episodes": 4,
        "log_every": 20,
        "checkpoint_every": 50,
        "optim": OptimConfig(lr=5e-3, warmup_steps=10),
        "memory": Component("perceptual_cognitive", {"capacity": 3}),
        "policy": Component("memory_vla", POLICY),
        **options,
    }
    return TrainConfig(task=["fake"], data=[str(data)], **options)


def make_segment(data: Path) -> Segment:
    """Returns a batch of four episodes; one ends early, so that there is padding."""
    segment = SegmentDataset(data, SegmentConfig(batch_episodes=4)).batch(0)
    segment.valid[0, -3:] = False
    for mask in (segment.act_mask, segment.chunk_valid, segment.extras["goal_valid"]):
        mask[~segment.valid] = False
    assert not segment.act_mask[segment.valid].all(), "held ticks are part of it"
    return segment


class InstructedVecEnv(FakeVecEnv):
    """The runner's tiny environment with the instruction that MemoryVLA reads."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.observation_specs = {**OBSERVATIONS, "instruction_u8": INSTRUCTION}
        self.obs["instruction_u8"] = np.full((num_envs, 160), ord("a"), np.uint8)
