"""Convex upsampling and the decoder from the token grid to heatmaps."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.nn.norm import LayerNorm2d
from policies.sam2act.upsample import (
    ConvexUp,
    UpsampleOptions,
    Upsampler,
    convex_combine,
)


def up(width_in=6, width=3, ratio=2, inner=2):
    torch.manual_seed(0)
    module = ConvexUp(width_in, width, ratio, inner)
    nn.init.normal_(module.mask[-1].weight, std=3.0)
    return module, torch.randn(2, width_in, 5, 7)


def neighbours(values):
    """Returns [P, C, 9, H, W]: the 3x3 neighbourhood of each pixel, zero outside."""
    pictures, channels, height, width = values.shape
    columns = F.unfold(values, 3, padding=1)
    return columns.view(pictures, channels, 9, height, width)


def random_weights(pictures, height, width, ratio=2):
    return torch.rand(pictures, 9, ratio, ratio, height, width).log().mul(3).softmax(dim=1)


def test_o_weights_are_convex():
    module, x = up()
    weights = module.weights(x)
    assert weights.shape == (2, 9, 2, 2, 5, 7)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 2, 2, 5, 7))
    assert weights.std(dim=1).min() > 1e-3


def test_o_the_mask_is_scaled_by_a_tenth():
    module, x = up()
    expected = (0.1 * module.mask(x).view(2, 9, 4, 5, 7)[:, :, 1]).softmax(dim=1)
    torch.testing.assert_close(module.weights(x)[:, :, 0, 1], expected)


def test_p_a_constant_stays_inside_and_fades_at_the_border_by_the_weight_outside():
    weights = random_weights(2, 6, 4)
    out = convex_combine(torch.full((2, 3, 6, 4), 2.5), weights)
    inside = out[:, :, 2:-2, 2:-2]
    torch.testing.assert_close(inside, torch.full_like(inside, 2.5))
    here = neighbours(torch.ones(2, 1, 6, 4))
    mass = torch.einsum("pkrsyx,pkyx->pyrxs", weights, here[:, 0]).reshape(2, 12, 8)
    assert mass[:, 0].max() < 1
    torch.testing.assert_close(out, 2.5 * mass[:, None].expand(-1, 3, -1, -1))


def test_q_without_a_mask_it_repeats_the_box_mean():
    module, x = up()
    nn.init.zeros_(module.mask[-1].weight)
    nn.init.zeros_(module.mask[-1].bias)
    mean = F.avg_pool2d(module.value(x), 3, stride=1, padding=1)
    expected = mean.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(x), expected)


def test_r_results_stay_within_their_neighbourhood():
    module, x = up()
    values, out = module.value(x), module(x)
    around = neighbours(values)
    fine = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).movedim((3, 5), (2, 3)).flatten(2, 3)
    inner = (..., slice(1, -1), slice(1, -1))
    low, high = around.amin(2, keepdim=True), around.amax(2, keepdim=True)
    assert (fine[inner] >= low[inner] - 1e-5).all()
    assert (fine[inner] <= high[inner] + 1e-5).all()


@pytest.mark.parametrize("ratio", [2, 3])
def test_s_shape_and_order_of_subpixels(ratio):
    module, x = up(ratio=ratio)
    assert module(x).shape == (2, 3, ratio * 5, ratio * 7)
    values = torch.arange(1.0, 13.0).view(1, 1, 3, 4)
    # Sub-pixel number s, row by row, takes all of its value from neighbour s.
    weights = torch.zeros(1, 9, ratio, ratio, 3, 4)
    for s in range(ratio**2):
        weights[0, s, s // ratio, s % ratio] = 1.0
    out = convex_combine(values, weights)
    padded = F.pad(values, (1, 1, 1, 1))[0, 0]
    for y in range(3):
        for x in range(4):
            for s in range(ratio**2):
                got = out[0, 0, ratio * y + s // ratio, ratio * x + s % ratio]
                assert got == padded[y + s // 3, x + s % 3]


def test_combining_agrees_with_unfolding_for_any_memory_layout():
    torch.manual_seed(1)
    values, weights = torch.randn(2, 5, 4, 6), random_weights(2, 4, 6)
    expected = torch.einsum("pckyx,pkrsyx->pcyrxs", neighbours(values), weights)
    expected = expected.reshape(2, 5, 8, 12)
    for layout in (torch.contiguous_format, torch.channels_last):
        out = convex_combine(values.to(memory_format=layout), weights)
        torch.testing.assert_close(out, expected)


def test_layer_norm_is_over_the_channels_of_each_pixel():
    norm = LayerNorm2d(8)
    y = norm(3 + 5 * torch.randn(2, 8, 3, 4))
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


CASES = {
    # grid, side, levels of the encoder -> sides behind the doublings, of which skips, resized
    "published": (16, 224, {64: 32, 32: 64, 16: 256}, [32, 64], [True, True], True),
    "small": (8, 128, {32: 32, 16: 64, 8: 128}, [16, 32], [True, True], True),
    "64 px, two finer levels": (8, 64, {32: 32, 16: 64, 8: 96}, [16, 32], [True, True], False),
    "64 px, one finer level": (8, 64, {16: 64, 8: 96, 4: 96}, [16, 32], [True, False], False),
    "a fine grid": (16, 64, {16: 96, 8: 96, 4: 96}, [32], [False], False),
}


@pytest.mark.parametrize("case", CASES)
def test_path_from_grid_to_heatmap(case):
    grid, side, channels, sides, skips, resized = CASES[case]
    torch.manual_seed(0)
    module = Upsampler(UpsampleOptions(), 16, grid, side, channels)
    assert (module.sides, module.skips, module.resized) == (sides, skips, resized)
    levels = {s: torch.randn(2, c, s, s) for s, c in channels.items()}
    x = torch.randn(2, 16, grid, grid)
    out = module(x, levels)
    assert out.shape == (2, side, side) and out.dtype == torch.float32
    for s, skip in zip(sides, skips, strict=True):
        if s not in channels:
            continue
        without = module(x, levels | {s: torch.zeros_like(levels[s])})
        assert torch.equal(without, out) != skip
    if grid // 2 in channels:
        other = levels | {grid // 2: torch.zeros_like(levels[grid // 2])}
        assert torch.equal(module(x, other), out)


def test_the_bilinear_step_does_not_keep_corners():
    module = Upsampler(UpsampleOptions(widths=[4]), 4, 4, 32, {})
    seen = []
    module.last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    module.norms[0].register_forward_hook(lambda *_: torch.arange(8.0).expand(1, 4, 8, 8))
    module(torch.randn(1, 4, 4, 4), {})
    # Half-pixel centres: 16 columns of a ramp of 8 begin at 0, 0.25, 0.75.
    torch.testing.assert_close(seen[0][0, 0, 0, :3], torch.tensor([0.0, 0.25, 0.75]))


def test_norm_and_slope_behind_a_doubling():
    module = Upsampler(UpsampleOptions(widths=[4]), 4, 4, 16, {8: 4})
    seen = []
    module.last.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x, level = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8, 8)
    module(x, {8: level})
    normed = module.norms[0](module.steps[0](x) + level)
    torch.testing.assert_close(seen[0], torch.where(normed < 0, 0.02 * normed, normed))


@pytest.mark.parametrize(("inner", "millions"), [(2, 1.75), (1, 0.68)])
def test_parameter_counts(inner, millions):
    with torch.device("meta"):
        module = Upsampler(UpsampleOptions(inner=inner), 128, 16, 224, {})
    count = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.005)


def test_computes_in_float32_under_autocast():
    torch.manual_seed(0)
    module = Upsampler(UpsampleOptions(), 16, 8, 64, {16: 64})
    x, level = torch.randn(2, 16, 8, 8), torch.randn(2, 64, 16, 16)
    expected = module(x, {16: level})
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x, {16: level}), expected)
        narrow = module(x.bfloat16(), {16: level.bfloat16()})
    assert narrow.dtype == torch.float32


def test_every_parameter_learns():
    torch.manual_seed(0)
    module = Upsampler(UpsampleOptions(), 16, 8, 64, {16: 64})
    level = torch.randn(2, 64, 16, 16, requires_grad=True)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    logits = module(x, {16: level}).flatten(1)
    torch.logsumexp(logits, dim=1).sub(logits[:, 100]).mean().backward()
    for name, tensor in [*module.named_parameters(), ("x", x), ("level", level)]:
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("grid", "side", "channels", "message"),
    [
        (8, 65, {}, r"must be even and at least twice the token grid's 8, got 65"),
        (8, 14, {}, r"at least twice the token grid's 8, got 14"),
        (8, 64, {16: 48}, r"level of side 16 has 48 channels.*upsample\.widths has 64"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(grid, side, channels, message):
    with pytest.raises(ConfigError, match=message):
        Upsampler(UpsampleOptions(), 16, grid, side, channels)


@pytest.mark.parametrize("options", [{"widths": []}, {"widths": [64, 0]}, {"inner": 0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ConfigError, match=rf"upsample\.{next(iter(options))}"):
        UpsampleOptions(**options)
