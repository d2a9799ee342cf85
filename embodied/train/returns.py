"""What a decision was worth: advantages and targets over the ticks that act.

Between two decisions lie ticks whose actions don't count. They are no decisions and get no value:
their rewards belong to the decision before, and their time discounts what comes after.

Shape letters: B rows, T ticks of a segment, N decisions of a row (padded).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass
class Decisions:
    """The decisions of a segment, packed to the front of their rows.

    Attributes:
      tick: int64 [B, N]; where in the segment; 0 in padding.
      real: bool [B, N]; False in padding.
      known: bool [B, N]; real ones whose outcome can be estimated. Left out is the last of a row
        if its episode goes on and the tick right behind the segment decides nothing: that one's
        value was never learnt.
      reward: [B, N]; what was paid from the decision on until the next one; 0 in padding.
      discount: [B, N]; weight of the next decision's value; 0 where the episode ended.
    """

    tick: Tensor
    real: Tensor
    known: Tensor
    reward: Tensor
    discount: Tensor

    def take(self, values: Tensor) -> Tensor:
        """Returns [B, N] of [B, T]; 0 in padding."""
        return torch.where(self.real, values.gather(1, self.tick), 0.0)

    def rows(self, chosen: Tensor) -> Decisions:
        """Returns some rows."""
        return Decisions(**{k: v[chosen] for k, v in vars(self).items()})

    def to(self, device: torch.device) -> Decisions:
        """Returns them on a device."""
        return Decisions(**{k: v.to(device) for k, v in vars(self).items()})

    def following(self, value: Tensor, beyond: Tensor) -> Tensor:
        """Returns [B, N]: the value of the decision after each.

        Args:
          value: [B, N] of the decisions themselves.
          beyond: [B]; value of the tick right behind the segment.
        """
        last = torch.arange(value.shape[1], device=value.device) == self.real.sum(1)[:, None] - 1
        return torch.where(last, beyond[:, None], value.roll(-1, dims=1))


def find_decisions(
    reward: Tensor, ended: Tensor, acting: Tensor, acts_next: Tensor, gamma: float
) -> Decisions:
    """Finds the decisions of a segment.

    Args:
      reward: [B, T]; paid for the tick's action.
      ended: bool [B, T]; the episode ended with it.
      acting: bool [B, T]; ticks whose action counts.
      acts_next: bool [B]; whether the tick right behind the segment acts.
      gamma: Discount a tick.
    """
    paid, weight = torch.zeros_like(reward[:, 0]), torch.ones_like(reward[:, 0])
    rewards, discounts, bounded = torch.zeros_like(reward), torch.zeros_like(reward), acting.clone()
    known = acts_next
    for t in reversed(range(acting.shape[1])):
        # From here to the next decision: what is paid, and what that one's value weighs.
        paid = reward[:, t] + gamma * torch.where(ended[:, t], 0.0, paid)
        weight = gamma * torch.where(ended[:, t], 0.0, weight)
        known = known | ended[:, t]
        rewards[:, t], discounts[:, t], bounded[:, t] = paid, weight, known
        here = acting[:, t]
        paid, weight, known = (
            torch.where(here, 0.0, paid),
            torch.where(here, 1.0, weight),
            known | here,
        )
    most = max(1, int(acting.sum(dim=1).max()))
    order = torch.argsort(acting.logical_not().to(torch.int8), dim=1, stable=True)[:, :most]
    real = acting.gather(1, order)
    return Decisions(
        tick=torch.where(real, order, 0),
        real=real,
        known=real & bounded.gather(1, order),
        reward=torch.where(real, rewards.gather(1, order), 0.0),
        discount=torch.where(real, discounts.gather(1, order), 0.0),
    )


def gae(
    value: Tensor, following: Tensor, decisions: Decisions, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation.

    Args:
      value: [B, N] of the decisions.
      following: [B, N] of those after them.
      decisions: What was paid, and when.
      lam: Lambda.

    Returns:
      Advantages and value targets, [B, N] each; those of decisions that are not known mean
      nothing.

    Source: Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    error = decisions.reward + decisions.discount * following - value
    advantage = _accumulate(error, lam * decisions.discount, decisions.known)
    return advantage, advantage + value


def vtrace(
    log_ratio: Tensor,
    value: Tensor,
    following: Tensor,
    decisions: Decisions,
    lam: float = 1.0,
    rho_clip: float = 1.0,
    c_clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace: targets and advantages corrected for the policy that acted.

    Args:
      log_ratio: [B, N]; log-probability under the present policy less that when acting.
      value: [B, N] of the decisions.
      following: [B, N] of those after them.
      decisions: What was paid, and when.
      lam: Lambda, on the traces.
      rho_clip: Largest weight of an error.
      c_clip: Largest weight of a trace.

    Returns:
      Advantages, their weight included, and value targets, [B, N] each; those of decisions that
      are not known mean nothing.

    Source: IMPALA (arXiv 1802.01561), section 4.1.
    """
    ratio = log_ratio.exp()
    rho, trace = ratio.clamp(max=rho_clip), lam * ratio.clamp(max=c_clip)
    error = rho * (decisions.reward + decisions.discount * following - value)
    correction = _accumulate(error, trace * decisions.discount, decisions.known)
    after = following + torch.nn.functional.pad(correction[:, 1:], (0, 1))
    advantage = rho * (decisions.reward + decisions.discount * after - value)
    return advantage, value + correction


def _accumulate(error: Tensor, decay: Tensor, known: Tensor) -> Tensor:
    """Returns s with s[n] = error[n] + decay[n] s[n + 1], and 0 where nothing is known."""
    total, carried = torch.zeros_like(error), torch.zeros_like(error[:, 0])
    for n in reversed(range(error.shape[1])):
        carried = torch.where(known[:, n], error[:, n] + decay[:, n] * carried, 0.0)
        total[:, n] = carried
    return total
