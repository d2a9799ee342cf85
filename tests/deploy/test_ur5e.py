"""Another arm: a UR5e does the tasks, and a loop drives it in its own frames."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EnvConfig
from embodied.deploy.frames import Frames
from embodied.deploy.link import RobotLink
from embodied.deploy.robot import read_robot

pytestmark = pytest.mark.sim
STATE = EnvConfig(observation="state")


def test_a_ur5e_stands_at_home_as_the_panda_does_and_does_a_task() -> None:
    from embodied import registry

    panda, ur5e = (
        registry.make_env("put_block_back", "easy", STATE, arm=arm).unwrapped
        for arm in ("panda", "ur5e")
    )
    assert "arm" not in panda.spec_dict() and ur5e.spec_dict()["arm"] == "ur5e"
    hands = []
    for env in (panda, ur5e):
        env.start(5)
        env.scene.set_arm(np.array(env.scene.arm.home_qpos_rad))
        env.scene.settle()
        hands.append((env.scene.eef_pos(), env.scene.eef_quat()))
        ranges = np.array([env.scene.m.joint(name).range for name in env.scene.arm.joints])
        assert all(env.observation_space["joint_pos_rad"].contains(q) for q in np.float32(ranges.T))
    (pos, quat), (other_pos, other_quat) = hands
    assert np.allclose(pos, other_pos, atol=1e-3) and abs(quat @ other_quat) > 1 - 1e-5
    assert ur5e.observe()["joint_pos_rad"].shape == (6,)
    for seed in (5, 6):
        ur5e.start(seed)
        expert = ur5e.make_expert(seed)
        while not ur5e.over:
            ur5e.advance(expert.act())
        assert ur5e.task.success
    with pytest.raises(ConfigError, match="drives the Panda alone"):
        registry.make_env("put_block_back", "easy", EnvConfig(control="osc"), arm="ur5e")
    with pytest.raises(ConfigError, match="unknown arm 'ur6'"):
        registry.make_env("put_block_back", "easy", STATE, arm="ur6")


def test_a_ur5e_that_speaks_in_its_own_frames_goes_where_it_is_sent() -> None:
    from embodied.deploy.simulated import SimulatedConfig, SimulatedRobot

    ports, started = [], threading.Event()

    def ready(port: int) -> None:
        ports.append(port)
        started.set()

    name = "ur5e_simulated"
    config = SimulatedConfig(task="lift", env=STATE, arm="ur5e", speaks=name, port=0)
    simulated = SimulatedRobot(config, ready)
    thread = threading.Thread(target=simulated.run, daemon=True)
    thread.start()
    assert started.wait(90)
    description = read_robot(name)
    frames, link = Frames(description), RobotLink("127.0.0.1", ports[0])
    try:
        first = wait(link, 0.0)
        assert "eef_pos_world_m" not in first.obs and first.obs["actual_q_rad"].shape == (6,)
        home = np.array(description.home_rad)
        assert np.abs(first.obs["actual_q_rad"] - home).max() < description.home_within_rad
        before = frames.seen(first.obs)
        assert np.allclose(before["eef_pos_world_m"], (-0.11, 0, 1.02), atol=0.06)
        assert before["gripper_opening"] == pytest.approx(1.0, abs=0.05)
        action = np.array([0.1, 0.3, -0.1, 0, 0, 0, 1.0], np.float32)
        end = time.monotonic() + 30
        while link.latest().time_s < first.time_s + 0.7 and time.monotonic() < end:
            link.send(frames.sent(action))
            time.sleep(0.02)
        after = frames.seen(link.latest().obs)
        moved = after["eef_pos_world_m"] - before["eef_pos_world_m"]
        assert moved[1] > 0.05 and abs(moved[0] / moved[1] - 1 / 3) < 0.15 and moved[2] < 0
        assert np.abs(after["eef_quat_xyzw"] - before["eef_quat_xyzw"]).max() < 0.1
        assert after["gripper_opening"] < 0.5
    finally:
        link.close()
        simulated.stop()
        thread.join(20)


def wait(link: RobotLink, time_s: float):
    end = time.monotonic() + 30
    while link.latest() is None or link.latest().time_s < time_s:
        assert time.monotonic() < end, "no frame came"
        time.sleep(0.01)
    return link.latest()
