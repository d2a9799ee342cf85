"""Expert and reactive twin: what the one succeeds in, and what a reactive twin leaves in sight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.proportion import wilson
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench import aliasing
from sims.memory_bench.action import CONTROL_HZ
from sims.memory_bench.aliasing import AllModes, Progress

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv


def expert_success(
    env: MemoryBenchEnv,
    first_seed: int,
    episodes: int,
    noise: float,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures the privileged expert on fresh seeds, each with its own balanced cue.

    Args:
      env: An unwrapped environment.
      first_seed: Of `episodes` seeds in a row.
      episodes: How many.
      noise: Of the expert; 0 for none.
      progress: See :data:`sims.memory_bench.aliasing.Progress`.

    Returns:
      ``episodes``, ``successes``, ``success`` with Wilson's 95 % ``low`` and ``high``,
      ``failures`` (kind -> count), ``failed_seeds``, ``first_seed``, ``noise``, and the mean
      lengths ``cue_s`` and ``execute_s``.
    """
    failures: dict[str, int] = {}
    failed, cue_ticks, execute_ticks = [], [], []
    what = "noisy expert" if noise else "expert"
    for index in range(episodes):
        seed = first_seed + index
        lengths = _play_without_gap(env, seed, noise)
        task = env.task
        if task.success:
            cue_ticks.append(lengths[0])
            execute_ticks.append(lengths[1])
        else:
            kind = f"{task.failure_kind} in {task.phase}"
            failures[kind] = failures.get(kind, 0) + 1
            failed.append(seed)
        if progress:
            progress(what, index + 1, episodes)
    successes = len(cue_ticks)
    low, high = wilson(successes, episodes)
    return {
        "episodes": episodes,
        "successes": successes,
        "success": successes / episodes,
        "low": low,
        "high": high,
        "noise": noise,
        "first_seed": first_seed,
        "failures": failures,
        "failed_seeds": failed,
        "cue_s": _mean_s(cue_ticks),
        "execute_s": _mean_s(execute_ticks),
    }


def _mean_s(ticks: Sequence[int]) -> float | None:
    return round(float(np.mean(ticks)) / CONTROL_HZ, 2) if ticks else None


def _play_without_gap(env: MemoryBenchEnv, seed: int, noise: float) -> tuple[int, int]:
    """Plays the expert's episode but for what the arm is held for.

    Returns:
      Ticks of the cue phase (a held one counted in full) and of the execute phase.
    """
    env.reset(seed=seed)
    task, expert = env.task, env.make_expert(seed=seed, noise=noise)
    ticks = {CUE: 0, EXECUTE: 0}
    while not task.decided:
        if task.held:
            ticks[CUE] += task.cue_ticks if task.phase == CUE else 0
            task._snap(EXECUTE)
        ticks[task.phase] += 1
        env.advance(expert.perturb(expert.act()))
    return ticks[CUE], ticks[EXECUTE]


def telling(env: MemoryBenchEnv, seeds: Sequence[int]) -> set[str]:
    """Returns the observation keys of a reactive twin that say what is right.

    Those differ at go, or along a row of choices, wherever another choice is right.

    Args:
      env: An unwrapped environment with pictures and knob ``visible_cue`` 1.
      seeds: Episode seeds.
    """
    observe = AllModes(env)
    found = [_telling(moments) for seed in seeds for moments in _twin_moments(env, observe, seed)]
    return set.intersection(*found)


Moment = tuple[str, Mapping[str, np.ndarray]]
"""What has to be chosen, and what is observed then."""


def _twin_moments(env: MemoryBenchEnv, observe: AllModes, seed: int) -> list[list[Moment]]:
    """Returns moments of a reactive twin to be told apart: go of all cues, or a row of choices."""
    rows, at_go = [], []
    for cue in aliasing.spread_cues(env):
        env.reset(seed=seed, options={"cue": cue})
        if env.info.progress:
            rows.append(aliasing.watch_choices(env, observe))
        else:
            env.task._snap(EXECUTE)
            at_go.append((env.task.target(), observe.observation()))
    return rows or [at_go]


def _telling(seen: Sequence[Moment]) -> set[str]:
    """Returns the observation keys that tell apart every two moments with different targets."""
    telling = set()
    for key in seen[0][1]:
        targets: dict[bytes, set[str]] = {}
        for target, observation in seen:
            targets.setdefault(observation[key].tobytes(), set()).add(target)
        if all(len(those) == 1 for those in targets.values()):
            telling.add(key)
    return telling
