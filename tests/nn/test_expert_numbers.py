"""The action side against MemoryVLA's published numbers: sizes, schedule, guidance, attention.

Names cite the parity cases (A1 to A6) of the specification's section 6; the rest are the
numbers of its sections 2.1 to 2.5.
"""

from __future__ import annotations

import dataclasses
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.core.specs import ActionSpec
from embodied.evaluate.executors import ExecutorConfig, build_executor
from embodied.nn.action_head import ActionHead, ActionHeadConfig, DDIMHead, build_action_head
from embodied.nn.dit import PERCEPTIONS, ActionDiT, DiTConfig
from embodied.nn.normalize import ActionNormalizer
from embodied.nn.position import sinusoid
from tests.evaluate.fakes import FakePolicy

A, K, C, P, N = 3, 4, 6, 5, 8
"""Action size, horizon, condition width, perceptual width and perceptual tokens of small heads."""


def expert(perception: str = "live", depth: int = 2, hidden: int = 32) -> ActionDiT:
    torch.manual_seed(0)
    return ActionDiT(DiTConfig(depth, hidden, 4, perception), A, K, C, P)


def head(kind: str = "ddim", alive: bool = True, **options: object) -> ActionHead:
    """A small head; `alive` gives the last layer, zero at the start, something to say."""
    torch.manual_seed(0)
    made = build_action_head(ActionHeadConfig(kind, DiTConfig(2, 32, 4), **options), A, K, C, P)
    if alive:
        with torch.no_grad():
            for block in made.dit.blocks:
                nn.init.normal_(block.cross.out.weight, std=0.1)
            nn.init.normal_(made.dit.out.weight, std=0.1)
    return made


def inputs(rows: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Chunk or noise, condition, perceptual tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, K, A), (rows, C), (rows, N, P)]
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


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


# ---- A1: schedule and sampling (2.4) --------------------------------------------------------


def test_a1_schedule_values() -> None:
    bar = head().alpha_bar.double()
    assert bar.shape == (100,)
    for step, expected in {
        0: 0.999369,
        49: 0.493844,
        90: 0.0195444,
        98: 2.42857e-4,
        99: 2.42857e-7,
    }.items():
        assert bar[step].item() == pytest.approx(expected, rel=3e-6), step
    before = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
    betas = 1 - bar / before
    # abar_0 is a float32 next to one, which leaves beta_0 four digits.
    assert betas[0].item() == pytest.approx(6.31282e-4, abs=6e-8)
    assert betas[49].item() == pytest.approx(0.0305931, abs=2e-7)
    assert betas[99].item() == pytest.approx(0.999, abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(10, list(range(90, -1, -10))), (5, [80, 60, 40, 20, 0]), (100, list(range(99, -1, -1)))],
)
def test_a1_sampling_steps(steps: int, expected: list[int]) -> None:
    made, seen = head(steps=steps), []
    made.dit.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    with torch.no_grad():
        made.sample(*inputs())
    assert [time.tolist() for time in seen] == [[step] * 2 for step in expected]


@pytest.fixture(scope="module")
def diffusers() -> ModuleType:
    return pytest.importorskip("diffusers")


def reference(diffusers: ModuleType, made: ActionHead, scale: float = 1.0) -> Tensor:
    """Samples with diffusers' scheduler; the options are those that 2.4 lists."""
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon",
        clip_sample=False,
        timestep_spacing="leading",
        steps_offset=0,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(made.config.steps)
    chunk, condition, tokens = inputs()
    for step in scheduler.timesteps:
        time = torch.full((len(chunk),), float(step))
        noise = made.dit(chunk, time, condition, made.dit.keys_values(tokens))
        if scale != 1:
            null = made.null.expand_as(condition)
            without = made.dit(chunk, time, null, made.dit.keys_values(tokens))
            noise = without + scale * (noise - without)
        chunk = scheduler.step(noise, step, chunk, eta=0.0).prev_sample
    return chunk


@pytest.mark.parametrize("steps", [10, 5])
@torch.no_grad()
def test_a1_sampling_equals_diffusers(diffusers: ModuleType, steps: int) -> None:
    made = head(steps=steps)
    found = made.sample(*inputs())
    assert (found - inputs()[0]).abs().max() > 0.1
    torch.testing.assert_close(found, reference(diffusers, made), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a2_guided_sampling_equals_diffusers(diffusers: ModuleType) -> None:
    made = head(guidance=1.5, condition_dropout=0.1)
    made.null.data.mul_(50)  # far from any condition, so that guidance matters
    found, plain = made.sample(*inputs()), reference(diffusers, made)
    assert (found - plain).abs().max() > 0.1
    torch.testing.assert_close(found, reference(diffusers, made, 1.5), atol=1e-5, rtol=1e-5)


# ---- A2: guidance ---------------------------------------------------------------------------


class Stub(nn.Module):
    """Answers 1 where the condition is not the null, 0 where it is."""

    def __init__(self, null: Tensor) -> None:
        super().__init__()
        self.null, self.rows = null, []

    def keys_values(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(tokens, tokens)]

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor, _: object) -> Tensor:
        self.rows.append(len(noisy))
        known = (condition != self.null).any(dim=-1)
        return torch.ones_like(noisy) * known[:, None, None]


@pytest.mark.parametrize("kind", ["ddim", "flow"])
@torch.no_grad()
def test_a2_scale_one_is_the_conditional_sample(kind: str) -> None:
    plain, guidable = head(kind), head(kind, condition_dropout=0.1)
    missing = guidable.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["null"]
    assert torch.equal(plain.sample(*inputs()), guidable.sample(*inputs()))
    # Nor does the guided form jump where its scale comes close to one.
    near = head(kind, condition_dropout=0.1, guidance=1 + 1e-7)
    near.load_state_dict(guidable.state_dict())
    assert torch.allclose(near.sample(*inputs()), plain.sample(*inputs()), atol=1e-5)


@pytest.mark.parametrize("kind", ["ddim", "flow"])
def test_a2_guided_field_of_a_stub(kind: str) -> None:
    # eps_u = 0, eps_c = 1, s = 1.5 -> 1.5.
    for scale, rows in ((1.5, 4), (3.0, 4), (1.0, 2)):
        made = head(kind, guidance=scale, condition_dropout=0.1)
        made.dit = Stub(made.null)
        noise, condition, tokens = inputs()
        field = made._field(noise, 10.0, condition, made.dit.keys_values(tokens))
        assert torch.equal(field, torch.full_like(noise, scale))
        assert made.dit.rows == [rows]
    if kind == "flow":
        # A constant field from noise at time 0 to 1 adds itself.
        assert torch.allclose(made.sample(noise, condition, tokens), noise + 1, atol=1e-5)


@torch.no_grad()
def test_a2_guidance_shares_keys_and_values() -> None:
    made = head(guidance=1.5, condition_dropout=0.1)
    calls, batches = [], []
    project = made.dit.keys_values
    made.dit.keys_values = lambda tokens: calls.append(len(tokens)) or project(tokens)
    made.dit.register_forward_pre_hook(
        lambda _, args: batches.append((len(args[0]), {len(k) for k, _ in args[3]}))
    )
    made.sample(*inputs())
    assert calls == [2]  # once a sample, on the two rows themselves
    assert batches == [(4, {2})] * 10  # both halves in one pass
    # Each half by itself says the same.
    noise, condition, tokens = inputs()
    time, kept = torch.full((2,), 90.0), project(tokens)
    known = made.dit(noise, time, condition, kept)
    without = made.dit(noise, time, made.null.expand(2, -1), kept)
    guided = made._field(noise, 90.0, condition, kept)
    assert torch.allclose(guided, without + 1.5 * (known - without), atol=1e-5)


def test_a2_guidance_needs_a_null() -> None:
    with pytest.raises(ConfigError, match="set condition_dropout too"):
        ActionHeadConfig("ddim", guidance=1.5)


def test_a2_condition_dropout_rate_and_null() -> None:
    rows, samples = 500, 8
    made, seen = head(condition_dropout=0.1, samples=samples), []
    made.dit.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    chunk, condition, tokens = inputs(rows)
    generator = torch.Generator().manual_seed(0)
    made.loss(chunk, torch.ones(rows, K), condition, tokens, generator).backward()
    given = condition.repeat_interleave(samples, dim=0)
    dropped = (seen[0] == made.null).all(dim=-1)
    assert torch.equal(seen[0][~dropped], given[~dropped])
    # Three deviations of the mean of 4000 draws of 0.1 are 0.014.
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.014)
    # Drawn for each noise sample: at 0.1, 57 % of the rows of 8 lose some and keep some.
    lost = dropped.view(rows, samples).float().mean(dim=1)
    assert ((lost > 0) & (lost < 1)).float().mean().item() == pytest.approx(0.57, abs=0.07)
    assert made.null.grad.abs().max() > 0


def test_a2_null_starts_small_and_only_where_it_is_used() -> None:
    torch.manual_seed(0)
    config = ActionHeadConfig("ddim", DiTConfig(1, 32, 4), condition_dropout=0.1)
    null = build_action_head(config, A, K, 4096, P).null
    assert null.shape == (4096,)
    assert null.std().item() == pytest.approx(0.02, rel=0.05)
    assert head().null is None


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


# ---- A5 and A6: what is executed (2.5) ------------------------------------------------------


def executor(size: int, **options: object):
    """An executor of one row whose chunks hold 12 actions; FakePolicy observes every 8."""
    base = FakePolicy().spec
    spec = dataclasses.replace(base, action=ActionSpec(base.action.kind, size, 12))
    return build_executor(ExecutorConfig(**options), spec, 1)


@pytest.mark.parametrize(
    ("older", "newest", "weights", "blend"),
    [
        ([1, 0], [0, 1], [0.475021, 0.524979], [0.475021, 0.524979]),
        ([-1, 0], [1, 0], [0.450166, 0.549834], [0.099668, 0]),
    ],
)
def test_a5_ensembling(older: list, newest: list, weights: list, blend: list) -> None:
    made = executor(2, name="ensemble", gripper="continuous", ensemble_alpha=0.1)
    row, found = np.ones(1, bool), None
    for action in (older, newest):
        made.accept(np.tile(np.float32(action), (1, 12, 1)), row, {})
        found = made.act({}, row)
    np.testing.assert_allclose(found[0], blend, atol=1e-6)
    np.testing.assert_allclose(found[0], np.array(weights) @ [older, newest], atol=1e-6)


def test_a6_denormalise_and_gripper() -> None:
    normalizer = ActionNormalizer(2)
    # The gripper's quantiles meet nothing else than its own limits: passed through.
    normalizer.set_statistics(torch.tensor([-2.0, -1.0]), torch.tensor([4.0, 1.0]))
    # Published grippers are in {0, 1}, closed from 0.5 on; ours are in [-1, 1], closed from 0
    # on. So a published g is our 2 g - 1: .49 -> -0.02 and .5 -> 0; its answers 0 and 1 are
    # our -1 and 1.
    for n, gripper, physical, closed in ((0.0, 0.49, 1.0, 0), (3.0, 0.5, 4.0, 1)):
        action = normalizer.denormalize(torch.tensor([n, 2 * gripper - 1]))
        assert action[0].item() == physical
        made, row = executor(2), np.ones(1, bool)
        made.accept(np.tile(action.numpy(), (1, 12, 1)), row, {})
        assert made.act({}, row)[0, 1] == 2 * closed - 1


def test_a6_normalise_undoes_denormalise() -> None:
    normalizer = ActionNormalizer(3)
    # The second element is never used (its quantiles meet), so that it is passed through.
    normalizer.set_statistics(torch.tensor([-2.0, 0.0, -1.0]), torch.tensor([4.0, 0.0, 1.0]))
    n = torch.tensor([[-1.0, 0.3, 0.5], [0.25, -0.7, -1.0]])
    physical = normalizer.denormalize(n)
    assert torch.allclose(physical[:, 0], 0.5 * (n[:, 0] + 1) * 6 - 2)
    assert torch.allclose(physical[:, 1:], n[:, 1:])
    assert torch.allclose(normalizer.normalize(physical), n)


def test_head_has_the_published_number_of_steps() -> None:
    assert DDIMHead.TRAIN_STEPS == 100
    assert ActionHeadConfig("ddim").steps == 10
