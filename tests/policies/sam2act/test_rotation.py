"""Euler bins and quaternions, against scipy and at the places where angles misbehave."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from policies.sam2act.rotation import (
    BIN_DEG,
    BINS,
    bins_to_quat,
    canonical,
    euler_deg_to_quat,
    multiply,
    quat_to_bins,
    quat_to_euler_deg,
    yaw_quat,
)


def random_quats(count, seed=0):
    quats = np.random.default_rng(seed).normal(size=(count, 4))
    return torch.from_numpy(quats / np.linalg.norm(quats, axis=1, keepdims=True))


def angle_between_deg(left, right):
    dot = (left * right).sum(dim=-1).abs().clamp(max=1)
    return torch.rad2deg(2 * torch.arccos(dot))


def down(yaw_deg):
    """Returns the orientation of a hand that points straight down, turned by `yaw_deg`."""
    half = np.deg2rad(np.asarray(yaw_deg, float)) / 2
    return torch.from_numpy(np.stack((np.cos(half), np.sin(half), 0 * half, 0 * half), axis=-1))


def test_u_a_bins_orientation_has_that_bin():
    """All 181,440 bins whose pitch is a label's and not straight up or down."""
    roll, pitch, yaw = torch.meshgrid(
        torch.arange(BINS), torch.arange(19, 54), torch.arange(BINS), indexing="ij"
    )
    bins = torch.stack((roll, pitch, yaw), dim=-1).reshape(-1, 3)
    assert torch.equal(quat_to_bins(bins_to_quat(bins)), bins)
    assert torch.equal(quat_to_bins(-bins_to_quat(bins)), bins)


def test_euler_angles_are_scipys_xyz():
    quats = random_quats(2000)
    ours = quat_to_euler_deg(quats)
    theirs = Rotation.from_quat(quats.numpy()).as_euler("xyz", degrees=True)
    usual = np.abs(theirs[:, 1]) < 88.9
    assert usual.mean() > 0.99
    np.testing.assert_allclose(ours.numpy()[usual], theirs[usual], atol=1e-7)
    back = euler_deg_to_quat(ours)[torch.from_numpy(usual)]
    assert angle_between_deg(back, quats[torch.from_numpy(usual)]).max() < 1e-4


def test_bins_are_at_most_half_a_bin_off_on_each_axis():
    quats = random_quats(2000, seed=1).float()
    euler = quat_to_euler_deg(quats)
    middle = quat_to_bins(quats) * BIN_DEG - 180
    off = (euler - middle + 180) % 360 - 180
    assert off[euler[:, 1].abs() < 88].abs().max() <= BIN_DEG / 2 + 1e-3


@given(
    st.integers(0, BINS - 1),
    st.lists(st.floats(-0.02, 0.02), min_size=4, max_size=4),
    st.sampled_from([1.0, -1.0]),
)
@settings(max_examples=300)
def test_u_a_hand_that_points_down_keeps_its_bins_under_noise(yaw_bin, noise, sign):
    """Roll lies at +-180: whichever side noise puts it on (up to 2 degrees), it is bin 0."""
    noisy = sign * down(yaw_bin * BIN_DEG - 180) + torch.tensor(noise) / 2
    assert quat_to_bins(noisy.float()).tolist() == [0, 36, yaw_bin]


def test_noise_puts_roll_on_both_sides():
    rolls = quat_to_euler_deg(down(30.0) + torch.tensor([[0, 0, 1e-6, 1e-6], [0, 0, 1e-6, -1e-6]]))
    assert rolls[0, 0] > 179 and rolls[1, 0] < -179


def test_last_bin_is_the_first():
    for degrees in (-180.0, 180.0, 177.6, -177.6):
        assert quat_to_bins(euler_deg_to_quat(torch.tensor([degrees, 0, degrees])))[0] == 0
    assert quat_to_bins(euler_deg_to_quat(torch.tensor([177.4, 0, -177.4]))).tolist() == [71, 36, 1]


@pytest.mark.parametrize("sign", [1, -1])
def test_gimbal_fix_snaps_pitch_and_leaves_one_angle(sign):
    for pitch in (89.2, 89.9, 90.0):
        euler = np.array([[30.0, sign * pitch, 50.0], [-100.0, sign * pitch, 170.0]])
        quats = torch.from_numpy(Rotation.from_euler("xyz", euler, degrees=True).as_quat())
        ours = quat_to_euler_deg(quats)
        assert torch.equal(ours[:, 1], torch.full((2,), sign * 90.0, dtype=ours.dtype))
        assert (ours[:, 2] == 0).all()
        # The published fix: pitch put to 90, then the angles computed anew (by scipy: yaw 0).
        turn = euler[:, 0] - sign * euler[:, 2]
        off = (ours[:, 0].numpy() - turn + 180) % 360 - 180
        assert np.abs(off).max() < 0.1
        assert angle_between_deg(euler_deg_to_quat(ours), quats).max() < 1.0
    below = Rotation.from_euler("xyz", [30.0, sign * 88.9, 50.0], degrees=True).as_quat()
    assert quat_to_euler_deg(torch.from_numpy(below))[2] == pytest.approx(50.0, abs=1e-3)


def test_gimbal_bins_are_stable_and_mean_the_same_rotation():
    bins = torch.tensor([[b, pitch, 36] for b in range(BINS) for pitch in (18, 54)])
    quats = bins_to_quat(bins)
    again = quat_to_bins(quats)
    assert torch.equal(again, bins)
    noisy = quat_to_bins(
        quats + 1e-4 * torch.randn(quats.shape, generator=torch.Generator().manual_seed(0))
    )
    assert torch.equal(noisy, bins)


def test_w_is_never_negative_and_length_one():
    quats = canonical(torch.cat((random_quats(500), 3 * random_quats(500, seed=1))))
    assert (quats[:, 3] >= 0).all()
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(1000, dtype=quats.dtype))
    assert (bins_to_quat(torch.randint(0, BINS, (500, 3)))[:, 3] >= 0).all()
    assert canonical(torch.zeros(2, 4)).tolist() == [[0, 0, 0, 1]] * 2


def test_products_and_yaws_are_scipys():
    left, right = random_quats(200, seed=2), random_quats(200, seed=3)
    theirs = (Rotation.from_quat(left.numpy()) * Rotation.from_quat(right.numpy())).as_quat()
    assert angle_between_deg(multiply(left, right), torch.from_numpy(theirs)).max() < 1e-5
    yaws = torch.linspace(-3, 3, 9, dtype=torch.float64)
    theirs = Rotation.from_euler("z", yaws.numpy()[:, None]).as_quat()
    assert angle_between_deg(yaw_quat(yaws), torch.from_numpy(theirs)).max() < 1e-5


def test_turning_a_downward_hand_moves_its_yaw_bin_alone():
    turned = multiply(yaw_quat(torch.tensor(np.deg2rad(25.0))), down(40.0))
    assert quat_to_bins(turned).tolist() == [0, 36, (40 + 25 + 180) // 5]
