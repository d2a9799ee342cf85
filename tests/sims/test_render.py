"""Pictures: what must be seen is seen, what is parked is not, depth agrees with geometry."""

from __future__ import annotations

import numpy as np
import pytest

from sims.memory_bench.parts import PALETTE, TABLE_TOP_M
from tests.sims.conftest import CAMERAS, changed

pytestmark = [pytest.mark.sim, pytest.mark.render]


def env_at(make_env, phase, **kwargs):
    kwargs = {"observation": "rgbd", "cameras": CAMERAS, "level": "extreme", **kwargs}
    env = make_env(knobs={"gap_min_s": 0.2, "gap_max_s": 0.2, "busy": 0.0}, **kwargs)
    env.reset(seed=1)
    while env.task.phase != phase:
        env.advance(np.zeros(7))
    return env


@pytest.mark.parametrize("visuals", ["lite", "full"])
def test_robot_and_lamp_show_in_every_camera(make_env, visuals):
    env = env_at(make_env, "execute", visuals=visuals)
    lamp = changed(env, lambda: env.scene.set_lamp((1.0, 0.0, 0.0)))
    assert all(lamp[c] >= 4 for c in CAMERAS), lamp
    m = env.scene.m
    names = [m.body(b).name for b in m.geom_bodyid]
    robot = [i for i, n in enumerate(names) if n.startswith(("robot0_", "gripper0_"))]

    def hide_robot():
        m.geom_rgba[robot, 3] = 0.0

    hidden = changed(env, hide_robot)
    assert all(hidden[c] > 0.02 * 64 * 64 for c in CAMERAS), hidden


def test_every_candidate_shows_in_front(make_env):
    env = env_at(make_env, "execute")
    seen = set()
    for seed in range(3):
        env.reset(seed=seed)
        while env.task.phase != "execute":
            env.advance(np.zeros(7))
        for i in range(12):
            pixels = changed(env, lambda i=i: env.scene.paint(f"cube{i}", (0.5, 0.5, 0.5)))
            assert pixels["front"] >= 6, (seed, i, pixels)
            seen.add(i)
    assert len(seen) == 12


def test_colours_are_told_apart_at_64_px(make_env):
    env = env_at(make_env, "cue")
    means = []
    for rgb in PALETTE.values():
        with_cube = env.observe()["front_image_u8"].astype(float)
        env.scene.paint("cue_cube", rgb)
        now = env.observe()["front_image_u8"].astype(float)
        env.scene.paint("cue_cube", (0.5, 0.5, 0.5))
        grey = env.observe()["front_image_u8"].astype(float)
        where = np.abs(now - grey).sum(-1) > 30
        assert where.sum() >= 6
        means.append(now[where].mean(0))
        del with_cube
    means = np.array(means)
    distance = np.linalg.norm(means[:, None] - means[None], axis=-1)
    distance[np.diag_indices(len(means))] = 1e3
    assert distance.min() > 30


def test_parked_things_show_in_no_pixel(make_env):
    env = env_at(make_env, "gap")

    def reveal():
        for name, present in env.scene.present.items():
            if not present:
                env.scene.paint(name, (1.0, 0.0, 1.0))

    assert not any(changed(env, reveal).values())


def test_depth_and_cameras_agree_with_the_table(make_env):
    env = env_at(make_env, "gap")
    obs = env.observe()
    for camera in CAMERAS:
        depth = obs[f"{camera}_depth_m"].astype(float)
        points = unproject(depth, obs[f"{camera}_intrinsics"], obs[f"{camera}_cam_to_world"])
        on_table = np.abs(points[..., 2] - TABLE_TOP_M) < 0.003
        assert on_table.mean() > 0.25, camera
        assert np.abs(points[on_table][:, :2]).max() < 0.45


def test_depth_finds_a_cube(make_env):
    env = env_at(make_env, "execute")
    obs = env.observe()
    points = unproject(
        obs["overhead_depth_m"].astype(float),
        obs["overhead_intrinsics"],
        obs["overhead_cam_to_world"],
    )
    top = np.abs(points[..., 2] - (TABLE_TOP_M + 0.052)) < 0.003
    found = points[top][:, :2]
    for index in range(12):
        position = env.task.plan["pos"][index][:2]
        if position[0] > 0.0:  # nearer ones may hide under the hand
            assert np.linalg.norm(found - position, axis=1).min() < 0.02


def unproject(depth, intrinsics, cam_to_world):
    v, u = np.mgrid[0 : depth.shape[0], 0 : depth.shape[1]] + 0.5
    x = (u - intrinsics[0, 2]) / intrinsics[0, 0] * depth
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1] * depth
    return np.stack((x, y, depth, np.ones_like(depth)), -1) @ cam_to_world.astype(float).T


def test_pictures_only_where_asked(make_env):
    env = make_env(
        observation="rgb", render_every_step=False, knobs={"gap_min_s": 0.5, "gap_max_s": 0.5}
    )
    obs, info = env.reset(seed=0)
    assert info["image_fresh"]
    first = obs["front_image_u8"].copy()
    fresh = []
    for tick in range(35):
        if tick == 5:
            env.request_picture()
        obs, _, _, _, info = env.step(np.zeros(7))
        fresh.append(info["image_fresh"])
        if tick < 5:
            np.testing.assert_array_equal(obs["front_image_u8"], first)
    assert [t for t, f in enumerate(fresh) if f] == [5, 19, 29]


def test_picture_of_any_size_leaves_observations_alone(make_env):
    env = env_at(make_env, "execute")
    before = env.observe()
    assert env.picture("wrist", 200).shape == (200, 200, 3)
    assert env.picture().shape == (256, 256, 3)
    for key, value in env.observe().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
