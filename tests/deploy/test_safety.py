"""Limits of actions, and descriptions of robots."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from embodied.core.errors import ConfigError
from embodied.deploy.robot import read_robot
from embodied.deploy.safety import limited
from tests.deploy.fakes import robot

numbers = st.floats(-10, 10)


@given(arrays(np.float64, 7, elements=numbers), arrays(np.float64, 3, elements=st.floats(-1, 1.5)))
def test_no_action_leaves_the_limits(action, hand) -> None:
    config = robot(most_speed_m_s=0.4, most_turn_rad_s=1.0)
    found = limited(action, hand, config)
    assert found.dtype == np.float32 and np.abs(found).max() <= 1
    move = found[:3] * config.pos_per_unit_m
    assert np.linalg.norm(move) <= 0.4 / 20 + 1e-6
    assert np.linalg.norm(found[3:6] * config.rot_per_unit_rad) <= 1.0 / 20 + 1e-6
    after = hand + move
    low, high = np.array(config.workspace_low_m), np.array(config.workspace_high_m)
    assert (after >= np.minimum(low, hand) - 1e-6).all()
    assert (after <= np.maximum(high, hand) + 1e-6).all()


def test_actions_within_the_limits_pass_unchanged() -> None:
    action = np.array([0.2, -0.1, 0.05, 0.01, 0.0, -0.02, 1.0], np.float32)
    assert np.allclose(limited(action, np.array([0, 0, 1.0]), robot()), action)


def test_a_hand_outside_comes_back_and_goes_no_further() -> None:
    hand = np.array([0.5, 0.0, 1.0])  # beyond x = 0.32
    outwards, back = (np.array([x, 0, 0, 0, 0, 0, 0]) for x in (0.5, -0.5))
    assert limited(outwards, hand, robot())[0] == 0
    assert limited(back, hand, robot())[0] == pytest.approx(-0.5)


@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.full(7, np.inf), np.zeros(6)])
def test_what_is_no_action_is_no_motion(bad) -> None:
    assert not limited(bad, np.zeros(3), robot()).any()
    assert not limited(np.ones(7), np.full(3, np.nan), robot())[:6].any()


def test_the_package_s_own_robots_are_whole() -> None:
    panda = read_robot("panda_simulated")
    assert panda.control_hz == 20 and "front_image_u8" in panda.specs()


def written(tmp_path, **fields) -> str:
    """A description's file: a whole one, with other `fields`; None leaves one out."""
    whole = {
        "name": "r", "control_hz": 20.0, "observations": {"x": {"shape": [1], "dtype": "float32"}},
        "workspace_low_m": [0, 0, 0], "workspace_high_m": [1, 1, 1],
    }  # fmt: skip
    whole = {name: value for name, value in {**whole, **fields}.items() if value is not None}
    (tmp_path / "r.json").write_text(json.dumps(whole))
    return str(tmp_path / "r.json")


ARM = {"joints": ["a"], "joint_low_rad": [-1], "joint_high_rad": [1], "home_rad": [0]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"observations": {}}, "needs a name and the observations"),
        ({"workspace_low_m": None, "name": None}, "lacks name, workspace_low_m; a robot's"),
        ({"speed": 1}, "unknown option of robot r.json 'speed'"),
        ({"control_hz": "fast"}, "robot.control_hz: expected float"),
        ({"late": "never"}, "late"),
        ({"stale_s": 0.0}, "stale_s must be > 0"),
        ({"stale_s": 2.0}, "is less than stale_s"),
        ({"wait_s": 0.05}, "wait_s must be within 0 and a control period"),
        ({"workspace_low_m": [1, 2]}, "workspace_low_m must be a list of 3 numbers"),
        ({"workspace_low_m": [9.0, 0.0, 0.0]}, "workspace_low_m must be less than"),
        ({"base_pos_world_m": [0, 0, "x"]}, "base_pos_world_m must be a list of 3 numbers"),
        ({"base_quat_xyzw": [0, 0, 0, 2.0]}, "base_quat_xyzw must be of length 1, is 2"),
        ({"gripper_reading": [1.0, 1.0]}, "gripper_reading reads the same"),
        ({**ARM, "joint_low_rad": []}, "joint_low_rad must be a list of 1 numbers"),
        ({**ARM, "home_rad": [2]}, "a needs joint_low_rad <= home_rad <= joint_high_rad"),
        ({**ARM, "joints": []}, "joint_low_rad must be a list of 0 numbers"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(fields, message, tmp_path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_robot(written(tmp_path, **fields))


def test_a_description_may_explain_itself(tmp_path) -> None:
    found = read_robot(written(tmp_path, **ARM, about="An arm.", about_joints="One of them."))
    assert found.joints == ["a"] and found.home_rad == [0]


def test_files_that_are_no_description_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="unknown robot 'pandas'; did you mean 'panda_sim"):
        read_robot("pandas")
    with pytest.raises(ConfigError, match="can't read"):
        read_robot(tmp_path / "none.json")
    for text, message in (
        ("{", "is no JSON"),
        ("[]", "must hold a map"),
        ('{"name": 1, "name": 2}', "name given twice"),
    ):  # fmt: skip
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_robot(tmp_path / "r.json")
    config = robot(observations={"x": {"size": 3}})
    with pytest.raises(ConfigError, match="observation 'x' needs shape"):
        config.specs()
