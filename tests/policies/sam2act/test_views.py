"""The orthographic renderer: published geometry, what wins a pixel, what is left out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from embodied.core.errors import ConfigError
from policies.sam2act import views
from policies.sam2act.cloud import Cloud, CubeFrame, make_cloud, zoom_cloud
from policies.sam2act.heatmaps import decode
from policies.sam2act.views import DEPTH, PLACE, RGB, VIEWS, XYZ, axes, render


def cloud(xyz, rgb=None, valid=None):
    """Returns a cloud of [N, 3] or [B, N, 3] points, by default in colours of their own."""
    xyz = torch.as_tensor(xyz, dtype=torch.float32)
    xyz = xyz if xyz.ndim == 3 else xyz[None]
    if rgb is None:
        rgb = torch.rand(xyz.shape, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    if valid is None:
        valid = torch.ones(xyz.shape[:2], dtype=torch.bool)
    return Cloud(xyz, torch.as_tensor(rgb, dtype=torch.float32).expand_as(xyz), valid)


def filled(images):
    """Returns bool [B, V, S, S]: pixels that hold a point."""
    return images[:, :, RGB].abs().sum(dim=2) > 0


def middle(index, side):
    """Returns the cube coordinate of the middle of pixel `index`."""
    return (2 * index + 1) / side - 1


def test_a_one_point_draws_itself_and_four_neighbours():
    S = 224
    images = render(cloud([[middle(100, S), middle(50, S), 0.25]], [[0.2, 0.4, 0.6]]), S)
    # Top: column along x, row down along -y.
    row, column = S - 1 - 50, 100
    cross = {
        (row, column),
        (row - 1, column),
        (row + 1, column),
        (row, column - 1),
        (row, column + 1),
    }
    where = filled(images)[0, 0].nonzero().tolist()
    assert {tuple(p) for p in where} == cross
    for r, c in cross:
        assert images[0, 0, RGB, r, c].tolist() == pytest.approx([0.2, 0.4, 0.6])
        assert images[0, 0, DEPTH, r, c] == 0.0
        scaled = torch.tensor([middle(100, S), middle(50, S), 0.25]) / abs(middle(50, S))
        torch.testing.assert_close(images[0, 0, XYZ, r, c], scaled)
    empty = ~filled(images)
    assert (images[:, :, :6].permute(0, 1, 3, 4, 2)[empty] == 0).all()
    assert (images[:, :, DEPTH][empty] == -1).all()
    assert filled(images).sum(dim=(2, 3)).tolist() == [[5, 5, 5]]


@pytest.mark.parametrize(("side", "pixels"), [(64, 5), (112, 5), (224, 5), (256, 9), (400, 21)])
def test_a_splat_never_shrinks_below_the_cross(side, pixels):
    assert filled(render(cloud([[0.0, 0, 0]]), side))[0, 0].sum() == pixels


@pytest.mark.parametrize("view", range(3))
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_b_nearer_wins_in_every_order(view, order):
    toward = torch.tensor([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])[view]
    points = torch.stack((toward * 0.1, toward * 0.12))[list(order)]
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[list(order)]
    images = render(cloud(points, colours), 64)
    assert images[0, view, RGB, 32, 32].tolist() == [0, 1, 0]


def test_b_equal_depths_go_to_the_first_point():
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    images = render(cloud([[0, 0, 0.1], [0, 0, 0.10001]], colours), 64)
    assert images[0, 0, RGB, 32, 32].tolist() == [1, 0, 0]


@given(st.lists(st.integers(3, 60), min_size=3, max_size=3))
@settings(max_examples=40)
def test_c_a_point_lands_where_the_table_says(index):
    """Columns and rows of the published table: top (x, -y), front (y, -z), right (-x, -z)."""
    S = 64
    x, y, z = (middle(i, S) for i in index)
    images = render(cloud([[x, y, z]]), S, right_eye=1.0)
    i, j, k = index
    last = S - 1
    for view, (column, row) in enumerate(((i, last - j), (j, last - k), (last - i, last - k))):
        where = filled(images)[0, view].nonzero().float()
        assert where.mean(dim=0).tolist() == [row, column], VIEWS[view]


def test_c_depths_of_the_published_cameras():
    xyz = torch.tensor([0.1, -0.2, 0.3])
    top, front, right = axes(xyz.unbind())
    assert [float(v) for v in top] == pytest.approx([0.1, 0.2, 0.7])
    assert [float(v) for v in front] == pytest.approx([-0.2, -0.3, 0.9])
    assert [float(v) for v in right] == pytest.approx([-0.1, -0.3, 0.7])


def random_points(count, side, seed=0):
    """Returns points in the middles of inner pixels, depths a hundredth apart on each axis."""
    generator = torch.Generator().manual_seed(seed)
    axis = [torch.randperm(side - 8, generator=generator)[:count] + 4 for _ in range(3)]
    return middle(torch.stack(axis, dim=-1).float(), side)


def test_d_a_shift_by_one_pixel_shifts_the_picture():
    S = 64
    points = random_points(40, S)
    before = render(cloud(points), S, right_eye=1.0)
    after = render(cloud(points + torch.tensor([2 / S, 0, 0])), S, right_eye=1.0)
    # Along x: right in the top view, left in the right view; the front view looks along it.
    assert torch.equal(after[0, 0, RGB, :, 1:], before[0, 0, RGB, :, :-1])
    assert torch.equal(after[0, 2, RGB, :, :-1], before[0, 2, RGB, :, 1:])
    assert torch.equal(after[0, 1, RGB], before[0, 1, RGB])


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_e_order_of_points_changes_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    # Depths on each axis differ by more than a millimetre of the cube.
    lines = [(torch.randperm(900, generator=generator)[:400] + 0.5) / 450 - 1 for _ in range(3)]
    points = cloud(torch.stack(lines, dim=-1))
    mixed = torch.randperm(400, generator=generator)
    other = Cloud(points.xyz[:, mixed], points.rgb[:, mixed], points.valid[:, mixed])
    torch.testing.assert_close(render(points, 32), render(other, 32), atol=1e-6, rtol=0)


def test_f_depth_has_zero_mean_over_filled_pixels():
    points = torch.rand(2, 3000, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    points[1] *= 0.3
    images = render(cloud(points), 64)
    where = filled(images)
    assert 0.05 < where.float().mean() < 0.95
    sums = torch.where(where, images[:, :, DEPTH], 0).sum(dim=(2, 3)) / where.sum(dim=(2, 3))
    assert sums.abs().max() < 1e-5
    # A metric difference: the nearest pixel of the top view against the farthest.
    one = render(cloud([[-0.5, 0, 0.4], [0.5, 0, -0.4]]), 64)[0, 0, DEPTH]
    assert float(one[32, 48] - one[32, 16]) == pytest.approx(0.8, abs=2e-3)


def test_g_an_empty_cloud_gives_the_default_picture():
    nothing = cloud(torch.full((1, 7, 3), 0.1), valid=torch.zeros(1, 7, dtype=torch.bool))
    for images in (render(nothing, 64), render(cloud(torch.full((1, 7, 3), 5.0)), 64)):
        assert (images[:, :, :DEPTH] == 0).all() and (images[:, :, DEPTH] == -1).all()
        assert torch.isfinite(images).all()


def test_constant_channels_are_view_row_and_column():
    S = 32
    place = render(cloud([[0.0, 0, 0]]), S)[0, :, PLACE]
    line = torch.linspace(-1, 1, S)
    for view, number in enumerate((-1.0, 0.0, 1.0)):
        assert (place[view, 0] == number).all()
        assert torch.equal(place[view, 1], line[:, None].expand(S, S))
        assert torch.equal(place[view, 2], line.expand(S, S))


def test_points_behind_a_camera_are_not_drawn():
    # Zoomed clouds reach beyond the cube: each of these is behind one camera.
    points = torch.tensor([[0, 0, 1.2], [1.2, 0, 0], [0, 0.6, 0]])
    for behind in range(3):
        images = render(cloud(points[behind : behind + 1]), 64)
        drawn = filled(images)[0].flatten(1).any(dim=1).tolist()
        assert not drawn[behind]
        assert behind != 2 or drawn == [True, True, False]
    assert filled(render(cloud(points[2:]), 64, right_eye=1.0))[0, 2].any()


def test_what_is_far_beyond_the_cube_is_still_seen():
    images = render(cloud([[0.0, 0, -6.0], [0, 0, -6.5]], [[0.0, 1, 0], [1, 0, 0]]), 64)
    assert images[0, 0, RGB, 32, 32].tolist() == [0, 1, 0]


def test_points_at_the_upper_edge_are_outside_and_at_the_lower_inside():
    assert filled(render(cloud([[-1.0, 1.0, 0]]), 64))[0, 0, 0, 0]
    assert not filled(render(cloud([[1.0, 0, 0]]), 64))[0, 0].any()


def test_invalid_points_change_nothing_whatever_they_hold():
    points = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1
    alone = cloud(points)
    junk = torch.tensor([[[0.0, 0, 0.99], [7.0, 7, 7], [float("nan")] * 3, [float("inf")] * 3]])
    valid = torch.tensor([[False] * 4 + [True] * 50])
    rgb = torch.cat((torch.ones(1, 4, 3), alone.rgb), dim=1)
    both = Cloud(torch.cat((junk, points), dim=1), rgb, valid)
    assert torch.equal(render(alone, 64), render(both, 64))


def test_rows_are_independent(monkeypatch):
    points = torch.rand(5, 300, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1
    points[3] *= 0.2
    whole = cloud(points)
    together = render(whole, 32)
    alone = [
        render(Cloud(whole.xyz[b : b + 1], whole.rgb[b : b + 1], whole.valid[b : b + 1]), 32)
        for b in range(5)
    ]
    assert torch.equal(together, torch.cat(alone))
    monkeypatch.setattr(views, "_POINTS_AT_ONCE", 700)
    assert torch.equal(together, render(whole, 32))


def test_matches_a_plain_loop():
    S = 24
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(4)) * 2.4 - 1.2
    one = cloud(points)
    images = render(one, S)[0]
    for view, (right, down, depth) in enumerate(axes(points.unbind(dim=-1))):
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for n in range(500):
            u, v = float(right[n]) * S / 2 + S / 2, float(down[n]) * S / 2 + S / 2
            if not (0 <= u < S and 0 <= v < S and depth[n] >= 0):
                continue
            key = (int(float(depth[n]) * 1000), n)
            for r, c in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
                place = (int(v) + r, int(u) + c)
                best[place] = min(best.get(place, key), key)
        expected = torch.zeros(3, S, S)
        for (row, column), (_, n) in best.items():
            if 0 <= row < S and 0 <= column < S:
                expected[:, row, column] = one.rgb[0, n]
        same = (images[view, RGB] == expected).all(dim=0)
        assert same.float().mean() > 0.995  # a depth may fall on either side of a step


class Pipeline(torch.nn.Module):
    """From a camera to a decoded point and the picture of the crop around it."""

    def forward(self, image, depth, intrinsics, pose, logits):
        obs = {
            "cam_image_u8": image,
            "cam_depth_m": depth,
            "cam_intrinsics": intrinsics,
            "cam_cam_to_world": pose,
        }
        seen = make_cloud(obs, ["cam"], CubeFrame())
        point = decode(logits)
        return render(seen, 32), render(zoom_cloud(seen, point), 32)


def test_shapes_depend_on_no_data():
    """`torch.export` traces no branch and no size that depends on values."""
    g = torch.Generator().manual_seed(5)
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    matrix = torch.tensor([[10.0, 0, 8], [0, 10, 8], [0, 0, 1]])
    args = (
        torch.randint(0, 256, (2, 16, 16, 3), generator=g, dtype=torch.uint8),
        torch.rand(2, 16, 16, generator=g) + 0.5,
        matrix.repeat(2, 1, 1),
        pose.repeat(2, 1, 1),
        torch.randn(2, 3, 32, 32, generator=g),
    )
    program = torch.export.export(Pipeline(), args).module()
    other = (*args[:1], args[1] + 3.0, *args[2:])
    for inputs in (args, other):
        for traced, plain in zip(program(*inputs), Pipeline()(*inputs), strict=True):
            assert torch.equal(traced, plain)


def test_carries_no_gradient_and_refuses_no_picture():
    points = cloud([[0.0, 0, 0]])
    points.xyz.requires_grad_(True)
    assert not render(points, 16).requires_grad
    with pytest.raises(ConfigError, match="at least 2"):
        render(points, 1)
