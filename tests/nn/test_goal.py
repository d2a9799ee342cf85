"""Goals: the density is a mixture's, the mode settles on one thing, masked tokens say nothing."""

import pytest
import torch
from torch import distributions as D

from embodied.nn.goal import MAX_SCALE, MIN_SCALE, GoalHead, GoalMixture


def random_goals(rows=3, tokens=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return GoalMixture(
        log_weight=torch.randn(rows, tokens, generator=draw).log_softmax(dim=-1),
        mean=torch.randn(rows, tokens, 3, generator=draw),
        log_scale=0.3 * torch.randn(rows, tokens, generator=draw),
    )


def test_density_is_that_of_a_mixture_of_gaussians():
    goals = random_goals()
    scale = goals.log_scale.exp()[..., None].expand(-1, -1, 3)
    mixture = D.MixtureSameFamily(
        D.Categorical(logits=goals.log_weight), D.Independent(D.Normal(goals.mean, scale), 1)
    )
    place = torch.randn(3, 4, 3)
    expected = mixture.log_prob(place.transpose(0, 1)).transpose(0, 1)
    torch.testing.assert_close(goals.log_prob(place), expected)


def test_mode_is_one_of_two_things_and_not_between_them():
    left, right = torch.tensor([-1.0, 0, 0]), torch.tensor([1.0, 0, 0])
    # Three tokens see the left thing, one the right one, which is a little likelier alone.
    goals = GoalMixture(
        log_weight=torch.tensor([[0.2, 0.2, 0.2, 0.4]]).log(),
        mean=torch.stack([left, left + 0.01, left - 0.01, right])[None],
        log_scale=torch.full((1, 4), 0.1).log(),
    )
    torch.testing.assert_close(goals.mode()[0], left, atol=0.02, rtol=0)


def test_the_choice_of_the_mode_keeps_nothing_for_a_gradient():
    goals, kept = random_goals(tokens=40), []
    for part in (goals.log_weight, goals.mean, goals.log_scale):
        part.requires_grad_()

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mode = goals.mode()
    mode.sum().backward()
    assert goals.mean.grad.sum() == 9  # of the chosen means alone
    assert sum(kept) < 40 * 40


def test_masked_tokens_say_nothing_and_empty_rows_stay_finite():
    torch.manual_seed(0)
    head = GoalHead(16, 12, 8, 4, reach=0.5)
    tokens, positions, context = torch.randn(2, 6, 16), torch.randn(2, 6, 3), torch.randn(2, 8)
    agreement = torch.randn(2, 6, 4)
    mask = torch.tensor([[True, True, False, True, False, True], [False] * 6])
    place = torch.randn(2, 1, 3)
    goals = head(tokens, agreement, positions, context, mask)
    tokens, positions, agreement = tokens.clone(), positions.clone(), agreement.clone()
    tokens[:, 2], positions[:, 2], agreement[:, 2] = 9.0, -9.0, 9.0
    again = head(tokens, agreement, positions, context, mask)
    assert torch.equal(goals.log_prob(place)[0], again.log_prob(place)[0])
    assert torch.equal(goals.mode()[0], again.mode()[0])
    assert torch.isfinite(goals.log_prob(place)).all() and torch.isfinite(goals.mode()).all()
    goals.log_prob(place).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())


@pytest.mark.parametrize("extreme", [-1e3, 1e3])
def test_spreads_stay_within_their_bounds(extreme):
    head = GoalHead(16, 12, 8, 4, reach=0.5)
    with torch.no_grad():
        head.out.bias[4] = extreme
    tokens, agreement = torch.randn(2, 6, 16), torch.randn(2, 6, 4)
    positions, mask = torch.randn(2, 6, 3), torch.ones(2, 6) > 0
    goals = head(tokens, agreement, positions, torch.randn(2, 8), mask)
    scale = goals.log_scale.exp()
    assert ((scale >= MIN_SCALE * 0.999) & (scale <= MAX_SCALE * 1.001)).all()


def test_a_recognised_token_is_meant():
    head = GoalHead(16, 12, 8, 4, reach=0.5)
    with torch.no_grad():
        head.agreement.weight.fill_(0.1)
    agreement = torch.zeros(2, 6, 4)
    agreement[0, 3], agreement[1, 5] = 1.0, 1.0
    positions = torch.randn(2, 6, 3)
    goals = head(
        torch.randn(2, 6, 16), agreement, positions, torch.randn(2, 8), torch.ones(2, 6) > 0
    )
    assert goals.log_weight.argmax(dim=-1).tolist() == [3, 5]
    assert (goals.mode() - positions[[0, 1], [3, 5]]).abs().max() <= 0.5
