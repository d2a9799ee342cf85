"""Stack: its condition of success, failures and the expert. What it shares stands in test_lift."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from sims.memory_bench.manipulation import RELEASE_TICKS, SAFE_Z_M
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.task import OPEN, Waypoint
from sims.memory_bench.tasks.stack import BASE, INFO, TOP, Stack
from tests.sims.hands import follow

pytestmark = pytest.mark.sim

TASK = "stack"
LEVELS = tuple(INFO.levels)


@pytest.mark.parametrize(("level", "noise"), [*((lv, 0.0) for lv in LEVELS), ("easy", 1.0)])
def test_expert_succeeds(make_env, level, noise):
    env = make_env(TASK, level=level)
    for seed in range(500, 504):
        env.reset(seed=seed)
        expert, frames = env.make_expert(seed, noise), 0
        while not env.task.decided:
            env.advance(expert.perturb(expert.act()))
            frames += expert.keyframe_label
        assert env.task.success, (seed, env.task.failure_kind)
        assert env.task.committed == env.task.target() == TOP
        assert frames >= 4
        red, green = env.scene.pos(TOP), env.scene.pos(BASE)
        assert red[2] - green[2] == pytest.approx(sum(h for h, _ in env.task.cubes().values()),
                                                  abs=0.004)  # fmt: skip


def test_it_must_stand_for_longer_than_a_fifth_of_a_second(make_env):
    env = make_env(TASK)
    env.reset(seed=1)
    env.scene.place(TOP, env.task._place(), env.task.plan["yaw"][1])
    env.scene.settle()
    ticks = 0
    while not env.task.decided:
        env.advance(np.zeros(7))
        ticks += 1
    assert env.task.success and RELEASE_TICKS <= ticks <= RELEASE_TICKS + 2


def test_held_on_the_other_cube_is_not_stacked(make_env):
    env = make_env(TASK)
    env.reset(seed=2)
    path = env.task.waypoints()
    x, y, z = path[-2].pos_world_m
    down = Waypoint((x, y, z - 0.006), path[-2].yaw_rad, tol_m=0.012, dwell_ticks=30)
    held = [*path[:-2], down]
    follow(env, held)
    assert env.task.grasped(TOP) and env.task._touching() and not env.task.decided
    follow(env, [Waypoint(held[-1].pos_world_m, held[-1].yaw_rad, OPEN, 0.02, 6)])
    assert env.task.success


def test_beside_the_other_cube_is_not_stacked(make_env):
    """Touching it, free of the fingers, but on the table."""
    env = make_env(TASK)
    env.reset(seed=3)
    x, y, _ = env.scene.pos(BASE)
    halves = env.knobs["half_m"] + env.knobs["base_half_m"]
    env.scene.place(BASE, (x, y, TABLE_TOP_M + env.knobs["base_half_m"]), 0.0)
    env.scene.place(TOP, (x + halves - 0.0005, y, TABLE_TOP_M + env.knobs["half_m"]), 0.0)
    env.scene.settle()
    assert env.task._touching() and not env.task.lifted(TOP)
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "timeout"


def test_the_green_cube_on_the_red_one_is_not_stacked(make_env):
    env = make_env(TASK)
    env.reset(seed=4)
    x, y, _ = env.scene.pos(TOP)
    env.scene.place(TOP, (x, y, TABLE_TOP_M + env.knobs["half_m"]), 0.0)
    top = TABLE_TOP_M + 2 * env.knobs["half_m"] + env.knobs["base_half_m"]
    env.scene.place(BASE, (x, y, top), 0.0)
    env.scene.settle()
    for _ in range(20):
        env.advance(np.zeros(7))
    assert env.task._touching() and not env.task.decided


def test_a_cube_that_falls_off_is_stacked_again(make_env):
    env = make_env(TASK)
    env.reset(seed=5)
    expert, dropped = env.make_expert(5), False
    while not env.task.decided:
        action = expert.act()
        if (
            not dropped
            and expert._path[expert._index, 2] > SAFE_Z_M - 0.01
            and (env.task.vars["stacked_ticks"] >= 1)
        ):
            dropped = True
            x, y, _ = env.scene.pos(BASE)
            env.scene.place(TOP, (x, y - 0.09, TABLE_TOP_M + env.knobs["half_m"]), 0.3)
        env.advance(action)
    assert dropped and env.task.success


def test_the_hand_keeps_clear_of_the_other_cube(make_env):
    """Neighbours as close as scenes have them stay where they are while the hand grasps."""
    env = make_env(TASK)
    for seed, angle in enumerate(np.linspace(0.0, np.pi, 9)):
        env.reset(seed=seed)
        x, y, _ = env.scene.pos(TOP)
        apart = np.sqrt(2) * (env.knobs["half_m"] + env.knobs["base_half_m"]) + 0.012
        base = np.array([x + apart * np.cos(angle), y + apart * np.sin(angle)])
        env.scene.place(BASE, (*base, TABLE_TOP_M + env.knobs["base_half_m"]), angle)
        env.scene.settle()
        follow(env, env.task.waypoints()[:3])
        assert env.task.lifted(TOP)
        assert np.hypot(*(env.scene.pos(BASE)[:2] - base)) < 0.006, angle


def test_no_room_for_both_cubes_is_said(make_env):
    with pytest.raises(ConfigError, match="leaves no room"):
        Stack(INFO.knobs("easy", {"area_m": 0.01})).draw(np.random.default_rng(0))


def test_under_osc_too(make_env):
    env = make_env(TASK, control="osc")
    env.reset(seed=11)
    expert = env.make_expert(11)
    while not env.task.decided:
        env.advance(expert.act())
    assert env.task.success
