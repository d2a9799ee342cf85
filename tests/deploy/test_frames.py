"""A robot's own terms against the policy's, and the descriptions that come with the package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import embodied.deploy
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import ArraySpec, PolicySpec
from embodied.deploy.frames import Frames
from embodied.deploy.robot import RobotConfig, read_robot
from tests.deploy.fakes import OBSERVATIONS, SPEC

ROBOTS = Path(embodied.deploy.__file__).with_name("robots")
HALF = float(np.sqrt(0.5))


def turned() -> Frames:
    """A base 1 m along x, a quarter turn about z; a tool a quarter turn about its z."""
    quarter = [0.0, 0.0, HALF, HALF]
    return Frames(
        RobotConfig(
            base_pos_world_m=[1.0, 0.0, 0.0],
            base_quat_xyzw=quarter,
            hand_quat_tool_xyzw=quarter,
            gripper_reading=[255.0, 0.0],
            gripper_command=[0.0, 255.0],
            rename={"eef_pos_world_m": "tcp", "front_cam_to_world": "cam"},
        )
    )


def float32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_poses_and_the_gripper_are_read_in_the_policy_s_terms() -> None:
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = (0.0, 0.5, 0.2)
    down = float32(HALF, HALF, 0, 0)
    obs = {"tcp": float32(0.3, 0, 0.1), "eef_quat_xyzw": float32(1, 0, 0, 0), "cam": pose,
           "gripper_opening": float32(51), "other": float32(9)}  # fmt: skip
    seen = turned().seen(obs)
    assert set(seen) == {"eef_pos_world_m", "eef_quat_xyzw", "front_cam_to_world",
                         "gripper_opening", "other"}  # fmt: skip
    assert np.allclose(seen["eef_pos_world_m"], (1.0, 0.3, 0.1))  # its x is the world's y
    assert np.allclose(seen["front_cam_to_world"][:3, 3], (0.5, 0.0, 0.2))
    assert np.allclose(seen["front_cam_to_world"][:3, 0], (0, 1, 0))
    # Pointing down, turned by a quarter with the base and back by a quarter with the tool.
    assert np.allclose(seen["eef_quat_xyzw"], (1, 0, 0, 0), atol=1e-6)
    assert seen["eef_quat_xyzw"] @ down > 0
    assert np.allclose(seen["gripper_opening"], 0.8) and seen["other"] == 9
    assert all(value.dtype == np.float32 for value in seen.values())
    for broken in (np.inf, -np.inf, np.nan):  # left to `fault` as well
        seen = turned().seen({"gripper_opening": float32(broken)})
        assert not np.isfinite(seen["gripper_opening"])
    wrong = turned().seen({"tcp": float32(1, 2), "eef_quat_xyzw": "none"})  # left to `fault`
    assert wrong["eef_pos_world_m"].shape == (2,) and wrong["eef_quat_xyzw"] == "none"


def test_actions_are_sent_in_the_robot_s_axes() -> None:
    sent = turned().sent(float32(0, 0.5, 0.1, 0.2, 0, 0, 1))
    assert np.allclose(sent, (0.5, 0, 0.1, 0, -0.2, 0, 255), atol=1e-6)
    assert turned().sent(float32(0, 0, 0, 0, 0, 0, -1))[6] == 0.0
    assert turned().sent(np.zeros(7))[6] == 127.5  # an arm that stands: as it is
    plain, action = Frames(RobotConfig()), np.random.default_rng(0).random(7).astype(np.float32)
    assert np.array_equal(plain.sent(action), action)


def test_a_simulated_robot_speaks_in_its_description_s_terms() -> None:
    rng = np.random.default_rng(1)
    pose = np.eye(4, dtype=np.float32)
    pose[:3, 3] = rng.random(3)
    obs = {"eef_pos_world_m": rng.random(3).astype(np.float32), "front_cam_to_world": pose,
           "eef_quat_xyzw": float32(0.6, 0.8, 0, 0), "gripper_opening": float32(0.25)}  # fmt: skip
    frames, action = turned(), rng.uniform(-1, 1, 7).astype(np.float32)
    told = frames.told(obs)
    assert "tcp" in told and not np.allclose(told["tcp"], obs["eef_pos_world_m"])
    assert told["gripper_opening"] == pytest.approx(255 * 0.75)
    back = frames.seen(told)
    for key, value in obs.items():
        assert np.allclose(back[key], value, atol=1e-6), key
    assert np.allclose(frames.taken(frames.sent(action)), action, atol=1e-6)
    plain = Frames(RobotConfig())
    assert all(np.array_equal(plain.told(obs)[key], obs[key]) for key in obs)


# ---- what comes with the package ------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(file.stem for file in ROBOTS.glob("*.json")))
def test_the_package_s_descriptions_are_whole_and_take_a_policy(name: str) -> None:
    found = read_robot(name)
    assert found.name == name and len(found.home_rad) == len(found.joints) > 0
    image = ArraySpec((64, 64, 3), "uint8")
    pose = ArraySpec((4, 4), "float32")
    reads = {"eef_pos_world_m": OBSERVATIONS["eef_pos_world_m"], "front_image_u8": image,
             "front_cam_to_world": pose, "gripper_opening": ArraySpec((1,), "float32")}  # fmt: skip
    found.check(PolicySpec(**{**vars(SPEC), "observations": reads}), "a bundle")
    with pytest.raises(SpecMismatch, match="not offered"):
        found.check(SPEC.__class__(**{**vars(SPEC), "observations": {"x": image}}), "a bundle")
    if len(found.joints) != 7:
        seven = {**reads, "joint_pos_rad": ArraySpec((7,), "float32")}
        with pytest.raises(SpecMismatch, match=f"reads 7 joint angles, and {name} has 6"):
            found.check(SPEC.__class__(**{**vars(SPEC), "observations": seven}), "a bundle")


def test_the_template_explains_every_field() -> None:
    text = json.loads((ROBOTS / "template.json").read_text())
    fields = {field.name: field for field in dataclasses.fields(RobotConfig)}
    assert set(fields) == {name for name in text if not name.startswith("about")}
    for name, field in fields.items():
        if name not in ("name", "control_hz") and isinstance(field.default, int | float | str):
            assert text[name] == field.default, name
    with pytest.raises(ConfigError, match=r"unknown robot 'ur5'. Known: .*ur5e_sim"):
        read_robot("ur5")
