"""One branch, coarse and fine, over an encoder's levels."""

import contextlib

import pytest
import torch

from embodied.core.errors import ConfigError
from policies.sam2act.branch import Branch, BranchOptions
from policies.sam2act.heads import HeadOptions, teacher_noise
from policies.sam2act.trunk import TrunkOptions

B, V, L, E, P = 2, 3, 5, 16, 4
CHANNELS = {16: 64, 8: 24, 4: 24}
TRUNK = {"width": 24, "encoder_width": 8, "patch_width": 8, "hidden": 16, "head_width": 8}


def make(heads=True, norm="layer", **options):
    torch.manual_seed(0)
    sizes = BranchOptions(
        trunk=TrunkOptions(**{**TRUNK, "heads": 2}), heads=HeadOptions([12], norm), **options
    )
    return Branch(sizes, CHANNELS, P, E, heads).eval()


def inputs(batch=B, side=64, levels=CHANNELS):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    drawn = {s: draw(batch * V, c, s, s) for s, c in levels.items()}
    return draw(batch, V, 10, side, side), drawn, draw(batch, P), draw(batch, L, E)


def run(branch, given, pixels, bins=None, noise=None):
    x = branch.trunk(*given)
    out = branch.heads(branch.features(x, pixels), bins, noise)
    return x, branch.heatmaps(x, given[1]), out


def loss_of(heatmaps, out, bins):
    rows = heatmaps.flatten(2)
    loss = (rows.logsumexp(-1) - rows[..., 777]).mean()
    rotation = out.rotation.log_softmax(-1).gather(2, bins[..., None])
    rest = out.gripper.log_softmax(-1)[:, 0] + out.collision.log_softmax(-1)[:, 1]
    return loss - rotation.mean() - rest.mean()


def test_shapes_and_that_views_keep_their_heatmaps():
    branch, given = make(), inputs()
    x, heatmaps, out = run(branch, given, torch.full((B, V, 2), 20.0))
    assert x.shape == (B, V, 24, 8, 8)
    assert heatmaps.shape == (B, V, 64, 64) and heatmaps.dtype == torch.float32
    assert (out.rotation.shape, out.gripper.shape) == ((B, 3, 72), (B, 2))
    # A view's heatmap is made of its own features and level alone.
    level = given[1][16].clone()
    level[V + 1] += 1
    moved = branch.heatmaps(x, given[1] | {16: level}) - heatmaps
    assert moved.abs().amax(dim=(2, 3)).nonzero().tolist() == [[1, 1]]


def test_waypoints_are_given_in_pixels_of_the_view():
    branch = make()
    x = torch.randn(B, V, 24, 8, 8)
    feature = branch.features(x, torch.tensor([24.0, 40.0]).expand(B, V, 2))
    assert feature.shape == (B, V * 2 * 24)
    assert torch.equal(feature.view(B, V, 2, 24)[:, :, 1], x[..., 5, 3])


def test_the_coarse_branch_has_no_heads_and_is_else_the_same():
    coarse, fine = make(heads=False), make()
    assert coarse.heads is None
    names = {name for name in fine.state_dict() if not name.startswith("heads.")}
    assert set(coarse.state_dict()) == names
    given = inputs()
    x = coarse.trunk(*given)
    assert coarse.heatmaps(x, given[1]).shape == (B, V, 64, 64)


def test_a_row_alone_equals_the_row_in_a_batch_also_in_training():
    branch, given = make().train(), inputs(4)
    pixels, bins = torch.rand(4, V, 2) * 60, torch.randint(0, 72, (4, 3))
    noise = teacher_noise(bins, torch.Generator().manual_seed(0))
    whole = run(branch, given, pixels, bins, noise)
    row = slice(2, 3)
    images, levels, proprio, language = given
    levels = {side: level[2 * V : 3 * V] for side, level in levels.items()}
    alone = run(
        branch,
        (images[row], levels, proprio[row], language[row]),
        pixels[row],
        bins[row],
        noise[row],
    )
    for ours, theirs in (
        (alone[0], whole[0]),
        (alone[1], whole[1]),
        (alone[2].rotation, whole[2].rotation),
        (alone[2].gripper, whole[2].gripper),
    ):
        torch.testing.assert_close(ours, theirs[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_gradients_reach_everything_that_learns(norm):
    branch, given = make(norm=norm).train(), inputs()
    for level in given[1].values():
        level.requires_grad_()
    bins = torch.randint(0, 72, (B, 3))
    _, heatmaps, out = run(branch, given, torch.rand(B, V, 2) * 50, bins)
    loss_of(heatmaps, out, bins).backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    # Levels coarser than the token grid are read by nothing.
    assert {side: level.grad is not None for side, level in given[1].items()} == {
        16: True,
        8: True,
        4: False,
    }


def test_runs_under_bfloat16_autocast():
    branch, given = make().train(), inputs()
    bins = torch.randint(0, 72, (B, 3))
    with torch.autocast("cpu", torch.bfloat16):
        x, heatmaps, out = run(branch, given, torch.rand(B, V, 2) * 50, bins)
    assert x.dtype == out.rotation.dtype == torch.bfloat16
    assert heatmaps.dtype == torch.float32
    loss_of(heatmaps, out, bins).backward()
    assert all(p.grad.isfinite().all() for p in branch.parameters())
    plain, near, rest = run(branch, given, torch.full((B, V, 2), 20.0))
    with torch.autocast("cpu", torch.bfloat16):
        again = run(branch, given, torch.full((B, V, 2), 20.0))
    torch.testing.assert_close(again[0].float(), plain, atol=0.1, rtol=0.1)
    torch.testing.assert_close(again[1], near, atol=0.05, rtol=0.1)
    torch.testing.assert_close(again[2].gripper.float(), rest.gripper, atol=0.05, rtol=0.1)


def test_asks_the_device_for_nothing_and_stays_on_it(monkeypatch):
    # Tensors of this device have no values: to look at one, or to mix in one of the host's, fails.
    branch, (images, levels, proprio, language) = make().to("meta"), inputs()
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    given = (images.to("meta"), {s: x.to("meta") for s, x in levels.items()}, proprio, language)
    pixels = torch.rand(B, V, 2, device="meta")
    for bins in (None, torch.zeros(B, 3, dtype=torch.int64, device="meta")):
        noise = None if bins is None else teacher_noise(bins)
        x, heatmaps, out = run(
            branch, (*given[:2], proprio.to("meta"), language.to("meta")), pixels, bins, noise
        )
        assert {t.device.type for t in (x, heatmaps, out.rotation, out.gripper)} == {"meta"}


def test_can_be_traced_whole():
    class Whole(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = make()

        def forward(self, images, fine, level, proprio, language, pixels):
            given = (images, {16: fine, 8: level}, proprio, language)
            x, heatmaps, out = run(self.branch, given, pixels)
            return x, heatmaps, out.rotation, out.gripper, out.collision

    images, levels, proprio, language = inputs()
    args = (images, levels[16], levels[8], proprio, language, torch.rand(B, V, 2) * 50)
    whole = Whole().eval()
    program = torch.export.export(whole, args, strict=False)
    for ours, theirs in zip(program.module()(*args), whole(*args), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_small_sizes():
    with torch.device("meta"):
        branch = Branch(
            BranchOptions(side=128, patch=16), {32: 32, 16: 64, 8: 128}, 4, 512, heads=True
        )

    def millions(*parts):
        return sum(p.numel() for part in parts for p in part.parameters()) / 1e6

    assert millions(branch.trunk.within, branch.trunk.joint) == pytest.approx(1.06, abs=0.005)
    assert millions(branch.upsampler) == pytest.approx(0.68, abs=0.005)
    assert millions(branch.heads) == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 0}, r"side must be >= 1, got 0"),
        ({"patch": 7}, r"patch=7 must divide side=64"),
        ({"views": 0}, r"views must be >= 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BranchOptions(**options)


def test_a_grid_without_a_level_is_refused():
    with pytest.raises(ConfigError, match=r"grid of 2x2 tokens.*sides \[4, 8, 16\].*image_size"):
        make(patch=32)
