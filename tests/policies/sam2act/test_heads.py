"""Feature pooling, and the heads for rotation, gripper and collision."""

import pytest
import torch
from torch import nn

from embodied.core.errors import ConfigError
from policies.sam2act.heads import (
    BINS,
    HeadOptions,
    Heads,
    bin_code,
    corner_weights,
    pooled,
    sample,
    teacher_noise,
)

B, V, D, G = 2, 3, 4, 8


def features():
    torch.manual_seed(0)
    return torch.randn(B, V, D, G, G)


def everywhere(column, row):
    return torch.tensor([float(column), float(row)]).expand(B, V, 2)


def make(norm="layer", **options):
    torch.manual_seed(0)
    return Heads(2 * D * V, HeadOptions(feature_norm=norm, **options))


def test_t_weights_sum_to_one():
    place = torch.cat([torch.rand(50, 2) * 7, torch.tensor([[3.0, 5.0], [0.5, 2.5], [2.0, 1.25]])])
    corners, weights = corner_weights(place)
    assert corners.shape == (53, 4, 2) and weights.shape == (53, 4)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(53))


def test_t_weights_are_inverse_distances():
    place = torch.tensor([2.25, 5.5])
    corners, weights = corner_weights(place)
    inverse = 1 / torch.linalg.vector_norm(corners - place, dim=-1)
    torch.testing.assert_close(weights, inverse / inverse.sum())
    assert {tuple(corner) for corner in corners.tolist()} == {(2, 5), (3, 5), (2, 6), (3, 6)}


@pytest.mark.parametrize(("column", "row"), [(0, 0), (3, 5), (7, 2), (7, 7)])
def test_t_a_whole_place_returns_its_pixel(column, row):
    x = features()
    assert torch.equal(sample(x, everywhere(column, row)), x[..., row, column])


def test_t_a_middle_returns_the_mean_of_four():
    x = features()
    got = sample(x, everywhere(3.5, 5.5))
    torch.testing.assert_close(got, x[..., 5:7, 3:5].mean(dim=(-2, -1)))


@pytest.mark.parametrize(
    ("column", "row"), [(-0.5, 3), (3, -1), (7.01, 3), (3, 7.5), (-90, 4), (1e6, 1e6)]
)
def test_t_outside_is_zero(column, row):
    assert not sample(features(), everywhere(column, row)).any()


def test_rows_and_views_are_sampled_at_their_own_places():
    x = features()
    place = torch.randint(0, G, (B, V, 2)).float()
    got = sample(x, place)
    for b in range(B):
        for v in range(V):
            column, row = place[b, v].long().tolist()
            assert torch.equal(got[b, v], x[b, v, :, row, column])


def test_pooled_feature_is_view_by_view_maximum_then_place():
    x, patch = features(), 14
    feature = pooled(x, everywhere(3 * patch, 5 * patch), patch)
    assert feature.shape == (B, V * 2 * D)
    parts = feature.view(B, V, 2, D)
    assert torch.equal(parts[:, :, 0], x.flatten(3).max(dim=-1).values)
    assert torch.equal(parts[:, :, 1], x[..., 5, 3])


def test_pooled_feature_has_gradients_to_features_and_none_to_the_place():
    x = features().requires_grad_()
    pixels = (torch.rand(B, V, 2) * 50).requires_grad_()
    pooled(x, pixels, 8).square().sum().backward()
    assert x.grad.any() and x.grad.isfinite().all() and pixels.grad is None
    whole = features().requires_grad_()
    pooled(whole, everywhere(16, 24), 8).sum().backward()
    assert whole.grad.isfinite().all()


def test_w_code_of_bin_zero_is_zeros_then_ones():
    code = bin_code(torch.tensor([0, 1]), 768)
    assert code.shape == (2, 768) and code.dtype == torch.float32
    assert torch.equal(code[0], torch.cat([torch.zeros(384), torch.ones(384)]))
    rates = 10000.0 ** (-torch.arange(384) / 384)
    torch.testing.assert_close(code[1], torch.cat([rates.sin(), rates.cos()]))


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_v_true_angles_equal_to_its_own_change_nothing(norm):
    heads = make(norm).eval()
    feature = torch.randn(B, 2 * D * V)
    own = heads(feature)
    bins = own.rotation.argmax(dim=-1)
    told = heads(feature, bins)
    assert torch.equal(told.rotation, own.rotation)
    # Noise that cancels, modulo a whole turn, changes nothing either.
    again = heads(feature, torch.remainder(bins + 2, BINS), torch.full((B, 2), -2))
    assert torch.equal(again.rotation, own.rotation)


def test_later_angles_are_told_the_earlier_ones_and_nothing_else():
    heads = make().eval()
    feature, bins = torch.randn(B, 2 * D * V), torch.tensor([[10, 20, 30], [40, 50, 60]])
    before = heads(feature, bins)
    reached = {
        0: [False, True, True],
        1: [False, False, True],
        2: [False, False, False],
    }
    for axis, expected in reached.items():
        other = bins.clone()
        other[:, axis] = torch.remainder(other[:, axis] + 31, BINS)
        after = heads(feature, other)
        changed = (after.rotation != before.rotation).flatten(2).any(-1).all(0).tolist()
        assert changed == expected, axis
        assert torch.equal(after.gripper, before.gripper)
    noisy = heads(feature, bins, torch.tensor([[1, 0], [-2, 0]]))
    assert torch.equal(
        noisy.rotation, heads(feature, bins + torch.tensor([[1, 0, 0], [-2, 0, 0]])).rotation
    )


def test_the_third_angle_hears_the_sum_of_codes():
    heads = make().eval()
    feature, bins = torch.randn(B, 2 * D * V), torch.tensor([[5, 9, 0], [71, 0, 0]])
    normed = heads.norm(feature)
    code = [bin_code(bins[:, axis], 2 * D * V) for axis in range(2)]
    out = heads(feature, bins).rotation
    torch.testing.assert_close(out[:, 0], heads.angles[0](normed))
    torch.testing.assert_close(out[:, 1], heads.angles[1](normed + code[0]))
    torch.testing.assert_close(out[:, 2], heads.angles[2](normed + code[0] + code[1]))


def test_gripper_and_collision_come_from_the_raw_feature():
    heads = make()
    feature = torch.randn(B, 2 * D * V)
    out = heads(feature)
    assert torch.equal(torch.cat([out.gripper, out.collision], dim=-1), heads.rest(feature))
    assert out.rotation.shape == (B, 3, 72) and out.gripper.shape == (B, 2)


def test_noise_is_drawn_from_the_published_set():
    bins = torch.zeros(4000, 3, dtype=torch.int64)
    drawn = teacher_noise(bins, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 2) and drawn.dtype == torch.int64
    assert sorted(drawn.unique().tolist()) == [-2, -1, 0, 1]
    again = teacher_noise(bins, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)
    share = drawn.flatten().add(2).bincount() / drawn.numel()
    torch.testing.assert_close(share, torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_which_norm_the_feature_goes_through():
    assert isinstance(make().norm, nn.LayerNorm)
    batch = make("batch")
    assert isinstance(batch.norm, nn.BatchNorm1d)
    feature = torch.randn(6, 2 * D * V)
    batch(feature)
    batch.eval()
    row = batch(feature[2:3]).rotation
    torch.testing.assert_close(row, batch(feature).rotation[2:3])


def test_a_row_alone_equals_the_row_in_a_batch_also_in_training():
    heads = make().train()
    feature, bins = torch.randn(6, 2 * D * V), torch.randint(0, BINS, (6, 3))
    torch.testing.assert_close(
        heads(feature[2:3], bins[2:3]).rotation, heads(feature, bins).rotation[2:3]
    )


def test_parameter_count():
    with torch.device("meta"):
        heads = Heads(768, HeadOptions(feature_norm="batch"))
    count = sum(parameter.numel() for parameter in heads.parameters()) / 1e6
    assert count == pytest.approx(0.95, abs=0.005)


def test_every_parameter_learns():
    heads = make()
    out = heads(torch.randn(B, 2 * D * V), torch.randint(0, BINS, (B, 3)))
    loss = out.rotation.logsumexp(-1).mean() + out.gripper.square().mean()
    (loss + out.collision.square().mean()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match=r"unknown heads\.feature_norm 'batchnorm'.*'batch'"):
        HeadOptions(feature_norm="batchnorm")
    with pytest.raises(ConfigError, match=r"heads\.hidden must be sizes >= 1"):
        HeadOptions(hidden=[256, 0])
    with pytest.raises(ConfigError, match="noise is added to teacher_bins"):
        make()(torch.randn(B, 2 * D * V), noise=torch.zeros(B, 2, dtype=torch.int64))
