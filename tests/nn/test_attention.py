"""The retrieval block; the numbers are those of MemoryVLA's parity cases (retrieval family)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from embodied.core.errors import ConfigError
from embodied.nn.attention import RetrievalBlock


def identity_block(width: int) -> RetrievalBlock:
    """A block with identity projections, no biases and no feed-forward."""
    block = RetrievalBlock(width)
    with torch.no_grad():
        for linear in (block.query, block.key, block.value):
            linear.weight.copy_(torch.eye(width))
            linear.bias.zero_()
        for linear in (block.ffn[0], block.ffn[3]):
            linear.weight.zero_()
            linear.bias.zero_()
    return block


def published(block: RetrievalBlock, query: Tensor, tokens: Tensor, code: Tensor) -> Tensor:
    """The block as the specification writes it, one row; [Q, D], [M, D], [M, D]."""
    H = block.heads

    def heads(x: Tensor) -> Tensor:
        return x.view(len(x), H, -1).transpose(0, 1)

    q, k, v = (
        heads(block.query(query)),
        heads(block.key(tokens + code)),
        heads(block.value(tokens)),
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1)
    attended = (weights @ v).transpose(0, 1).reshape(query.shape)
    u = block.norm_attention(query + attended)
    return block.norm_ffn(u + block.ffn(u))


def rows(*vectors: list[float]) -> Tensor:
    """Slots of one token: [1, S, 1, D]."""
    return torch.tensor(vectors)[None, :, None]


def all_live(slots: Tensor) -> Tensor:
    return torch.ones(slots.shape[:3], dtype=torch.bool)


def test_r1_raw_attention_weights() -> None:
    slots = rows([1.0, 0], [0, 1.0])
    _, weights = identity_block(2)(torch.tensor([[[1.0, 0]]]), slots, None, all_live(slots))
    assert torch.allclose(weights.flatten(), torch.tensor([0.669762, 0.330238]), atol=1e-5)


def test_r2_time_goes_to_keys_only() -> None:
    slots, code = rows([1.0, 0], [0, 1.0]), torch.tensor([[[0.0, 0], [2.0, 0]]])
    block = identity_block(2)
    seen: list[Tensor] = []
    block.norm_attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    query = torch.tensor([[[1.0, 0]]])
    _, weights = block(query, slots, code, all_live(slots))
    expected = torch.tensor([0.330238, 0.669762])
    assert torch.allclose(weights.flatten(), expected, atol=1e-5)
    # What the attention adds to the query holds no trace of the time code.
    assert torch.allclose((seen[0] - query).flatten(), expected, atol=1e-5)


def test_r3_full_block_once_and_twice() -> None:
    slots = rows([1.0, 0, 0, 0], [0, 1.0, 0, 0])
    block = identity_block(4)
    once, _ = block(torch.tensor([[[1.0, 0, 0, 0]]]), slots, None, all_live(slots))
    twice, _ = block(once, slots, None, all_live(slots))
    expected_once = torch.tensor([1.685040, -0.183836, -0.750602, -0.750602])
    expected_twice = torch.tensor([1.668428, -0.117642, -0.775393, -0.775393])
    assert torch.allclose(once.flatten(), expected_once, atol=1e-5)
    assert torch.allclose(twice.flatten(), expected_twice, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 4])
def test_both_forms_equal_the_published_formula(heads: int) -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(16, heads, qk_init="independent")
    query, slots, code = torch.randn(2, 5, 16), torch.randn(2, 3, 4, 16), torch.randn(2, 3, 16)
    read, weights = block(query, slots, code, all_live(slots))
    keys, values = block.project(slots, code)
    other = block.attend(query, keys, values, torch.zeros(1, 1))
    assert torch.allclose(weights.flatten(3).sum(-1), torch.ones(2, heads, 5), atol=1e-6)
    for row in range(2):
        code_per_token = code[row].repeat_interleave(4, dim=0)
        expected = published(block, query[row], slots[row].flatten(0, 1), code_per_token)
        assert torch.allclose(read[row], expected, atol=1e-5)
        assert torch.allclose(other[row], expected, atol=1e-5)


def test_r8_masked_tokens_weigh_exactly_zero() -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(8, 2)
    query, slots = torch.randn(1, 3, 8), torch.randn(1, 4, 2, 8)
    live = all_live(slots)
    live[:, 2:] = False
    read, weights = block(query, slots, None, live)
    assert not weights[..., 2:, :].any()
    alone, _ = block(query, slots[:, :2], None, live[:, :2])
    assert torch.allclose(read, alone, atol=1e-6)


def test_equal_init_prefers_the_token_that_looks_like_the_query() -> None:
    torch.manual_seed(0)
    slots = torch.randn(1, 12, 1, 64)
    for seed in range(5):
        torch.manual_seed(seed)
        block = RetrievalBlock(64, qk_init="equal")
        assert torch.equal(block.query.weight, block.key.weight)
        assert block.query.weight is not block.key.weight
        _, weights = block(slots[:, :, 0], slots, None, all_live(slots))
        assert torch.equal(weights[0, 0, :, :, 0].argmax(-1), torch.arange(12))


def test_equal_init_compares_and_returns_each_heads_own_channels() -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(64, heads=2, qk_init="equal")
    slots = torch.randn(1, 12, 1, 64)
    # Alike one stored token in the first half of the channels, another in the second.
    query = torch.cat([slots[:, 3, :, :32], slots[:, 7, :, 32:]], dim=-1)
    _, weights = block(query, slots, None, all_live(slots))
    assert weights[0, :, 0, :, 0].argmax(-1).tolist() == [3, 7]
    _, values = block.project(slots, None)
    own = torch.nn.functional.cosine_similarity(values, slots, dim=-1)
    assert own.min() > 0.7


def test_block_has_the_published_size() -> None:
    d = 32
    assert sum(p.numel() for p in RetrievalBlock(d).parameters()) == 11 * d**2 + 12 * d


def test_dropout_is_tied_to_training() -> None:
    torch.manual_seed(0)
    block = RetrievalBlock(8, dropout=0.5)
    query, slots = torch.randn(1, 3, 8), torch.randn(1, 4, 2, 8)
    read = [block(query, slots, None, all_live(slots))[0] for _ in range(2)]
    assert not torch.equal(*read)
    block.eval()
    read = [block(query, slots, None, all_live(slots))[0] for _ in range(2)]
    assert torch.equal(*read)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "heads must divide the width 8, got 3"),
        ({"dropout": 1.0}, "dropout must be within"),
        ({"qk_init": "same"}, "unknown qk_init 'same'"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RetrievalBlock(8, **options)
