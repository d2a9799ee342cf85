"""Both controllers: what an action means, limits, and that a held arm stays put."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.sim

KNOBS = {"gap_min_s": 0.1, "gap_max_s": 0.1, "cue_s": 0.1, "execute_s": 30.0}


def at_go(make_env, control):
    env = make_env(control=control, knobs=KNOBS)
    env.reset(seed=0)
    while env.task.held:
        env.step(np.zeros(7))
    for name in list(env.scene.present):
        if env.scene.kind[name] == "mocap":
            env.scene.park(name)
    return env


def run(env, action, ticks):
    for _ in range(ticks):
        env.advance(np.asarray(action, float))


@pytest.mark.parametrize("control", ["fast", "osc"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_translation_follows_world_axes(make_env, control, axis):
    env = at_go(make_env, control)
    start, action = env.scene.eef_pos(), np.zeros(7)
    action[axis] = 0.5 if axis < 2 else -0.5
    run(env, action, 4)
    run(env, np.zeros(7), 6)
    moved = env.scene.eef_pos() - start
    assert np.sign(moved[axis]) == np.sign(action[axis])
    assert np.abs(np.delete(moved, axis)).max() < 0.25 * abs(moved[axis])
    if control == "fast":
        assert moved[axis] == pytest.approx(4 * 0.05 * action[axis], abs=0.003)


@pytest.mark.parametrize("control", ["fast", "osc"])
def test_rotation_turns_about_world_z(make_env, control):
    env = at_go(make_env, control)
    before, start = env.scene.eef_quat(), env.scene.eef_pos()
    run(env, [0, 0, 0, 0, 0, 0.3, 0], 4)
    run(env, np.zeros(7), 6)
    turned = env.make_expert()._rotation_to(0.0, env.scene.eef_quat())
    assert env.make_expert()._rotation_to(0.0, before)[2] - turned[2] > 0.1
    assert np.abs(env.scene.eef_pos() - start).max() < 0.02
    if control == "fast":
        assert turned[2] == pytest.approx(-4 * 0.3 * 0.5, abs=0.1)


@pytest.mark.parametrize("control", ["fast", "osc"])
def test_gripper_closes_opens_and_keeps(make_env, control):
    env = at_go(make_env, control)
    run(env, [0, 0, 0, 0, 0, 0, 1], 14)
    assert env.scene.gripper_opening() < 0.1
    run(env, np.zeros(7), 6)
    assert env.scene.gripper_opening() < 0.1
    run(env, [0, 0, 0, 0, 0, 0, -1], 14)
    assert env.scene.gripper_opening() > 0.9


def test_fast_hand_stays_in_the_workspace_and_never_digs_in(make_env):
    env = at_go(make_env, "fast")
    rng = np.random.default_rng(1)
    for _ in range(40):
        run(env, np.where(rng.random(7) < 0.5, -1.0, 1.0), 5)
        assert env.scene.eef_pos()[2] > 0.79
    run(env, [0, 0, -1, 0, 0, 0, 1], 20)
    assert env.scene.eef_pos()[2] == pytest.approx(0.812, abs=0.01)
    assert np.abs(env.scene.d.qvel).max() < 0.5


@pytest.mark.parametrize("control", ["fast", "osc"])
def test_held_arm_ignores_actions(make_env, control):
    env = make_env(control=control, knobs={"gap_min_s": 1.0, "gap_max_s": 1.0})
    ends = []
    for sign in (-1.0, 1.0):
        env.reset(seed=2)
        for _ in range(15):
            env.advance(np.full(7, sign))
        ends.append(env.scene.eef_pos())
    np.testing.assert_array_equal(*ends)


def test_busy_gap_moves_the_arm_and_things(make_env):
    env = make_env(knobs={"gap_min_s": 2.0, "gap_max_s": 2.0, "busy": 1.0})
    env.reset(seed=2)
    places, things, lamps = [], [], set()
    while env.task.phase != "execute":
        env.advance(np.zeros(7))
        if env.task.phase == "gap":
            places.append(env.scene.eef_pos())
            things.append(env.scene.pos("distractor0"))
            lamps.add(tuple(env.scene.lamp_rgb()))
    assert np.ptp(places, axis=0).max() > 0.03
    assert np.ptp(things, axis=0).max() > 0.05
    assert len(lamps) == 2
    assert not env.scene.present["distractor0"]
