"""Where image tokens are in the world: rays through pixels, and a horizontal plane."""

import math

import pytest
import torch

from embodied.nn.vision import FAR_M, ConvTrunk, meet_plane, token_pixels

INTRINSICS = torch.tensor([[[32.0, 0.0, 32.0], [0.0, 32.0, 32.0], [0.0, 0.0, 1.0]]])


def camera(rotation, height_m=1.8):
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor(rotation)
    pose[:3, 3] = torch.tensor([0.1, -0.2, height_m])
    return pose[None]


DOWN = [[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]
LEVEL = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]


def test_token_pixels_are_the_centres_of_patches():
    assert token_pixels(2, 8).tolist() == [[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]]


def test_a_camera_that_looks_down_meets_the_table_below_it():
    pixels = torch.tensor([[32.0, 32.0], [64.0, 32.0], [32.0, 64.0]])
    places = meet_plane(pixels, INTRINSICS, camera(DOWN), torch.tensor(0.8))
    # One metre above: the picture's edge, at 45 degrees, is a metre away; v points along -y.
    expected = torch.tensor([[0.1, -0.2, 0.8], [1.1, -0.2, 0.8], [0.1, -1.2, 0.8]])
    torch.testing.assert_close(places[0], expected, atol=1e-5, rtol=0)


def test_rays_that_miss_end_at_a_bounded_distance():
    pixels = torch.tensor([[32.0, 0.0], [32.0, 32.0]])  # upwards, and level
    places = meet_plane(pixels, INTRINSICS, camera(LEVEL), torch.tensor(0.8))
    away = (places[0] - camera(LEVEL)[0, :3, 3]).norm(dim=-1)
    torch.testing.assert_close(away, torch.full((2,), FAR_M))


def test_padded_rows_stay_finite():
    places = meet_plane(
        token_pixels(2, 8), torch.zeros(1, 3, 3), torch.zeros(1, 4, 4), torch.tensor(0.8)
    )
    assert torch.isfinite(places).all()


def test_places_are_exact_under_autocast():
    cos, sin = math.cos(0.3), math.sin(0.3)
    tilted = camera([[1.0, 0.0, 0.0], [0.0, -cos, -sin], [0.0, sin, -cos]])
    args = token_pixels(8, 8), INTRINSICS, tilted, torch.tensor(0.8)
    exact = meet_plane(*args)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(meet_plane(*args), exact)


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("name", ["front", "wrist"])
def test_what_a_pixel_shows_on_the_table_is_where_its_ray_meets_it(name):
    """Against the simulator's own depth, at every pixel that shows the table's top."""
    from sims.gym_env import MemoryBenchEnv
    from sims.memory_bench.parts import TABLE_TOP_M

    env = MemoryBenchEnv("remember_color", observation="rgbd", cameras=(name,), image_size=32)
    obs, _ = env.reset(seed=0)
    env.close()
    camera_of = {
        k: torch.from_numpy(obs[f"{name}_{k}"])[None] for k in ("intrinsics", "cam_to_world")
    }
    places = meet_plane(token_pixels(32, 1), *camera_of.values(), torch.tensor(TABLE_TOP_M))[0]
    forward, origin = camera_of["cam_to_world"][0, :3, 2], camera_of["cam_to_world"][0, :3, 3]
    depth_m = (places - origin) @ forward
    seen = torch.from_numpy(obs[f"{name}_depth_m"]).flatten()
    assert ((depth_m - seen).abs() < 0.01).float().mean() > 0.4


def stem(seed=0):
    torch.manual_seed(seed)
    trunk = ConvTrunk(32, shapes=16, colors=32)
    trunk.set_mean_image(torch.full((3, 32, 32), 0.5))
    return trunk


def test_the_colour_that_stands_out_is_seen_whatever_surrounds_it():
    red, green, grey = (200, 30, 30), (30, 180, 40), (128, 128, 128)
    images = torch.tensor(grey, dtype=torch.uint8).repeat(3, 32, 32, 1)
    images[0, 10:14, 10:14] = torch.tensor(red, dtype=torch.uint8)
    images[1, 18:23, 20:23] = torch.tensor(red, dtype=torch.uint8)  # elsewhere, on a border
    images[2, 10:14, 10:14] = torch.tensor(green, dtype=torch.uint8)
    code = stem()(images)[0][..., 16:]
    first, second, third = code[0, 5], code[1, 10], code[2, 5]
    like = torch.nn.functional.cosine_similarity
    assert like(first, second, dim=0) > 0.99
    assert like(first, third, dim=0) < 0.5
    # Windows reach over the border: the neighbour sees it too.
    images[1, 18:23, 20:23] = torch.tensor(grey, dtype=torch.uint8)
    images[1, 18:23, 20:24] = torch.tensor(red, dtype=torch.uint8)
    assert like(second, stem()(images)[0][1, 11, 16:], dim=0) > 0.99


def test_of_two_things_side_by_side_each_has_its_colour_at_its_place():
    images = torch.full((2, 32, 32, 3), 128, dtype=torch.uint8)
    images[0, 9:13, 9:13] = torch.tensor((200, 30, 30), dtype=torch.uint8)
    images[0, 9:13, 19:23] = torch.tensor((30, 180, 40), dtype=torch.uint8)
    tokens, pixels = stem()(images)
    torch.testing.assert_close(pixels[0, 5], torch.tensor([11.0, 11.0]), atol=0.3, rtol=0)
    torch.testing.assert_close(pixels[0, 6], torch.tensor([21.0, 11.0]), atol=0.3, rtol=0)
    assert torch.nn.functional.cosine_similarity(tokens[0, 5, 16:], tokens[0, 6, 16:], dim=0) < 0.5
    # Where nothing stands out, the middle of the patch (windows end at the picture's edge).
    torch.testing.assert_close(pixels[1, [5, 6]], token_pixels(4, 8)[[5, 6]])


def test_black_does_not_hide_a_pale_thing_beside_it():
    images = torch.full((2, 32, 32, 3), 160, dtype=torch.uint8)
    images[:, 9:14, 9:14] = torch.tensor((255, 140, 166), dtype=torch.uint8)
    images[1, 8, 9:11] = 0
    tokens, pixels = stem()(images)
    assert torch.nn.functional.cosine_similarity(tokens[0, 5, 16:], tokens[1, 5, 16:], dim=0) > 0.9
    torch.testing.assert_close(pixels[0, 5], pixels[1, 5], atol=0.5, rtol=0)


def test_equal_things_give_equal_tokens_wherever_they_are():
    torch.manual_seed(0)
    trunk = ConvTrunk(64, shapes=16, colors=8)
    images = torch.full((1, 64, 64, 3), 128, dtype=torch.uint8)
    images[0, 18:22, 18:22] = images[0, 42:46, 42:46] = 200
    tokens, _ = trunk(images)
    assert tokens.shape == (1, 64, 24)
    torch.testing.assert_close(tokens[0, 18], tokens[0, 45])
    assert (tokens[0, 18] - tokens[0, 21]).abs().max() > 0.1
