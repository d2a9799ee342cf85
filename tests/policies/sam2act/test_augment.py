"""Augmentation: rigid, within the box, one move a sequence, padding harmless."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from embodied.core.errors import ConfigError
from policies.sam2act.augment import AugmentOptions, augment, draw
from policies.sam2act.cloud import Cloud
from policies.sam2act.rotation import canonical

IDENTITY = [0.0, 0.0, 0.0, 1.0]


def sequences(batch=4, ticks=5, points=30, spread=0.6, seed=0):
    """Returns clouds, target positions, orientations and validity of random sequences."""
    g = torch.Generator().manual_seed(seed)
    xyz = torch.rand(batch, ticks, points, 3, generator=g) * 1.6 - 0.8
    cloud = Cloud(xyz, torch.rand(xyz.shape, generator=g), torch.ones(xyz.shape[:3]).bool())
    targets = (torch.rand(batch, ticks, 3, generator=g) * 2 - 1) * spread
    quats = canonical(torch.randn(batch, ticks, 4, generator=g))
    return cloud, targets, quats, torch.ones(batch, ticks, dtype=torch.bool)


def run(data, seed=0, **options):
    return augment(*data, AugmentOptions(**options), torch.Generator().manual_seed(seed))


@given(
    st.integers(0, 10_000), st.sampled_from([0.3, 0.8, 1.0]), st.booleans(), st.floats(0, 1),
    st.floats(0, 180),
)  # fmt: skip
@settings(max_examples=100)
def test_valid_targets_stay_in_the_box(seed, spread, per_tick, translation, yaw_deg):
    _, targets, _, valid = sequences(spread=spread, seed=seed)
    valid[0, 3:] = False
    targets[0, 3:] = 50.0
    options = AugmentOptions(translation, yaw_deg, per_tick)
    move = draw(targets, valid, options, torch.Generator().manual_seed(seed))
    assert move.points(targets)[valid].abs().max() <= 1 + 1e-5


def test_corners_that_no_turn_keeps_inside_are_not_turned():
    corners = torch.tensor([[[1.0, 1, 1], [-1, -1, -1], [1, -1, 0], [-1, 1, 0]]])
    move = draw(corners, torch.ones(1, 4).bool(), AugmentOptions(), torch.Generator())
    assert torch.equal(move.points(corners), corners)


def test_a_turn_that_does_not_fit_is_made_smaller_not_dropped():
    wide = torch.tensor([[[0.99, 0.2, 0], [-0.99, -0.2, 0]]]).expand(400, 2, 3)
    options = AugmentOptions(0.0, 90.0)
    move = draw(wide, torch.ones(400, 2).bool(), options, torch.Generator().manual_seed(0))
    near = wide * 0.1
    free = draw(near, torch.ones(400, 2).bool(), options, torch.Generator().manual_seed(0))
    share = (move.yaw_rad / free.yaw_rad)[:, 0]
    assert set(share.tolist()) <= {1.0, 0.5, 0.25, 0.125, 0.0625, 0.0}
    assert (share == 1).any() and (share == 0.5).any() and (share > 0).float().mean() > 0.5


def test_the_whole_scene_moves_as_one_body():
    cloud, targets, quats, _ = data = sequences()
    moved, positions, turned = run(data)
    both = torch.cat((cloud.xyz, targets[:, :, None]), dim=2).flatten(1, 2)
    after = torch.cat((moved.xyz, positions[:, :, None]), dim=2).flatten(1, 2)
    assert (after - both).abs().amax(dim=(1, 2)).min() > 0.01
    # One move a sequence: distances hold over ticks, and heights change by one amount.
    torch.testing.assert_close(
        torch.cdist(after, after), torch.cdist(both, both), atol=2e-3, rtol=0
    )
    rise = (after - both)[..., 2]
    assert (rise - rise[:, :1]).abs().max() < 1e-6
    for b in range(4):
        before, now = Rotation.from_quat(quats[b].numpy()), Rotation.from_quat(turned[b].numpy())
        step = (now * before.inv()).as_rotvec()
        assert abs(step[:, :2]).max() < 1e-5 and abs(step[:, 2] - step[0, 2]).max() < 1e-5
        arm = both[b, 1] - both[b, 0]
        torch.testing.assert_close(
            Rotation.from_rotvec(step[0]).apply(arm.numpy()),
            (after[b, 1] - after[b, 0]).double().numpy(), atol=1e-5, rtol=0,
        )  # fmt: skip
    assert (turned[..., 3] >= 0).all() and torch.equal(moved.rgb, cloud.rgb)


def test_a_sequence_turns_about_its_first_valid_target():
    data = sequences()
    data[3][1, 0] = False
    _, positions, _ = run(data, translation=0.0)
    for row, first in enumerate((0, 1, 0, 0)):
        torch.testing.assert_close(positions[row, first], data[1][row, first], atol=1e-6, rtol=0)
        assert (positions[row, 4] - data[1][row, 4]).abs().max() > 1e-3


def test_per_tick_moves_differ_and_turn_about_their_own_targets():
    data = sequences()
    _, positions, turned = run(data, translation=0.0, per_tick=True)
    torch.testing.assert_close(positions, data[1], atol=1e-6, rtol=0)
    steps = [
        (Rotation.from_quat(turned[b].numpy()) * Rotation.from_quat(data[2][b].numpy()).inv())
        for b in range(4)
    ]
    yaws = torch.tensor([list(step.as_rotvec()[:, 2]) for step in steps])
    assert yaws.unique().numel() == 20


def test_a_point_fixed_to_the_target_stays_fixed_to_it():
    cloud, targets, quats, valid = sequences(points=1)
    cloud = dataclasses.replace(cloud, xyz=targets[:, :, None] + 0.05)
    for per_tick in (False, True):
        moved, positions, turned = run((cloud, targets, quats, valid), per_tick=per_tick)
        for b in range(4):
            before = Rotation.from_quat(quats[b].numpy()).inv().apply(torch.full((5, 3), 0.05))
            hand = Rotation.from_quat(turned[b].numpy()).inv()
            after = hand.apply((moved.xyz[b, :, 0] - positions[b]).numpy())
            torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_shifts_and_turns_are_uniform_within_their_bounds():
    centre, valid = torch.zeros(4000, 1, 3), torch.ones(4000, 1).bool()
    move = draw(centre, valid, AugmentOptions(), torch.Generator().manual_seed(3))
    # 12.5 % of a box that is 2 across; 45 degrees.
    for values, bound in ((move.shift[:, 0], 0.25), (move.yaw_rad, torch.pi / 4)):
        assert values.abs().max() <= bound
        assert float(values.abs().max()) == pytest.approx(bound, rel=0.01)
        assert values.mean(dim=0).abs().max() < 0.05 * bound
        assert (values.std(dim=0) / bound - 3**-0.5).abs().max() < 0.02


def test_shifts_are_clamped_not_drawn_again():
    edge = torch.tensor([[[0.95, 0.0, 0.0]]]).expand(2000, 1, 3)
    move = draw(edge, torch.ones(2000, 1).bool(), AugmentOptions(), torch.Generator())
    at = move.points(edge)[:, 0, 0]
    assert 0.3 < (at > 1 - 1e-5).float().mean() < 0.5


@pytest.mark.parametrize("per_tick", [False, True])
def test_padding_is_harmless_whatever_it_holds(per_tick):
    cloud, targets, quats, valid = sequences()
    valid[:, 3:] = False
    valid[2] = False
    clean = run((cloud, targets, quats, valid), per_tick=per_tick)
    dirty_targets, dirty_quats = targets.clone(), quats.clone()
    dirty_targets[~valid], dirty_quats[~valid] = float("nan"), float("nan")
    dirty = run((cloud, dirty_targets, dirty_quats, valid), per_tick=per_tick)
    assert torch.equal(clean[0].xyz, dirty[0].xyz) and torch.equal(clean[0].valid, dirty[0].valid)
    for before, after in zip(clean[1:], dirty[1:], strict=True):
        assert torch.equal(before, after) and torch.isfinite(after).all()
    assert (dirty[1][~valid] == 0).all()
    assert dirty[2][2, 0].tolist() == IDENTITY
    assert torch.isfinite(dirty[0].xyz).all()


def test_padding_does_not_narrow_the_draw():
    near = torch.full((200, 2, 3), 0.9)
    padded = torch.cat((near, torch.zeros(200, 3, 3)), dim=1)
    valid = torch.tensor([True, True, False, False, False]).expand(200, 5)
    options = AugmentOptions(1.0, 180.0)
    short = draw(near, valid[:, :2], options, torch.Generator().manual_seed(0))
    long = draw(padded, valid, options, torch.Generator().manual_seed(0))
    assert torch.equal(short.shift, long.shift[:, :2])
    assert torch.equal(short.yaw_rad, long.yaw_rad[:, :2])


def test_no_augmentation_is_the_identity_to_the_bit():
    data = sequences()
    moved, positions, turned = run(data, translation=0.0, yaw_deg=0.0)
    assert torch.equal(moved.xyz, data[0].xyz) and torch.equal(positions, data[1])
    torch.testing.assert_close(turned, data[2], atol=1e-6, rtol=0)


def test_clouds_are_cropped_after_the_move():
    cloud, targets, quats, valid = sequences(batch=50)
    cloud.xyz[:, :, 0] = torch.tensor([1.2, 0.0, 0.0])
    cloud.valid[:, :, 1] = False
    moved, _, _ = run((cloud, targets, quats, valid))
    inside = (moved.xyz.abs() <= 1).all(dim=-1)
    assert torch.equal(moved.valid, inside & cloud.valid)
    assert moved.valid[:, :, 0].any() and not moved.valid[:, :, 0].all()


def test_the_generator_decides():
    data = sequences()
    assert torch.equal(run(data, seed=1)[1], run(data, seed=1)[1])
    assert not torch.equal(run(data, seed=1)[1], run(data, seed=2)[1])


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="translation"):
        AugmentOptions(translation=-0.1)
    with pytest.raises(ConfigError, match="yaw_deg"):
        AugmentOptions(yaw_deg=200)
