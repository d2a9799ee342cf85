"""Fusion of what is seen, felt and told, and attention within and between views."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from policies.sam2act.trunk import Trunk, TrunkOptions

B, V, S, G, L, E, P = 2, 3, 32, 4, 5, 16, 4
SIZES = {"width": 24, "encoder_width": 8, "patch_width": 8, "hidden": 24, "heads": 3}


def make(**options):
    torch.manual_seed(0)
    sizes = {**SIZES, "head_width": 8, **options}
    return Trunk(
        TrunkOptions(**sizes),
        views=V,
        channels=10,
        side=S,
        grid=G,
        encoder=7,
        proprio=P,
        language=E,
    ).eval()


def inputs(batch=B, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    levels = {8: draw(batch * V, 3, 8, 8), G: draw(batch * V, 7, G, G)}
    return draw(batch, V, 10, S, S), levels, draw(batch, P), draw(batch, L, E)


def test_shape_and_the_level_it_reads():
    trunk, (images, levels, proprio, language) = make(), inputs()
    x = trunk(images, levels, proprio, language)
    assert x.shape == (B, V, 24, G, G)
    other = levels | {8: torch.zeros_like(levels[8])}
    assert torch.equal(trunk(images, other, proprio, language), x)
    assert not torch.allclose(trunk(images, levels | {G: 2 * levels[G]}, proprio, language), x)


def test_tokens_are_encoder_patches_and_proprioception_plus_position():
    trunk, (images, levels, proprio, _) = make(), inputs()
    tokens = trunk._fuse(images, levels[G], proprio).view(B, V, G, G, 24) - trunk.position.view(
        V, G, G, 24
    )
    row, column, size = 1, 3, S // G
    cut = images[1, 2, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
    raw = torch.einsum("ochw,chw->o", trunk.from_patches.weight, cut) + trunk.from_patches.bias
    whole = trunk.from_patches(images[1, 2][None])
    torch.testing.assert_close(whole[0, :, row, column], raw, atol=1e-5, rtol=1e-5)
    patches = F.leaky_relu(trunk.norm_patches(whole), 0.02)[0, :, row, column]
    level = levels[G][V + 2, :, row, column]
    weight = trunk.from_encoder.weight[:, :, 0, 0]
    seen = F.leaky_relu(weight @ level + trunk.from_encoder.bias, 0.02)
    felt = F.leaky_relu(trunk.from_proprio(proprio), 0.02)[1]
    expected = torch.cat([seen, patches, felt])
    torch.testing.assert_close(tokens[1, 2, row, column], expected, atol=1e-5, rtol=1e-5)


def test_position_is_indexed_by_view_and_token():
    trunk, (images, levels, proprio, _) = make(), inputs()
    before = trunk._fuse(images, levels[G], proprio).view(B, V, G * G, 24)
    with torch.no_grad():
        trunk.position[1, 6] += 1
    moved = trunk._fuse(images, levels[G], proprio).view(B, V, G * G, 24) - before
    assert moved.abs().sum(-1).nonzero().tolist() == [[b, 1, 6] for b in range(B)]


def test_the_first_layers_stay_within_a_view():
    trunk, (images, levels, proprio, language) = make(joint=1), inputs()
    # The one joint layer adds nothing: what is left is within views.
    for linear in (trunk.joint[0].out, trunk.joint[0].ffn_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    x = trunk(images, levels, proprio, language)
    other = images.clone()
    other[:, 0] += torch.randn_like(other[:, 0])
    moved = (trunk(other, levels, proprio, language) - x).abs().amax(dim=(0, 2, 3, 4))
    assert moved[0] > 1e-3 and not moved[1:].any()
    # All patches of the view heard of the one that changed.
    one = images.clone()
    one[:, 0, :, :8, :8] += 5.0
    heard = (trunk(one, levels, proprio, language) - x)[:, 0].abs().amax(dim=(0, 1))
    assert (heard > 0).all()
    assert torch.equal(trunk(images, levels, proprio, language + 1), x)


def test_the_last_layers_join_views_and_language():
    trunk, (images, levels, proprio, language) = make(), inputs()
    x = trunk(images, levels, proprio, language)
    other = images.clone()
    other[:, 0] += torch.randn_like(other[:, 0])
    for changed in (
        trunk(other, levels, proprio, language),
        trunk(images, levels, proprio, language + torch.randn_like(language)),
        trunk(images, levels, proprio + 1, language),
    ):
        assert ((changed - x).abs().amax(dim=(2, 3, 4)) > 1e-5).all()


def test_language_is_read_and_its_order_does_not_count():
    trunk, (images, levels, proprio, language) = make(), inputs()
    x = trunk(images, levels, proprio, language)
    torch.testing.assert_close(trunk(images, levels, proprio, language.flip(1)), x)


def test_the_last_layer_leaves_out_what_nothing_reads():
    layer = make().joint[-1]
    tokens = torch.randn(2, 11, 24)
    torch.testing.assert_close(layer(tokens, drop=4), layer(tokens)[:, 4:])


def test_a_layer_is_pre_norm_attention_and_a_gated_feed_forward():
    layer, x = make().within[0], torch.randn(2, 7, 24)
    with torch.no_grad():
        for norm in (layer.norm_attention, layer.norm_ffn):
            norm.weight.uniform_(0.5, 1.5)
    normed = layer.norm_attention(x)
    key, value = layer.key_value(normed).chunk(2, dim=-1)
    mixed = []
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        scores = layer.query(normed)[..., part] @ key[..., part].transpose(1, 2) / 8**0.5
        mixed.append(scores.softmax(-1) @ value[..., part])
    y = x + layer.out(torch.cat(mixed, dim=-1))
    left, right = layer.ffn_in(layer.norm_ffn(y)).chunk(2, dim=-1)
    torch.testing.assert_close(layer(x), y + layer.ffn_out(left * F.gelu(right)))


def test_nothing_goes_around_the_layers():
    trunk, (images, levels, proprio, language) = make(), inputs()
    nn.init.zeros_(trunk.widen.weight)
    x = trunk(images, levels, proprio, language)
    torch.testing.assert_close(x, x[:1, :1, :, :1, :1].expand_as(x))


def test_the_result_has_each_token_at_its_place():
    trunk, given = make(), inputs()
    number = torch.arange(B * V * G * G).view(B, V * G * G, 1)
    trunk.narrow.register_forward_hook(lambda *_: number.expand(-1, -1, 24))
    x = trunk(*given)
    expected = number.view(B, V, 1, G, G)
    assert torch.equal(x, expected.expand_as(x))


def test_a_row_alone_equals_the_row_in_a_batch():
    trunk, (images, levels, proprio, language) = make().train(), inputs(4)
    whole = trunk(images, levels, proprio, language)
    rows = slice(2 * V, 3 * V)
    alone = trunk(
        images[2:3], {s: level[rows] for s, level in levels.items()}, proprio[2:3], language[2:3]
    )
    torch.testing.assert_close(alone, whole[2:3], atol=1e-5, rtol=1e-5)


def test_dropout_acts_in_training_only():
    trunk, given = make(dropout=0.5), inputs()
    assert torch.equal(trunk(*given), trunk(*given))
    trunk.train()
    assert not torch.equal(trunk(*given), trunk(*given))


def test_every_parameter_and_input_learns():
    trunk, (images, levels, proprio, language) = make(), inputs()
    levels[G].requires_grad_()
    trunk(images, levels, proprio, language).square().mean().backward()
    for name, tensor in [*trunk.named_parameters(), ("level", levels[G])]:
        assert tensor.grad is not None and tensor.grad.abs().max() > 0, name


PUBLISHED = {
    "hidden": 512,
    "within": 4,
    "joint": 4,
    "heads": 8,
    "head_width": 64,
}


@pytest.mark.parametrize(("options", "millions"), [(PUBLISHED, 33.6), ({}, 1.06)])
def test_parameter_counts_of_the_layers(options, millions):
    with torch.device("meta"):
        trunk = Trunk(
            TrunkOptions(**options),
            views=3,
            channels=10,
            side=224,
            grid=16,
            encoder=256,
            proprio=4,
            language=512,
        )
    layers = [*trunk.within.parameters(), *trunk.joint.parameters()]
    count = sum(parameter.numel() for parameter in layers) / 1e6
    assert count == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within": 0}, r"trunk\.within must be >= 1, got 0"),
        ({"width": 18}, r"trunk\.width must be a multiple of 4"),
        ({"patch_width": 50}, r"trunk\.patch_width must be a multiple of 4"),
        ({"patch_width": 4}, r"trunk\.patch_width must be a multiple of 4.*from 8 on, got 4"),
        ({"encoder_width": 80}, r"proprioception's\) must be a multiple of 4.*got 0"),
        ({"encoder_width": 0, "patch_width": 48}, r"trunk\.encoder_width must be >= 1"),
        ({"dropout": 1.0}, r"trunk\.dropout must be within \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrunkOptions(**options)


def test_sizes_that_do_not_go_together_are_refused():
    sizes = {"views": 3, "channels": 10, "encoder": 7, "language": 16}
    with pytest.raises(ConfigError, match=r"token grid 5 must divide the view side 32 px"):
        Trunk(TrunkOptions(), side=32, grid=5, proprio=4, **sizes)
    with pytest.raises(ConfigError, match=r">= 1 number of proprioception, got 0"):
        Trunk(TrunkOptions(), side=32, grid=4, proprio=0, **sizes)
