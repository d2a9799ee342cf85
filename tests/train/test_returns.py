"""Advantages and targets, against sums written out by hand and against TorchRL where it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from embodied.train.returns import Decisions, find_decisions, gae, vtrace

GAMMA = 0.9


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def flags(*values: int) -> Tensor:
    return torch.tensor([values], dtype=torch.bool)


def packed(reward: Tensor, discount: Tensor) -> Decisions:
    """Every tick a decision whose outcome is known."""
    real = torch.ones_like(reward, dtype=torch.bool)
    tick = torch.arange(reward.shape[1]).expand_as(reward)
    return Decisions(tick, real, real, reward, discount)


def test_every_tick_decides() -> None:
    found = find_decisions(
        row(1, 2, 3), flags(0, 1, 0), flags(1, 1, 1), torch.tensor([True]), GAMMA
    )
    assert found.tick.tolist() == [[0, 1, 2]]
    assert found.known.all() and found.real.all()
    assert found.reward.tolist() == [[1, 2, 3]]
    assert found.discount.tolist() == [[GAMMA, 0.0, GAMMA]]


def test_what_passes_between_two_decisions_belongs_to_the_first() -> None:
    found = find_decisions(
        row(5, 1, 2, 4, 0), flags(0, 0, 0, 0, 1), flags(0, 1, 0, 1, 0), torch.tensor([False]), GAMMA
    )
    assert found.tick.tolist() == [[1, 3]]
    assert found.reward[0].tolist() == pytest.approx([1 + GAMMA * 2, 4])
    assert found.discount[0].tolist() == pytest.approx([GAMMA**2, 0.0])
    assert found.known.all()


def test_a_last_decision_is_unknown_unless_what_follows_was_judged() -> None:
    reward, ended, acting = row(0, 0, 0), flags(0, 0, 0), flags(1, 1, 0)
    for acts_next in (False, True):
        found = find_decisions(reward, ended, acting, torch.tensor([acts_next]), GAMMA)
        assert found.known.tolist() == [[True, acts_next]]


def test_rows_with_fewer_decisions_are_padded() -> None:
    acting = torch.cat([flags(1, 1, 1), flags(0, 1, 0), flags(0, 0, 0)])
    zeros = torch.zeros(3, 3)
    found = find_decisions(zeros, zeros > 1, acting, torch.ones(3, dtype=torch.bool), GAMMA)
    assert found.real.sum(1).tolist() == [3, 1, 0]
    values = torch.arange(9.0).view(3, 3) + 1
    assert found.take(values).tolist() == [[1, 2, 3], [5, 0, 0], [0, 0, 0]]
    following = found.following(found.take(values), torch.tensor([10.0, 20.0, 30.0]))
    assert following[0].tolist() == [2, 3, 10] and following[1, 0] == 20


def test_no_decision_at_all() -> None:
    zeros = torch.zeros(2, 4)
    nobody = torch.zeros(2, dtype=torch.bool)
    found = find_decisions(zeros, zeros > 1, zeros > 1, nobody, GAMMA)
    assert found.tick.shape == (2, 1) and not found.real.any()
    advantage, target = gae(found.reward, found.reward, found, 0.9)
    assert not advantage.any() and not target.any()


def test_lambda_one_is_the_discounted_sum_of_rewards() -> None:
    reward, value = row(1, 2, 3), row(0.3, -0.2, 0.5)
    found = packed(reward, row(GAMMA, GAMMA, 0))
    advantage, target = gae(value, found.following(value, torch.tensor([9.0])), found, 1.0)
    sums = row(1 + GAMMA * 2 + GAMMA**2 * 3, 2 + GAMMA * 3, 3)
    assert torch.allclose(target, sums) and torch.allclose(advantage, sums - value)


def test_lambda_zero_looks_one_decision_ahead() -> None:
    reward, value, beyond = row(1, 2), row(0.5, -1.0), torch.tensor([4.0], dtype=torch.float64)
    found = packed(reward, row(GAMMA, GAMMA))
    advantage, _ = gae(value, found.following(value, beyond), found, 0.0)
    assert torch.allclose(advantage, row(1 + GAMMA * -1.0 - 0.5, 2 + GAMMA * 4.0 + 1.0))


def test_an_unknown_decision_ends_the_trace() -> None:
    """The one before it looks ahead to its value, and no further."""
    found = packed(row(1, 7), row(GAMMA, GAMMA))
    found.known = flags(1, 0)
    value = row(0.5, -1.0)
    following = found.following(value, torch.tensor([100.0], dtype=torch.float64))
    for lam in (0.0, 1.0):
        advantage, _ = gae(value, following, found, lam)
        assert advantage[0, 0].item() == pytest.approx(1 + GAMMA * -1.0 - 0.5)
        _, target = vtrace(torch.zeros_like(value), value, following, found, lam)
        assert target[0, 0].item() == pytest.approx(1 + GAMMA * -1.0)


def test_vtrace_on_policy_is_gae() -> None:
    generator = torch.Generator().manual_seed(0)
    value, reward = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    discount = torch.where(torch.rand(4, 6, generator=generator) < 0.3, 0.0, GAMMA).double()
    found = packed(reward, discount)
    following = found.following(value, torch.randn(4, generator=generator, dtype=torch.float64))
    for lam in (0.5, 1.0):
        _, target = vtrace(torch.zeros_like(value), value, following, found, lam)
        assert torch.allclose(target, gae(value, following, found, lam)[1])
    advantage, _ = vtrace(torch.zeros_like(value), value, following, found, 1.0)
    assert torch.allclose(advantage, gae(value, following, found, 1.0)[0])


def test_vtrace_by_its_definition() -> None:
    """The double sum of the paper, written out."""
    generator = torch.Generator().manual_seed(1)
    value, reward, log_ratio = torch.randn(3, 1, 5, generator=generator, dtype=torch.float64)
    beyond = torch.tensor([0.7], dtype=torch.float64)
    found = packed(reward, torch.full_like(reward, GAMMA))
    following = found.following(value, beyond)
    ratio = log_ratio.exp()
    rho, c = ratio.clamp(max=1.3), ratio.clamp(max=0.9)
    error = rho * (reward + GAMMA * following - value)
    expected = value.clone()
    for start in range(5):
        for t in range(start, 5):
            trace = c[0, start:t].prod()
            expected[0, start] += GAMMA ** (t - start) * trace * error[0, t]
    advantage, target = vtrace(log_ratio, value, following, found, rho_clip=1.3, c_clip=0.9)
    assert torch.allclose(target, expected)
    after = torch.cat([expected[:, 1:], beyond[:, None]], dim=1)
    assert torch.allclose(advantage, rho * (reward + GAMMA * after - value))


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LOG_PROBS = (
    rows((-0.22, 0.15, 0.67, -0.51, -1.59, -0.75), (0.65, 0.91, 0.15, -0.81, 1.59, -0.35)),
    rows((0.55, 1.15, -0.12, 0.55, -0.46, 1.06), (-2.22, -0.47, -1.35, -0.28, 0.17, 0.76)),
)
"""Of actions when they were taken, and now."""
VALUES = rows((0.18, 0.63, 1.0, -0.22, -0.58, -1.22), (-0.27, 0.2, -0.09, -0.35, -0.42, -1.66))
REWARDS = rows((-0.35, -0.77, -0.7, -1.91, -0.03, 0.29), (0.33, -1.08, 0.54, 0.79, -0.91, -1.1))
ENDED = torch.tensor([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]], dtype=torch.bool)
BEYOND = torch.tensor([0.5, -1.25], dtype=torch.float64)
TORCHRL = (
    rows(
        (-1.037944, -1.194383, -0.771536, -1.1176, 1.216, 1.96),
        (0.029086, -0.296684, 0.201902, 0.655404, -0.11844, -0.565),
    ),
    rows(
        (-0.857944, -0.564383, 0.228464, -1.3376, 0.636, 0.74),
        (-0.240914, -0.096684, 0.111902, 0.305404, -0.53844, -2.225),
    ),
)
"""Advantages and targets that `vtrace_advantage_estimate` of TorchRL 0.14.1 gave for these."""


def test_vtrace_gives_the_numbers_of_torchrl() -> None:
    acted, now = LOG_PROBS
    found = packed(REWARDS, torch.where(ENDED, 0.0, GAMMA).double())
    ours = vtrace(now - acted, VALUES, found.following(VALUES, BEYOND), found)
    for mine, other in zip(ours, TORCHRL, strict=True):
        assert torch.allclose(mine, other, rtol=0.0, atol=1e-6)


def theirs(
    acted: Tensor, now: Tensor, value: Tensor, following: Tensor, reward: Tensor, ended: Tensor
) -> list[Tensor]:
    """Returns advantages and targets as TorchRL has them; skips where it isn't installed."""
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    found = functional.vtrace_advantage_estimate(
        GAMMA, now[..., None], acted[..., None], value[..., None], following[..., None],
        reward[..., None], ended[..., None], ended[..., None],
    )  # fmt: skip
    return [tensor[..., 0] for tensor in found]


def test_vtrace_agrees_with_torchrl() -> None:
    generator = torch.Generator().manual_seed(2)
    acted, now, value, reward = torch.randn(4, 3, 7, generator=generator, dtype=torch.float64)
    ended = torch.rand(3, 7, generator=generator) < 0.2
    found = packed(reward, torch.where(ended, 0.0, GAMMA).double())
    following = found.following(value, torch.randn(3, generator=generator, dtype=torch.float64))
    ours = vtrace(now - acted, value, following, found)
    for mine, other in zip(ours, theirs(acted, now, value, following, reward, ended), strict=True):
        assert torch.allclose(mine, other)
    following = torch.cat([VALUES[:, 1:], BEYOND[:, None]], dim=1)
    again = theirs(*LOG_PROBS, VALUES, following, REWARDS, ENDED)
    for kept, other in zip(TORCHRL, again, strict=True):
        assert torch.allclose(kept, other, rtol=0.0, atol=1e-6)
