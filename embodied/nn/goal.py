"""Where the hand will be next: a mixture over what is seen, and the one place it settles on.

Shape letters: R rows, N tokens, D width, C context width. Places are in one unit throughout.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.nn.precision import at_least_float32

MIN_SCALE, MAX_SCALE = 0.1, 3.0
"""Bounds of a component's spread, in the goal's units."""


POSITION_SCALE = 0.5
"""Brings goals' units (decimetres on a table) to unit scale, as layers like them."""

RECOGNITION = 30.0
"""Scale of what agreement adds to a token's score. Weights of the optimiser's step size would
take thousands of steps to outweigh what a token looks like."""


@dataclasses.dataclass
class GoalMixture:
    """A mixture of isotropic Gaussians in three dimensions, one component a token.

    Attributes:
      log_weight: [R, N] log of the weights, which sum to one; very low on masked tokens.
      mean: [R, N, 3].
      log_scale: [R, N] log of the standard deviation.
    """

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor

    def log_prob(self, place: Tensor) -> Tensor:
        """Returns the log density at `place` [R, Q, 3] as [R, Q]."""
        distance = (place[:, :, None] - self.mean[:, None]).square().sum(dim=-1)
        scale = self.log_scale[:, None]
        log_normal = -0.5 * distance * torch.exp(-2 * scale) - 3 * scale
        density = torch.logsumexp(self.log_weight[:, None] + log_normal, dim=-1)
        return density - 1.5 * math.log(2 * math.pi)

    def mode(self) -> Tensor:
        """Returns the component mean with the highest density, [R, 3].

        Not the mean of the mixture: between two things that could be meant there is nothing.
        """
        # The choice has no gradient, for which [R, N, N, 3] numbers would be kept.
        known = GoalMixture(self.log_weight.detach(), self.mean.detach(), self.log_scale.detach())
        best = known.log_prob(known.mean).argmax(dim=-1)
        return self.mean.gather(1, best[:, None, None].expand(-1, 1, 3))[:, 0]


class GoalHead(nn.Module):
    """Predicts a `GoalMixture`: each token proposes a place near it and how likely it is meant.

    What could be meant is learnt before it is known which one is; then a token that memory
    recognises raises its own weight, by a path so short that it is found soon. A policy that
    doesn't know which still settles on one place, and, since places near the hand grow
    likelier as it approaches, stays with it.

    Args:
      width: D, token width.
      hidden: Width inside.
      context: C, width of a vector that all tokens are seen beside: the arm's own state, the
        instruction, the scene.
      agreement: A, numbers that say how a token agrees with what memory returned for it.
      reach: How far a token may propose from where it is, in each coordinate. Where tokens
        are many, a tight bound keeps them from sharing out the usual places among
        themselves, whatever they show, and never learning to look.

    Source: our own; mixture density networks (Bishop 1994) over hindsight goals.
    """

    def __init__(self, width: int, hidden: int, context: int, agreement: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.token = nn.Linear(width, hidden)
        self.context = nn.Linear(context, hidden)
        self.position = nn.Linear(3, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 5)
        self.agreement = nn.Linear(agreement, 1, bias=False)
        nn.init.zeros_(self.agreement.weight)
        # Every token begins by proposing where it is.
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        tokens_RND: Tensor,
        agreement_RNA: Tensor,
        positions_RN3: Tensor,
        context_RC: Tensor,
        mask_RN: Tensor,
    ) -> GoalMixture:
        """Predicts from [R, N, D] tokens at [R, N, 3]; False in `mask_RN` hides a token."""
        x = self.token(tokens_RND) + self.position(POSITION_SCALE * positions_RN3)
        x = F.gelu(x + self.context(context_RC)[:, None])
        x = F.gelu(self.hidden(x))
        offset, score, spread = at_least_float32(self.out(x)).split((3, 1, 1), dim=-1)
        score = score + RECOGNITION * at_least_float32(self.agreement(agreement_RNA))
        # A finite bias, so that a row without tokens stays finite.
        score = score[..., 0].masked_fill(~mask_RN, -1e4)
        low, high = math.log(MIN_SCALE), math.log(MAX_SCALE)
        return GoalMixture(
            log_weight=score.log_softmax(dim=-1),
            mean=at_least_float32(positions_RN3) + self.reach * torch.tanh(offset),
            log_scale=low + (high - low) * torch.sigmoid(spread[..., 0]),
        )
