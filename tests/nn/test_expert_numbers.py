"""The action expert against MemoryVLA's published numbers: sizes, layout, loss, attention.

Names cite the parity cases (A3 and A4) of its specification; the rest are the numbers of the
published layout. Sampling is in test_sampling_numbers.py, execution in tests/evaluate.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.nn.action_head import ActionHeadConfig, build_action_head
from embodied.nn.dit import PERCEPTIONS, ActionDiT, DiTConfig
from embodied.nn.position import sinusoid
from tests.nn.experts import A, K, N, expert, head, inputs


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# ---- the transformer (2.1, 2.2) -------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions"), [("S", 16.1), ("B", 117.5), ("L", 408.8)])
def test_dit_published_sizes(size: str, millions: float) -> None:
    with torch.device("meta"):
        made = ActionDiT(DiTConfig.published(size), 7, 16, 4096, 256)
    assert round(count(made) / 1e6, 1) == millions


def test_dit_large_without_perception_attention() -> None:
    with torch.device("meta"):
        made = ActionDiT(DiTConfig.published("L"), 7, 16, 4096, 256)
    perception = [part for block in made.blocks for part in (block.cross, block.norm_cross)]
    # 1.9, row 10: what the paper's "300 M" matches. The tokens' embedding goes with the layers.
    assert round((count(made) - count(*perception, made.embed_perceptual)) / 1e6, 1) == 307.8


def test_dit_refuses_an_unknown_size() -> None:
    with pytest.raises(ConfigError, match="unknown size of the action expert 'XL'"):
        DiTConfig.published("XL")
    with pytest.raises(ConfigError, match="unknown perception 'none'"):
        DiTConfig(perception="none")


def attention(layer: nn.Module, query: Tensor, tokens: Tensor) -> Tensor:
    """Multi-head attention of [Q, H] to [M, H] as the textbook writes it."""

    def split(x: Tensor) -> Tensor:
        return x.view(len(x), layer.heads, -1)

    q, k, v = split(layer.query(query)), split(layer.key(tokens)), split(layer.value(tokens))
    scores = torch.einsum("qhe,mhe->hqm", q, k) / q.shape[-1] ** 0.5
    mixed = torch.einsum("hqm,mhe->qhe", scores.softmax(dim=-1), v)
    return layer.out(mixed.reshape(len(query), -1))


def test_dit_is_the_published_layout() -> None:
    """2.2 written out for one sample; two samples share a row's keys and values."""
    made = head().dit
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # biases and norms start idle
    noisy, condition, tokens = inputs(4)
    tokens, times = tokens[:2], torch.tensor([0.0, 7.0, 50.0, 99.0])
    found = made(noisy, times, condition, made.keys_values(tokens))
    width = made.position.shape[1]
    for sample in range(4):
        perceptual = made.embed_perceptual(tokens[sample // 2])
        prefix = made.embed_time(sinusoid(times[sample], 256))
        prefix = prefix + made.embed_condition(condition[sample])
        x = torch.cat([prefix[None], made.embed_action(noisy[sample])]) + made.position
        for block in made.blocks:
            y = F.layer_norm(x, (width,), eps=1e-6)
            x = x + attention(block.self_attention, y, y)
            y = F.layer_norm(x, (width,), block.norm_cross.weight, block.norm_cross.bias)
            x = x + attention(block.cross, y, perceptual)
            y = block.mlp[0](F.layer_norm(x, (width,), eps=1e-6))
            x = x + block.mlp[2](F.gelu(y, approximate="tanh"))
        expected = made.out(F.layer_norm(x, (width,), eps=1e-6))[1:]
        assert torch.allclose(found[sample], expected, atol=1e-5)


def test_dit_starts_as_published() -> None:
    made = expert(hidden=256, depth=1)
    for linear in (made.embed_action, made.embed_condition, made.embed_perceptual):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    for linear in (made.embed_time[0], made.embed_time[2]):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert made.position.shape == (K + 1, 256)
    assert made.position.std().item() == pytest.approx(256**-0.5, rel=0.1)
    attention = made.blocks[0].self_attention
    for linear in (attention.query, attention.key, attention.value, attention.out):
        # Xavier-uniform of a square matrix: bound sqrt(6 / 2 d), deviation sqrt(1 / d).
        assert linear.weight.abs().max().item() <= (3 / 256) ** 0.5
        assert linear.weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert not made.out.weight.any()
    biases = [p for name, p in made.named_parameters() if name.endswith("bias")]
    assert len(biases) == 17
    assert not any(bias.any() for bias in biases)


# ---- A3 and the loss ------------------------------------------------------------------------


@pytest.mark.parametrize("perception", PERCEPTIONS)
def test_a3_field_is_zero_at_the_start(perception: str) -> None:
    made = expert(perception)
    noisy, condition, tokens = inputs()
    field = made(noisy, torch.tensor([0.0, 99.0]), condition, made.keys_values(tokens))
    assert torch.equal(field, torch.zeros_like(noisy))


def noise_of(chunk: Tensor, samples: int, seed: int = 0) -> Tensor:
    """The noise of a loss: what its generator gives first."""
    shape = (len(chunk) * samples, *chunk.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a3_loss_at_the_start_is_that_of_the_noise() -> None:
    chunk, condition, tokens = inputs(64)
    noise, full = noise_of(chunk, 4), torch.ones(64, K)
    found = [
        head(kind, alive=False).loss(
            chunk, full, condition, tokens, torch.Generator().manual_seed(0)
        )
        for kind in ("ddim", "flow")
    ]
    assert torch.allclose(found[0], noise.square().mean(), atol=1e-6)
    assert found[0].item() == pytest.approx(1, abs=0.06)  # 3072 squares of a Gaussian
    velocity = chunk.repeat_interleave(4, dim=0) - noise
    assert torch.allclose(found[1], velocity.square().mean(), atol=1e-6)


@pytest.mark.parametrize("kind", ["ddim", "flow"])
def test_padded_steps_carry_no_weight_in_the_loss(kind: str) -> None:
    made, fields = head(kind, samples=2), []
    made.dit.register_forward_hook(lambda _, args, out: out.retain_grad() or fields.append(out))
    chunk, condition, tokens = inputs(3)
    weight = torch.arange(K) < torch.tensor([4, 1, 0])[:, None]
    loss = made.loss(chunk, weight, condition, tokens, torch.Generator().manual_seed(0))
    loss.backward()
    noise, used = noise_of(chunk, 2), weight.repeat_interleave(2, dim=0)
    target = noise if kind == "ddim" else chunk.repeat_interleave(2, dim=0) - noise
    error = (fields[0] - target)[used]
    assert torch.allclose(loss, error.square().mean(), atol=1e-6)  # 10 actions of 24
    gradient = fields[0].grad
    assert not gradient[~used].any()
    assert (gradient[used] != 0).all()


def test_padding_alone_gives_a_loss_of_zero() -> None:
    chunk, condition, tokens = inputs()
    assert head().loss(chunk, torch.zeros(2, K), condition, tokens).item() == 0


# ---- A4: perception attention (2.3) ---------------------------------------------------------


def train(made: ActionDiT, steps: int):
    """Runs AdamW on a target that the tokens decide; yields before each update."""
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2, weight_decay=0.1)
    noisy, condition, tokens = inputs(16)
    time, target = torch.zeros(16), tokens[:, :1, :A].expand(-1, K, -1)
    for _ in range(steps):
        optimizer.zero_grad()
        field = made(noisy, time, condition, made.keys_values(tokens))
        (field - target).square().mean().backward()
        yield
        optimizer.step()


def field_of(made: ActionDiT, tokens: Tensor) -> Tensor:
    noisy, condition, _ = inputs()
    return made(noisy, torch.tensor([3.0, 60.0]), condition, made.keys_values(tokens)).detach()


def test_a4_mean_queries_and_keys_never_move() -> None:
    made = expert("mean")
    layers = [block.cross for block in made.blocks]
    assert all(layer.out.weight.any() for layer in layers)  # Xavier, as the later pass leaves it
    assert not any(layer.value.weight.any() for layer in layers)
    frozen = [p for layer in layers for m in (layer.query, layer.key) for p in m.parameters()]
    for _ in train(made, 20):
        assert all(p.grad is not None and not p.grad.any() for p in frozen)
        assert not any(p.any() for p in frozen)
    assert not any(p.any() for p in frozen)
    assert all(layer.value.weight.abs().max() > 1e-2 for layer in layers)


def test_a4_mean_sees_nothing_but_the_mean_token() -> None:
    made, tokens = expert("mean"), inputs(seed=1)[2]
    for _ in train(made, 20):
        pass
    field = field_of(made, tokens)
    shuffled = tokens[:, torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])]
    mean = tokens.mean(dim=1, keepdim=True)
    assert torch.allclose(field, field_of(made, shuffled), atol=1e-5)
    assert torch.allclose(field, field_of(made, mean.expand(-1, N, -1)), atol=1e-5)
    assert torch.allclose(field, field_of(made, mean), atol=1e-5)
    # Not because it sees nothing at all.
    assert (field - field_of(made, tokens + 1)).abs().max() > 1e-2


def test_a4_live_is_neutral_at_the_start() -> None:
    made, tokens = expert(), inputs(seed=1)[2]
    nn.init.normal_(made.out.weight)
    for block in made.blocks:
        assert not block.cross.out.weight.any()
        parts = (block.cross.query, block.cross.key, block.cross.value)
        assert all(part.weight.any() for part in parts)
    assert torch.equal(field_of(made, tokens), field_of(made, 5 * tokens + 1))


def test_a4_live_queries_and_keys_learn_once_the_output_has_moved() -> None:
    made = expert()
    layers = [block.cross for block in made.blocks]
    moved, learning = [], []
    for _ in train(made, 4):
        moved.append([bool(layer.out.weight.any()) for layer in layers])
        learning.append(
            [
                all(bool(p.grad.any()) for p in (m.query.weight, m.query.bias, m.key.weight))
                for m in layers
            ]
        )
        for layer, alive in zip(layers, moved[-1], strict=True):
            assert alive or not any(
                p.grad.any() for m in (layer.query, layer.key) for p in m.parameters()
            )
    # The last layer moves first, then each block's output projection, then all behind it.
    assert moved == learning == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]


def exchanged(tokens: Tensor) -> Tensor:
    """Tokens whose contents (last two channels) change places; their mean stays."""
    return torch.cat([tokens[..., :-2], tokens[..., -2:].roll(1, dims=1)], dim=-1)


def test_a4_live_tells_which_token_holds_what() -> None:
    tokens = inputs(seed=1)[2]
    change = {}
    for perception in PERCEPTIONS:
        made = expert(perception)
        for _ in train(made, 20):
            pass
        difference = field_of(made, exchanged(tokens)) - field_of(made, tokens)
        change[perception] = difference.abs().max()
    assert change["mean"] < 1e-5
    assert change["live"] > 1e-2


@pytest.mark.parametrize("perception", PERCEPTIONS)
def test_a4_where_the_marked_token_is(perception: str) -> None:
    """Tokens are a one-hot place and a mark; the action is a number of the marked place."""
    torch.manual_seed(0)
    config = ActionHeadConfig("flow", DiTConfig(1, 32, 4, perception), samples=16)
    made = build_action_head(config, 1, 1, 1, 5)
    tokens = torch.cat([torch.eye(4).expand(4, 4, 4), torch.eye(4)[..., None]], dim=-1)
    target = torch.tensor([-1.5, -0.5, 0.5, 1.5])[:, None, None]
    nothing, full = torch.zeros(4, 1), torch.ones(4, 1)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    for _ in range(250):
        optimizer.zero_grad()
        made.loss(target, full, nothing, tokens).backward()
        optimizer.step()
    noise = torch.randn(64, 1, 1, 1).expand(-1, 4, -1, -1)  # the same for the four places
    with torch.no_grad():
        many = [x.repeat(64, *[1] * (x.dim() - 1)) for x in (nothing, tokens)]
        drawn = made.sample(noise.flatten(0, 1), *many).view(64, 4)
    error = (drawn - target.flatten()).square().mean().item()
    if perception == "live":
        assert error < 0.1
    else:
        # Draws that don't depend on the place miss by at least the variance of the numbers.
        assert torch.allclose(drawn, drawn[:, :1].expand(-1, 4), atol=1e-4)
        assert error > 1.25
