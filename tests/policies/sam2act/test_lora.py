"""Low-rank additions to queries and values of a fused qkv layer."""

import copy
import math

import pytest
import torch
from torch import nn

from embodied.core.errors import ConfigError
from embodied.nn.encoders.pretrained import ADAPTER
from policies.sam2act.lora import LoraQkv, add_lora, merge_lora

KEPT, WIDENED = (12, 12), (12, 24)
"""Width in and width of each of query, key, value: within a stage, and where one begins."""


def layer(widths, rank=4, learnt=True):
    torch.manual_seed(0)
    width_in, width = widths
    lora = LoraQkv(nn.Linear(width_in, 3 * width), rank)
    if learnt:
        for name, parameter in lora.named_parameters():
            if "lora_b" in name:
                nn.init.normal_(parameter)
    return lora, torch.randn(2, 5, width_in)


@pytest.mark.parametrize("widths", [KEPT, WIDENED])
def test_x_starts_as_the_frozen_layer_to_the_bit(widths):
    lora, x = layer(widths, learnt=False)
    assert torch.equal(lora(x), lora.base(x))


@pytest.mark.parametrize("widths", [KEPT, WIDENED])
def test_x_keys_never_change_and_the_rule_where_a_stage_begins(widths):
    lora, x = layer(widths)
    width_in, width = widths
    changed = (lora(x) != lora.base(x)).any(dim=0).any(dim=0)
    query, key, value = changed.split(width)
    assert not key.any()
    assert query[:width_in].all() and not query[width_in:].any()
    assert value[-width_in:].all() and not value[:-width_in].any()


@pytest.mark.parametrize("widths", [KEPT, WIDENED])
def test_x_merged_weights_compute_the_same(widths):
    lora, x = layer(widths)
    merged = lora.merge()
    assert type(merged) is nn.Linear
    assert not torch.allclose(merged(x), lora.base(x), atol=1e-2)
    torch.testing.assert_close(merged(x), lora(x), atol=1e-5, rtol=0)


def test_the_addition_is_b_a_without_a_scale():
    lora, x = layer(KEPT)
    base = lora.base(x)
    query = base[..., :12] + x @ lora.lora_a_q.T @ lora.lora_b_q.T
    value = base[..., 24:] + x @ lora.lora_a_v.T @ lora.lora_b_v.T
    torch.testing.assert_close(lora(x)[..., :12], query)
    torch.testing.assert_close(lora(x)[..., 24:], value)


def test_the_start_is_kaiming_and_zero():
    lora = LoraQkv(nn.Linear(256, 768), 16)
    for a in (lora.lora_a_q, lora.lora_a_v):
        # Kaiming with a = sqrt(5) is uniform within 1 / sqrt(width in).
        assert a.shape == (16, 256)
        assert a.abs().max() <= 1 / math.sqrt(256)
        assert a.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.05)
    assert not lora.lora_b_q.any() and not lora.lora_b_v.any()
    assert not torch.equal(lora.lora_a_q, lora.lora_a_v)


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank):
    with pytest.raises(ConfigError, match=r"encoder\.lora_rank must be >= 1, got"):
        LoraQkv(nn.Linear(4, 12), rank)


@pytest.fixture(scope="module")
def models():
    """A tiny vision model, and a copy of it with additions that have learnt something."""
    pytest.importorskip("transformers")
    from policies.sam2act.encoder import Encoder, EncoderOptions

    torch.manual_seed(0)
    plain = Encoder(EncoderOptions()).base.model.eval()
    wrapped = copy.deepcopy(plain)
    add_lora(wrapped, 4)
    for block in wrapped.backbone.blocks:
        nn.init.normal_(block.attn.qkv.lora_b_q, std=0.1)
        nn.init.normal_(block.attn.qkv.lora_b_v, std=0.1)
    return plain, wrapped, torch.rand(2, 3, 64, 64)


def test_x_only_the_four_tensors_of_each_block_get_gradients(models):
    _, model, pictures = models
    sum(level.square().mean() for level in model(pictures).fpn_hidden_states).backward()
    blocks = len(model.backbone.blocks)
    expected = {
        f"backbone.blocks.{block}.attn.qkv.lora_{part}"
        for block in range(blocks)
        for part in ("a_q", "b_q", "a_v", "b_v")
    }
    got = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert got == expected
    assert all(ADAPTER in name for name in got)
    for name, parameter in model.named_parameters():
        if name in got:
            assert parameter.grad.any(), name


def test_a_merged_model_computes_the_same(models):
    plain, wrapped, pictures = models
    merged = copy.deepcopy(wrapped)
    merge_lora(merged)
    assert {type(block.attn.qkv) for block in merged.backbone.blocks} == {nn.Linear}
    with torch.no_grad():
        ours, theirs, before = (m(pictures).fpn_hidden_states for m in (merged, wrapped, plain))
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)
    # All but the finest level stand on blocks that attend.
    assert not torch.allclose(ours[-1], before[-1], atol=1e-3)
    assert merged.state_dict().keys() == plain.state_dict().keys()
