"""Channel compression of visual tokens against MemoryVLA's published sizes and formulas (1.3)."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from embodied.nn.squeeze import SqueezeExcite, WideSqueezeExcite

FORMS = [SqueezeExcite, WideSqueezeExcite]


def test_squeeze_published_size() -> None:
    with torch.device("meta"):
        made = SqueezeExcite(2176, 256)
    assert sum(p.numel() for p in made.parameters()) == 1_278_496  # 1.3
    assert {name for name, _ in made.named_parameters() if name.endswith("bias")} == {
        "squeeze.bias",
        "excite.bias",
    }


def test_wide_squeeze_size_of_the_successor() -> None:
    width = 4096
    with torch.device("meta"):
        made = WideSqueezeExcite(width, 256)
    # 1.3: gate on the full width (reduction 16), then width -> width / 2 -> 256, all with biases.
    gate = 2 * width * (width // 16) + width // 16 + width
    narrow = width * (width // 2) + width // 2 + (width // 2) * 256 + 256
    assert sum(p.numel() for p in made.parameters()) == gate + narrow


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("views", [1, 2, 3])
def test_squeeze_keeps_the_number_of_tokens(form: type, views: int) -> None:
    # 256 tokens a view; 512 or 768 with wrist views.
    with torch.device("meta"):
        out = form(2176, 256)(torch.zeros(2, views * 256, 2176))
    assert out.shape == (2, views * 256, 256)


def test_squeeze_is_the_published_formula() -> None:
    torch.manual_seed(0)
    made, tokens = SqueezeExcite(24, 16), torch.randn(3, 9, 24)
    z = torch.einsum("bnc,mc->bnm", tokens, made.expand.weight).clamp(min=0)
    pooled = torch.einsum("bnm->bm", z) / 9
    hidden = (torch.einsum("bm,rm->br", pooled, made.squeeze.weight) + made.squeeze.bias).clamp(0)
    gate = torch.einsum("br,mr->bm", hidden, made.excite.weight) + made.excite.bias
    gated = z / (1 + torch.exp(-gate))[:, None]
    expected = torch.einsum("bnm,dm->bnd", gated, made.project.weight)
    assert hidden.shape == (3, 2)  # 2 * 16 channels inside, reduced by 16
    assert torch.allclose(made(tokens), expected, atol=1e-6)


def test_wide_squeeze_is_the_successors_formula() -> None:
    torch.manual_seed(0)
    made, tokens = WideSqueezeExcite(32, 6), torch.randn(3, 9, 32)
    pooled = torch.einsum("bnc->bc", tokens) / 9
    hidden = (torch.einsum("bc,rc->br", pooled, made.squeeze.weight) + made.squeeze.bias).clamp(0)
    gate = torch.einsum("br,cr->bc", hidden, made.excite.weight) + made.excite.bias
    gated = tokens / (1 + torch.exp(-gate))[:, None]
    narrow = (torch.einsum("bnc,mc->bnm", gated, made.narrow.weight) + made.narrow.bias).clamp(0)
    expected = torch.einsum("bnm,dm->bnd", narrow, made.project.weight) + made.project.bias
    assert hidden.shape == (3, 2)
    assert narrow.shape == (3, 9, 16)
    assert torch.allclose(made(tokens), expected, atol=1e-6)


def test_squeeze_equals_convolutions_of_the_token_map() -> None:
    """The published code has 1x1 convolutions of the square map and a global average pool."""
    torch.manual_seed(0)
    made, tokens = SqueezeExcite(24, 16), torch.randn(2, 16, 24)
    maps = tokens.transpose(1, 2).unflatten(2, (4, 4))
    z = F.conv2d(maps, made.expand.weight[..., None, None]).relu()
    gate = F.adaptive_avg_pool2d(z, 1)
    gate = F.conv2d(gate, made.squeeze.weight[..., None, None], made.squeeze.bias).relu()
    gate = F.conv2d(gate, made.excite.weight[..., None, None], made.excite.bias).sigmoid()
    out = F.conv2d(z * gate, made.project.weight[..., None, None])
    assert torch.allclose(made(tokens), out.flatten(2).transpose(1, 2), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_squeeze_gate_is_one_of_each_picture(form: type) -> None:
    torch.manual_seed(0)
    made, tokens = form(32, 16), torch.randn(2, 9, 32)
    out = made(tokens)
    assert (out < 0).any()  # no activation behind
    # Pictures do not see each other; the tokens of one do, by the gate alone.
    assert torch.allclose(made(tokens[1:]), out[1:], atol=1e-6)
    other = tokens.clone()
    other[0, 0] += 5
    assert (made(other)[0, 1:] - out[0, 1:]).abs().max() > 1e-4
    # No position either: permuted tokens give permuted answers.
    order = torch.randperm(9)
    assert torch.allclose(made(tokens[:, order]), out[:, order], atol=1e-6)
