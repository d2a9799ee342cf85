"""Schedule, sampling and guidance against MemoryVLA's published numbers (cases A1 and A2)."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.nn.action_head import ActionHead, ActionHeadConfig, DDIMHead, build_action_head
from embodied.nn.dit import DiTConfig
from tests.nn.experts import A, K, P, head, inputs

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


@pytest.mark.parametrize("steps", [3, 60, 99])
def test_steps_that_would_not_begin_in_noise_are_refused(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps={steps} doesn't divide the 100 steps of ddim"):
        ActionHeadConfig("ddim", steps=steps)
    assert ActionHeadConfig("flow", steps=steps).steps == steps


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


def test_head_has_the_published_number_of_steps() -> None:
    assert DDIMHead.TRAIN_STEPS == 100
    assert ActionHeadConfig("ddim").steps == 10
