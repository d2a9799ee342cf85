"""Rules of a task that a few episodes show; those of its row alone are in `rules`.

`embodied certify` plays them before it measures anything, for every task, those of other packages
included. What must hold for every pair of cues is certified instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from embodied.core.task import EXECUTE
from sims.memory_bench import rules
from sims.memory_bench.action import ACTION_SIZE

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

SEED = 11
_IDLE = np.zeros(ACTION_SIZE, np.float32)


def check(env: MemoryBenchEnv) -> None:
    """Refuses a task that breaks a rule when it is played.

    Args:
      env: An unwrapped environment of the task, observing the state.

    Raises:
      ConfigError: Naming the task, the rule, and what was found.
    """
    rules.keep(RULES, env.info, env)


def _idle(env: MemoryBenchEnv) -> str:
    env.start(SEED)
    task = env.task
    for _ in range(env.horizon + 1):
        if task.decided:
            break
        env.advance(_IDLE)
    if task.committed or task.failure_kind != "timeout":
        how = f"committed to {task.committed!r}" if task.committed else repr(task.failure_kind)
        return f"without a motion it ended as {how}"
    return ""


def _solved(env: MemoryBenchEnv) -> str:
    env.start(SEED)
    task, expert = env.task, env.make_expert(SEED)
    while not task.decided:
        value = float(task.potential())
        if not 0.0 <= value < 1.0:
            return f"the dense reward is {value} at tick {task.tick} of {task.phase}"
        if task.committed and task.phase != EXECUTE:
            return f"{task.committed!r} was committed in {task.phase}"
        env.advance(expert.act())
    if not task.success:
        return f"its expert ended with {task.failure_kind!r}"
    if task.committed != task.target() or float(task.potential()) != 1.0:
        return (
            f"success ended with a reward of {float(task.potential())}, commit {task.committed!r} "
            f"and target {task.target()!r}"
        )
    return ""


def _restored(env: MemoryBenchEnv) -> str:
    env.start(SEED)
    expert, actions = env.make_expert(SEED), []
    while not env.task.decided:
        actions.append(expert.act())
        env.advance(actions[-1])
    for start in (len(actions) // 4, 3 * len(actions) // 4):
        env.start(SEED)
        for action in actions[:start]:
            env.advance(action)
        saved = env.save_state()
        ends = []
        for _ in range(2):
            env.restore_state(saved)
            for action in actions[start:]:
                env.advance(action)
            ends.append(env.save_state())
        for name, value in ends[0].items():
            if not np.array_equal(value, ends[1][name]):
                return f"{name!r} ends otherwise when tick {start} is restored"
    return ""


def _drawn(env: MemoryBenchEnv) -> str:
    starts = []
    for seed in (SEED, SEED + 1, SEED):
        env.start(seed)
        starts.append(env.save_state())
    for name, value in starts[0].items():
        if not np.array_equal(value, starts[2][name]):
            return f"{name!r} differs between two starts of one seed"
    return ""


RULES: Mapping[str, Callable[[MemoryBenchEnv], str]] = {
    "the seed alone decides how an episode starts": _drawn,
    "doing nothing times out, without a commit": _idle,
    "the expert succeeds, and the reward leads from below 1 to 1": _solved,
    "a restored state goes on bit for bit": _restored,
}
"""Rule -> what is wrong with a task, empty where it is kept."""
