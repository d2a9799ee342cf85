"""Steps a second of every task of the suite, while its expert's actions are repeated.

An expert's episode holds what costs: grasps, presses, blocks that lie against each other. Resets
are not part of it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.timing import Figure, Plan, Slice, take_turns
from embodied import registry
from embodied.core.task import IMITATION, EnvConfig

STATE = EnvConfig(observation="state")
SEEDS = range(1, 5)
STEPS = "steps/s"


def measure(plan: Plan) -> list[Figure]:
    """Returns the figures of all tasks."""
    return list(each_task(plan, registry.task_names(IMITATION)))


def each_task(plan: Plan, tasks: list[str]) -> Iterator[Figure]:
    """Yields each task's steps/s while its expert's actions are repeated, grasps and all."""
    for task in tasks:
        level = next(iter(registry.task_info(task).levels))
        with closing(registry.make_env(task, level, STATE)) as env:
            bare = env.unwrapped
            episodes = [(seed, expert_actions(env, seed)) for seed in SEEDS]
            rates = take_turns(
                {
                    "step": _replaying(lambda s, e=env: e.reset(seed=s), env.step, episodes),
                    "raw": _replaying(bare.start, bare.advance, episodes),
                },
                plan,
            )
        what = f"{level}, the expert's actions"
        yield Figure(f"steps_{task}", rates["step"], None, STEPS, f"{what}, state observed")
        yield Figure(f"raw_steps_{task}", rates["raw"], None, STEPS, f"{what}, nothing observed")


def expert_actions(env: Any, seed: int) -> np.ndarray:
    """Returns the expert's actions of one episode, float32 [T, 7]."""
    env.reset(seed=seed)
    expert = env.unwrapped.make_expert(seed, 0.0)
    expert.reset()
    actions, over = [], False
    while not over:
        actions.append(expert.act())
        _, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
    return np.stack(actions)


def _replaying(
    start: Callable[[int], object],
    step: Callable[[np.ndarray], object],
    episodes: list[tuple[int, np.ndarray]],
) -> Slice:
    turns = itertools.cycle(episodes)

    def work(seconds: float) -> tuple[float, float]:
        count, spent = 0, 0.0
        while spent < seconds:
            seed, actions = next(turns)
            start(seed)
            began = time.perf_counter()
            for action in actions:
                step(action)
            spent += time.perf_counter() - began
            count += len(actions)
        return count, spent

    return work
