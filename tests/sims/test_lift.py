"""Lift, and what it shares with Stack: no cue, no gap, free cubes, the expert."""

from __future__ import annotations

import math

import numpy as np
import pytest

import sims
from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from embodied.core.text import encode_instruction
from sims.memory_bench import cubes
from sims.memory_bench import task as task_module
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.task import CLOSE, OPEN, Waypoint
from sims.memory_bench.tasks.lift import INFO, Lift
from sims.memory_bench.tasks.stack import INFO as STACK_INFO
from sims.memory_bench.tasks.stack import Stack
from tests.sims.hands import check_common, follow, rising_potential

TASK = "lift"
LEVELS = tuple(INFO.levels)
CLASSES = {"lift": Lift, "stack": Stack}
INFOS = {"lift": INFO, "stack": STACK_INFO}


@pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
def test_no_memory_is_needed(info):
    assert LEVELS == ("easy", "medium", "hard", "extreme") == tuple(info.levels)
    areas = []
    for level in LEVELS:
        knobs = info.knobs(level)
        assert info.ceiling(knobs) == 1.0 and info.cues(knobs) == 1
        assert info.horizon_s(knobs) == knobs["execute_s"]
        areas.append(knobs["area_m"])
    assert areas == sorted(set(areas))
    assert "needs no memory" in info.summary


def test_easy_is_robosuites_own():
    knobs = INFO.knobs("easy")
    assert knobs["area_m"] == 0.03 and 0.020 <= knobs["half_m"] <= 0.022
    assert knobs["yaw_rad"] == math.pi
    stack = STACK_INFO.knobs("easy")
    assert (stack["area_m"], stack["half_m"], stack["base_half_m"]) == (0.08, 0.020, 0.025)
    assert cubes.LIFTED_M == 0.04


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"area_m": 0.3}, "area_m of lift: expected 0 to 0.16"), ({"area_m": -0.1}, "area_m"),
     ({"half_m": 0.04}, "half_m of lift: expected 0.015 to 0.03"), ({"half_m": 0.01}, "half_m"),
     ({"yaw_rad": 4.0}, "yaw_rad"), ({"execute_s": 0}, "execute_s")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        Lift(INFO.knobs("easy", knobs))


def test_there_are_no_knobs_of_memory():
    for name in ("K", "gap_min_s", "visible_cue", "busy"):
        with pytest.raises(ConfigError, match=name):
            INFO.knobs("easy", {name: 1})


@pytest.mark.parametrize("name", CLASSES)
def test_instructions_fit(name):
    assert len(set(CLASSES[name].instructions)) >= 4
    for text in CLASSES[name].instructions:
        encode_instruction(text)


@pytest.mark.sim
@pytest.mark.parametrize("task", CLASSES)
def test_an_episode_is_its_execute_phase(make_env, task):
    env = make_env(task)
    obs, info = env.reset(seed=4)
    assert info["phase"] == EXECUTE and not info["held"] and not info["gate"]
    assert info["cue"] == 0 and env.task.n_cues == 1 and info["commit"] == ""
    assert env.horizon == env.task.execute_ticks == round(20 * env.knobs["execute_s"])
    np.testing.assert_allclose(env.scene.lamp_rgb(), task_module.LAMP_EXECUTE, atol=1e-6)
    assert obs["entities_mask"].sum() == 1 + len(env.task.cubes())
    with pytest.raises(ConfigError, match="expected 0 to 0"):
        env.reset(seed=4, options={"cue": 1})
    ticks, gates = 0, 0
    env.reset(seed=4)
    while not env.task.decided:
        gates += env.advance(np.zeros(7))
        ticks += 1
    assert (ticks, gates, env.task.failure_kind) == (env.horizon, 0, "timeout")


@pytest.mark.sim
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", CLASSES)
def test_scenes_are_well_posed(make_env, task, level):
    env = make_env(task, level=level)
    names, starts, yaws = list(env.task.cubes()), [], []
    for seed in range(60):
        env.reset(seed=seed)
        pos = np.array([env.scene.pos(name) for name in names])
        for i, name in enumerate(names):
            half = env.task.cubes()[name][0]
            assert pos[i, 2] == pytest.approx(TABLE_TOP_M + half, abs=1e-6)
            assert np.abs(pos[i, :2] - cubes.CENTRE_XY_M).max() <= env.knobs["area_m"]
            assert np.abs(env.task.grip_yaw(name)) <= math.pi / 4 + 1e-6
        if len(names) > 1:
            halves = sum(half for half, _ in env.task.cubes().values())
            assert np.hypot(*(pos[0] - pos[1])[:2]) > math.sqrt(2) * halves + 0.01
        starts.append(pos[0, :2])
        yaws.append(env.task.plan["yaw"][0])
    spread = np.ptp(np.array(starts), axis=0)
    assert spread.min() > 1.6 * env.knobs["area_m"]
    assert max(yaws) > 2.5 and min(yaws) < -2.5


@pytest.mark.sim
@pytest.mark.parametrize("task", CLASSES)
def test_common_rules(make_env, task):
    check_common(make_env(task))
    start, end = rising_potential(make_env(task), 3)
    assert 0 < start < 0.5 < end == 1.0


@pytest.mark.sim
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
        assert env.task.committed == env.task.target() == "cube"
        assert frames == 2 or noise


@pytest.mark.sim
def test_success_is_four_centimetres_above_the_table(make_env):
    env = make_env(TASK)
    for height, expected in ((0.0399, False), (0.0401, True)):
        env.reset(seed=5)
        x, y, _ = env.scene.pos("cube")
        env.scene.place("cube", (x, y, TABLE_TOP_M + height))
        env.scene.settle()
        env.task.execute_tick()
        assert env.task.success == expected


@pytest.mark.sim
def test_a_cube_held_low_is_not_lifted(make_env):
    env = make_env(TASK)
    env.reset(seed=6)
    path = env.task.waypoints()[:2]
    x, y, z = path[1].pos_world_m
    low = Waypoint((x, y, z + 0.01), path[1].yaw_rad, tol_m=0.004)
    follow(env, [*path, low])
    assert env.task.grasped("cube") and not env.task.decided
    assert env.scene.pos("cube")[2] > TABLE_TOP_M + env.knobs["half_m"] + 0.004


@pytest.mark.sim
@pytest.mark.parametrize("task", CLASSES)
def test_a_cube_off_the_table_is_a_failure_of_the_hand(make_env, task):
    env = make_env(task)
    env.reset(seed=7)
    name = next(iter(env.task.cubes()))
    env.scene.place(name, (0.6, 0.6, TABLE_TOP_M))
    env.scene.settle()
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "motor" and env.task.tick < 20


@pytest.mark.sim
def test_the_hand_takes_a_cube_by_its_faces(make_env):
    env = make_env(TASK)
    env.reset(seed=8)
    for yaw in np.linspace(-3.0, 3.0, 13):
        env.scene.place("cube", (0.05, 0.0, 0.821), yaw)
        env.scene.settle()
        grip = env.task.grip_yaw("cube")
        assert abs(grip) <= math.pi / 4 + 1e-6
        assert abs(math.remainder(grip - yaw, math.pi / 2)) < 1e-6
        for beside, clear in (((0.05, 0.1), False), ((0.15, 0.0), True)):
            turned = env.task.grip_yaw("cube", beside)
            assert abs(math.remainder(turned - yaw, math.pi / 2)) < 1e-6
            # The fingers lie along y at yaw 0: beside a cube at +y the hand turns.
            assert (abs(turned) <= math.pi / 4 + 1e-6) == clear or abs(grip) > 0.7


@pytest.mark.sim
def test_a_cube_pushed_away_is_fetched_where_it_is(make_env):
    env = make_env(TASK)
    env.reset(seed=9)
    expert, moved = env.make_expert(9), False
    while not env.task.decided:
        action = expert.act()
        if expert._index == 1 and not moved:
            moved = True
            env.scene.place("cube", (0.1, 0.08, TABLE_TOP_M + 0.021))
        env.advance(action)
    assert moved and env.task.success
    assert np.hypot(*(env.scene.pos("cube")[:2] - (0.1, 0.08))) < 0.02


@pytest.mark.sim
def test_gripper_and_yaw_of_the_keyframes(make_env):
    env = make_env(TASK)
    env.reset(seed=10)
    expert = env.make_expert(10, 0.0, 20)
    expert.act()
    first = expert.next_keyframe()
    assert first[7] == OPEN and first[8] == 1
    yaw = env.task.grip_yaw("cube")
    expected = math.sqrt(0.5) * np.array(
        [math.cos(yaw / 2) - math.sin(yaw / 2), math.cos(yaw / 2) + math.sin(yaw / 2), 0, 0]
    )
    np.testing.assert_allclose(first[3:7], expected, atol=1e-6)
    while not expert.keyframe_label:
        env.advance(expert.act())
    assert expert.next_keyframe()[7] == CLOSE


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("task", CLASSES)
def test_every_observation_and_the_vector_environment(make_env, task):
    env = make_env(task, observation="rgbd", cameras=("front", "wrist"), image_size=64)
    obs, _ = env.reset(seed=2)
    red = obs["front_image_u8"].astype(int)
    count = ((red[..., 0] > 100) & (red[..., 1:].max(-1) < 80)).sum()
    assert 3 <= count < 60  # the cube is seen, and nothing else is red
    assert obs["front_depth_m"].min() > 0.3
    vec = sims.make_vec(task, 2, observation="state")
    obs, info = vec.reset(seed=[3, 4])
    assert obs["entities"].shape[0] == 2 and list(info["cue"]) == [0, 0]
    for seed, row in ((3, 0), (4, 1)):
        np.testing.assert_array_equal(
            obs["entities"][row], make_env(task).reset(seed=seed)[0]["entities"]
        )
    vec.close()


@pytest.mark.sim
def test_under_osc_too(make_env):
    env = make_env(TASK, control="osc")
    env.reset(seed=11)
    expert = env.make_expert(11)
    while not env.task.decided:
        env.advance(expert.act())
    assert env.task.success
