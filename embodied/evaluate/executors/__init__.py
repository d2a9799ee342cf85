"""Executors turn a policy's answer into one control action a tick.

numpy only, batched over rows, and blind to everything but observation keys: the same code
runs in the simulator's runner and in the loop beside a robot.

What an executor holds between ticks is motion that was decided from an earlier observation.
It must not outlive that observation's phase (it would be memory in disguise), so the caller
clears rows at the start of an episode, at every gate and while a row is held.
"""

from __future__ import annotations

import dataclasses

from embodied.core.errors import ConfigError
from embodied.core.specs import DISCRETE, KEYFRAME, PolicySpec
from embodied.evaluate.executors.base import Executor, Observation
from embodied.evaluate.executors.choice import ChoiceExecutor
from embodied.evaluate.executors.chunks import ChunkEnsemble, ChunkExecutor, ChunkPrefix
from embodied.evaluate.executors.config import (
    EXECUTORS,
    GRIPPERS,
    PREFIX,
    ExecutorConfig,
    KeyframeConfig,
)
from embodied.evaluate.executors.keyframe import KEYFRAME_NAMES, OUTCOMES, KeyframeExecutor

__all__ = [
    "EXECUTORS",
    "GRIPPERS",
    "KEYFRAME_NAMES",
    "OUTCOMES",
    "ChoiceExecutor",
    "ChunkEnsemble",
    "ChunkExecutor",
    "ChunkPrefix",
    "Executor",
    "ExecutorConfig",
    "KeyframeConfig",
    "KeyframeExecutor",
    "Observation",
    "build_executor",
    "resolved",
]


def resolved(config: ExecutorConfig, spec: PolicySpec) -> ExecutorConfig:
    """Returns `config` with the name of the executor that runs a policy's actions.

    Chunks are run as `config` says; there is one way to run keyframes, and one to run choices.
    """
    kind = spec.action.kind
    if kind in (KEYFRAME, DISCRETE) and config.name == PREFIX:
        return dataclasses.replace(config, name=kind)
    return config


def build_executor(config: ExecutorConfig, spec: PolicySpec, batch: int) -> Executor:
    """Returns the executor for `batch` rows of a policy.

    Raises:
      ConfigError: If the policy's actions don't fit the executor.
    """
    config = resolved(config, spec)
    if (config.name == DISCRETE) != (spec.action.kind == DISCRETE):
        raise ConfigError(
            f"executor.name={config.name} does not run {spec.action.kind!r} actions; leave it out"
        )
    if config.name == DISCRETE:
        return ChoiceExecutor(spec, batch)
    if config.name == KEYFRAME:
        return KeyframeExecutor(spec, batch, config.keyframe)
    if config.name == PREFIX:
        return ChunkPrefix(spec, batch, config.gripper)
    return ChunkEnsemble(spec, batch, config.gripper, config.ensemble_chunks, config.ensemble_alpha)
