"""RGB-D to cube-frame clouds: frames, crop, zoom, checks, and the simulator's own geometry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import camera_specs
from policies.sam2act.cloud import (
    Cloud,
    CubeFrame,
    check_cameras,
    check_clouds,
    crop,
    make_cloud,
    unproject,
    unzoom,
    zoom,
    zoom_cloud,
)

FRAME = CubeFrame((0.1, -0.2, 0.9), 0.8)
# Looks straight down from 1.1 m over the frame's centre; x right is world x, y down is world -y.
DOWN = [[1.0, 0, 0, 0.1], [0, -1.0, 0, -0.2], [0, 0, -1.0, 2.0], [0, 0, 0, 1]]


def camera(depth, pose=DOWN, focal=50.0, name="cam"):
    """Returns the observation of one camera that saw `depth` [..., H, W]."""
    depth = torch.as_tensor(depth, dtype=torch.float32)
    lead, (height, width) = depth.shape[:-2], depth.shape[-2:]
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    image = torch.arange(depth.numel() * 3).reshape(*depth.shape, 3) % 256
    return {
        f"{name}_image_u8": image.to(torch.uint8),
        f"{name}_depth_m": depth,
        f"{name}_intrinsics": K.expand(*lead, 3, 3),
        f"{name}_cam_to_world": torch.tensor(pose).expand(*lead, 4, 4),
    }


coordinates = st.lists(st.floats(-2, 2), min_size=3, max_size=3)


@given(coordinates, coordinates, st.floats(0.3, 3), coordinates)
@settings(max_examples=50)
def test_h_cube_and_zoom_round_trip(point, center, side, around):
    frame = CubeFrame(tuple(center), side)
    world = torch.tensor(point, dtype=torch.float64)
    cube = frame.to_cube(world)
    assert (frame.to_world(cube) - world).abs().max() < 1e-9
    w = torch.tensor(around, dtype=torch.float64)
    assert (unzoom(zoom(cube, w), w) - cube).abs().max() < 1e-9
    single = unzoom(zoom(cube.float() / 10, w.float() / 2), w.float() / 2)
    assert (single - cube.float() / 10).abs().max() < 1e-6


def test_h_box_faces_are_at_one():
    faces = torch.tensor([[0.5, 0.2, 1.3], [-0.3, -0.6, 0.5], [0.1, -0.2, 0.9]])
    expected = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [0, 0, 0]])
    torch.testing.assert_close(FRAME.to_cube(faces), expected, atol=1e-6, rtol=0)


def test_i_zoom_takes_its_centre_to_the_origin_and_four_times_closer():
    w = torch.tensor([[0.3, -0.5, 0.2]])
    assert torch.equal(zoom(w, w), torch.zeros(1, 3))
    torch.testing.assert_close(zoom(w + 0.25, w), torch.ones(1, 3))
    cloud = Cloud(w[:, None] + torch.tensor([[0.25], [1.0]]), torch.rand(1, 2, 3), torch.ones(1, 2))
    near = zoom_cloud(cloud, w)
    torch.testing.assert_close(near.xyz[0, :, 0], torch.tensor([1.0, 4.0]))
    assert near.valid is cloud.valid and near.rgb is cloud.rgb


def test_a_pixel_looks_through_its_middle():
    obs = camera(torch.full((1, 4, 6), 1.1), focal=2.0)
    cloud = unproject(obs, ["cam"], FRAME)
    assert cloud.xyz.shape == (1, 24, 3) and cloud.valid.all()
    world = FRAME.to_world(cloud.xyz).view(4, 6, 3)
    # Column 5 is 2.5 pixels right of the middle, row 0 is 1.5 above it.
    expected = torch.tensor([0.1 + 2.5 / 2 * 1.1, -0.2 + 1.5 / 2 * 1.1, 0.9])
    torch.testing.assert_close(world[0, 5], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(cloud.rgb[0, 1], torch.tensor([3.0, 4, 5]) / 255)


def test_a_camera_may_stand_anyhow():
    # Turned by a third about the space diagonal: its x, y, z look along world y, z, x.
    pose = [[0.0, 0, 1, -1.0], [1, 0, 0, -0.2], [0, 1, 0, 0.9], [0, 0, 0, 1]]
    cloud = unproject(camera(torch.full((1, 4, 4), 1.1), pose, focal=2.0), ["cam"], FRAME)
    world = FRAME.to_world(cloud.xyz).view(4, 4, 3)
    expected = torch.tensor([0.1, -0.2 + 1.5 / 2 * 1.1, 0.9 - 0.5 / 2 * 1.1])
    torch.testing.assert_close(world[1, 3], expected, atol=1e-6, rtol=0)


def test_depth_is_along_z_not_along_the_ray():
    world = FRAME.to_world(
        unproject(camera(torch.full((1, 8, 8), 1.1), focal=5.0), ["cam"], FRAME).xyz
    )
    torch.testing.assert_close(world[..., 2], torch.full((1, 64), 0.9), atol=1e-6, rtol=0)


def test_pixels_without_depth_are_marked_and_finite():
    depth = torch.full((1, 3, 3), 1.1)
    depth[0, 0] = torch.tensor([math.nan, math.inf, -math.inf])
    depth[0, 1] = torch.tensor([0.0, -1.0, 50.0])
    cloud = make_cloud(camera(depth), ["cam"], FRAME)
    assert torch.isfinite(cloud.xyz).all()
    assert cloud.valid[0].tolist() == [False] * 6 + [True] * 3
    assert unproject(camera(depth), ["cam"], FRAME).valid[0].tolist() == [False] * 5 + [True] * 4


def test_points_are_exact_under_autocast():
    obs = camera(1.1 + torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)), focal=5.0)
    exact = unproject(obs, ["cam"], FRAME).xyz
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(unproject(obs, ["cam"], FRAME).xyz, exact)


def test_crop_marks_and_keeps_what_is_outside():
    xyz = torch.tensor([[[1.0, -1, 1], [1.001, 0, 0], [0, -1.001, 0], [0, 0, 1.001], [0, 0, 0]]])
    cloud = Cloud(xyz, torch.zeros(1, 5, 3), torch.tensor([[True, True, True, True, False]]))
    cropped = crop(cloud)
    assert cropped.valid[0].tolist() == [True, False, False, False, False]
    assert torch.equal(cropped.xyz, xyz)


def test_cameras_follow_each_other_and_ticks_are_rows():
    ticks = torch.rand(2, 3, 4, 4) + 0.8
    obs = camera(ticks) | camera(ticks[..., :2, :2] + 0.1, name="other")
    whole = make_cloud(obs, ["cam", "other"], FRAME)
    assert whole.xyz.shape == (2, 3, 20, 3) and whole.valid.shape == (2, 3, 20)
    for b in range(2):
        for t in range(3):
            one = make_cloud({k: v[b, t] for k, v in obs.items()}, ["cam", "other"], FRAME)
            torch.testing.assert_close(one.xyz, whole.xyz[b, t])
            assert torch.equal(one.rgb, whole.rgb[b, t])
    last = make_cloud(obs, ["other"], FRAME)
    assert torch.equal(last.xyz, whole.xyz[..., 16:, :])


def test_frame_refuses_what_is_no_box():
    with pytest.raises(ConfigError, match="scene_side_m"):
        CubeFrame(side_m=0.0)
    with pytest.raises(ConfigError, match="scene_center_m"):
        CubeFrame(center_m=(0.0, 1.0))


# -- bad input ----------------------------------------------------------------------------------


def test_a_sound_observation_passes():
    depth = torch.full((2, 16, 16), 1.1)
    depth[:, :7] = math.nan
    check_clouds(camera(depth), ["cam"], FRAME)


@pytest.mark.parametrize("part", ["depth_m", "intrinsics", "cam_to_world", "image_u8"])
def test_a_camera_without_depth_or_calibration_is_named(part):
    obs = camera(torch.ones(1, 4, 4)) | camera(torch.ones(1, 4, 4), name="whole")
    del obs[f"cam_{part}"]
    with pytest.raises(SpecMismatch, match=rf"not offered: cam_{part}\. .*all of it: whole;"):
        check_clouds(obs, ["cam", "whole"], FRAME)


def test_specs_are_checked_like_observations():
    offered = camera_specs("front", 32) | camera_specs("wrist", 32, depth=True)
    check_cameras(["wrist"], offered, "SAM2Act")
    with pytest.raises(SpecMismatch, match=r"SAM2Act .*front_depth_m\. .*all of it: wrist"):
        check_cameras(["wrist", "front"], offered, "SAM2Act")
    with pytest.raises(SpecMismatch, match="at least one camera"):
        check_cameras([], offered, "SAM2Act")


@pytest.mark.parametrize("hole", [math.nan, 0.0])
def test_nan_depth_is_refused_from_the_worst_row(hole):
    depth = torch.full((3, 10, 10), 1.1)
    depth[1, :6] = hole
    with pytest.raises(SpecMismatch, match=r"60% .*cam_depth_m is NaN.*at most 50%"):
        check_clouds(camera(depth), ["cam"], FRAME)
    check_clouds(camera(depth), ["cam"], FRAME, hole_share=0.7)


UNEVEN = 1.1 + 0.1 * torch.arange(512).reshape(2, 16, 16) / 512


@pytest.mark.parametrize(
    ("per_metre", "unit"),
    [(1e3, "millimetres"), (1e4, "tenths of a millimetre"), (1e2, "centimetres")],
)
def test_depth_in_a_wrong_unit_is_named(per_metre, unit):
    with pytest.raises(SpecMismatch, match=rf"cam_depth_m must be in metres.*read as {unit}"):
        check_clouds(camera(UNEVEN * per_metre), ["cam"], FRAME)


@pytest.mark.parametrize("far", [torch.full((2, 16, 16), 50.0), 1.2 + 30 * (UNEVEN > 1.15)])
def test_a_camera_in_the_box_that_looks_away_is_no_wrong_unit(far):
    up = [[1.0, 0, 0, 0.1], [0, 1.0, 0, -0.2], [0, 0, 1.0, 1.0], [0, 0, 0, 1]]
    obs = camera(far, up, name="wrist") | camera(UNEVEN)
    check_clouds(obs, ["cam", "wrist"], FRAME)


def test_an_empty_cloud_names_row_and_box():
    depth = torch.full((3, 8, 8), 1.1)
    depth[1] = 30.0
    with pytest.raises(
        SpecMismatch, match=r"scene box .*side 0\.8 m\) in 1 row\(s\), the first is 1"
    ):
        check_clouds(camera(depth), ["cam"], FRAME)
    # Another camera that sees something in that row is enough.
    other = camera(torch.full((3, 8, 8), 1.1), name="other")
    check_clouds(camera(depth) | other, ["cam", "other"], FRAME)


def test_a_matrix_that_is_none_is_refused():
    obs = camera(torch.ones(1, 4, 4))
    zero = obs | {"cam_intrinsics": torch.zeros(1, 3, 3)}
    with pytest.raises(SpecMismatch, match="focal lengths > 0"):
        check_clouds(zero, ["cam"], FRAME)
    with pytest.raises(SpecMismatch, match="orthonormal"):
        check_clouds(obs | {"cam_cam_to_world": torch.zeros(1, 4, 4)}, ["cam"], FRAME)


# -- the simulator ------------------------------------------------------------------------------

SIM = (pytest.mark.sim, pytest.mark.render)
CAMERAS = ("front", "left_shoulder", "right_shoulder", "overhead", "wrist")


@pytest.fixture(scope="module")
def block_scene():
    """Returns an environment with a block on the table, and what its cameras see."""
    from sims.gym_env import MemoryBenchEnv

    env = MemoryBenchEnv("put_block_back", observation="rgbd", cameras=CAMERAS, image_size=128)
    obs, _ = env.reset(seed=5)
    yield env, {key: torch.from_numpy(value)[None] for key, value in obs.items()}
    env.close()


def seen_m(obs, camera):
    """Returns the points [n, 3] in the box that one camera sees, in metres of the world."""
    frame = CubeFrame()
    cloud = make_cloud(obs, [camera], frame)
    return frame.to_world(cloud.xyz[0])[cloud.valid[0]].double().numpy()


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("name", CAMERAS)
def test_the_table_is_flat_to_a_tenth_of_a_millimetre(block_scene, name):
    from sims.memory_bench.parts import TABLE_TOP_M

    height = np.abs(seen_m(block_scene[1], name)[:, 2] - TABLE_TOP_M)
    on_table = height[height < 0.006]
    assert len(on_table) > 5000
    assert np.median(on_table) < 1e-4


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("name", ["front", "left_shoulder", "overhead", "wrist"])
def test_the_block_is_where_and_as_large_as_it_is(block_scene, name):
    from sims.memory_bench.manipulation import BLOCK_HALF_M

    env, obs = block_scene
    position, quat = env.scene.pos("block"), env.scene.quat("block")
    yaw = 2 * np.arctan2(quat[3], quat[0])
    points = seen_m(obs, name) - position
    points = points[np.abs(points[:, 2] - BLOCK_HALF_M[2]) < 5e-4, :2]
    points = points[np.abs(points).max(axis=1) < 0.05]
    along = points @ np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    half = np.array(BLOCK_HALF_M[:2])
    pixel = float(obs[f"{name}_depth_m"].median() / obs[f"{name}_intrinsics"][0, 0, 0])
    assert (np.abs(along) < half + 5e-4).all()
    assert (along.max(axis=0) > half - pixel).all() and (along.min(axis=0) < -half + pixel).all()


@pytest.mark.sim
@pytest.mark.render
def test_the_simulators_observation_passes_and_millimetres_do_not(block_scene):
    obs = block_scene[1]
    check_clouds(obs, CAMERAS, CubeFrame())
    for name in CAMERAS:
        wrong = obs | {f"{name}_depth_m": obs[f"{name}_depth_m"] * 1000}
        with pytest.raises(SpecMismatch, match=rf"{name}_depth_m .*read as millimetres"):
            check_clouds(wrong, CAMERAS, CubeFrame())


@pytest.mark.sim
def test_the_default_box_holds_table_lamp_and_workspace():
    from sims.memory_bench.control import _WORKSPACE_HIGH, _WORKSPACE_LOW
    from sims.memory_bench.parts import LAMP_POS_M, LAMP_RADIUS_M, TABLE_HALF_M, TABLE_TOP_M

    table = np.array([*TABLE_HALF_M, 0.0])
    lamp, top = np.array(LAMP_POS_M), np.array([0, 0, TABLE_TOP_M])
    corners = (
        _WORKSPACE_LOW, _WORKSPACE_HIGH, lamp - LAMP_RADIUS_M, lamp + LAMP_RADIUS_M,
        top - table, top + table,
    )  # fmt: skip
    cube = CubeFrame().to_cube(torch.tensor(np.array(corners)))
    assert cube.abs().max() < 0.98
