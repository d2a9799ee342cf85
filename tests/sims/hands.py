"""Scripted hands for the tests of tasks: the expert's legs on a path of the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from embodied.core.task import CUE, EXECUTE
from sims.memory_bench.task import Waypoint


def finish_cue(env: Any, seed: int, cue: int | None = None) -> None:
    """Resets `env` and lets the expert play until go."""
    env.reset(seed=seed, options={} if cue is None else {"cue": cue})
    expert = env.make_expert(seed)
    while env.task.phase != EXECUTE:
        assert not env.task.decided, env.task.failure_kind
        env.advance(expert.act())


def follow(env: Any, waypoints: Iterable[Waypoint], until: Callable[[], bool] | None = None) -> int:
    """Moves along waypoints in the present phase; returns the ticks it took.

    Stops when the outcome is decided, the phase changes, `until` says so, or two seconds after
    the last waypoint was reached.
    """
    task = env.task
    path, phase = [dataclasses.replace(w, keyframe=True) for w in waypoints], task.phase
    path[-1] = dataclasses.replace(path[-1], dwell_ticks=max(path[-1].dwell_ticks, 40))
    original = task.waypoints, task.replan
    task.waypoints, task.replan = lambda: path, lambda stage, goal: None
    ticks, expert = 0, env.make_expert(0)
    reached = 0
    try:
        while not task.decided and task.phase == phase and not (until and until()):
            env.advance(expert.act())
            ticks += 1
            reached += expert.keyframe_label
            if reached == len(path) or ticks > 400:
                break
    finally:
        task.waypoints, task.replan = original
    return ticks


def check_common(env: Any) -> None:
    """What holds for every task: bounded dense reward, replay from a saved state, phases."""
    env.reset(seed=5)
    expert = env.make_expert(5)
    trace, saved = [], None
    while not env.task.decided:
        if env.task.phase == EXECUTE and env.task.phase_tick == 12 and saved is None:
            saved = (env.save_state(), expert.state(), len(trace))
        env.advance(expert.act())
        trace.append(env.save_state())
        assert 0.0 <= env.task.potential() <= 1.0
    assert env.task.success and env.task.potential() == 1.0
    env.reset(seed=9)
    env.restore_state(saved[0])
    expert.restore(saved[1])
    for expected in trace[saved[2] :]:
        env.advance(expert.act())
        now = env.save_state()
        for name in expected:
            np.testing.assert_array_equal(now[name], expected[name], err_msg=name)
    assert env.task.success


def rising_potential(env: Any, seed: int) -> list[float]:
    """Returns the dense reward at the start, when the cue phase ends, at go and at the end."""
    env.reset(seed=seed)
    expert = env.make_expert(seed)
    values = [env.task.potential()]
    while not env.task.decided:
        if env.advance(expert.act()):
            values.append(env.task.potential())
    return [*values, env.task.potential()]


def press_first(env: Any, seed: int) -> None:
    """Presses the button before any step is done: nothing may come of it."""
    env.reset(seed=seed)
    lamp = env.scene.lamp_rgb()
    pressed = []
    follow(env, env.task.press_path(), lambda: pressed.append(env.task.press_depth_m()))
    assert max(pressed) > 0.007
    assert env.task.phase == CUE and not env.task.decided
    assert env.task.vars["steps_done"] == 0
    np.testing.assert_array_equal(env.scene.lamp_rgb(), lamp)
