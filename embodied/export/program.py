"""A policy as two programs of named arrays: observing a tick, and one step of acting.

They are what `Policy.step` does, cut where a held arm stops: it observes, and is asked for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.policy import Policy
from embodied.core.types import State, Working

Tensors = dict[str, Tensor]


class Observe(nn.Module):
    """One memory tick and what acting does once: (obs, time, state, reset) to (work, state)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, obs: Tensors, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Tensors, State]:
        working, state = self.policy.observe(obs, time_s, state, reset)
        return self.policy.prepare(working).features, state


class Act(nn.Module):
    """One step of acting: (work, what is carried, step) to (what to carry, chunk)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, work: Tensors, carried: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy.act_step(Working(work), carried, step)


def example(policy: Policy, batch: int) -> tuple[Tensors, Tensor, State, Tensor]:
    """Returns arguments of `Observe` for empty memory, the first half of the rows beginning."""
    obs = {k: torch.from_numpy(s.zeros(batch)) for k, s in policy.spec.observations.items()}
    reset = torch.arange(batch) < (batch + 1) // 2
    return obs, torch.zeros(batch), policy.initial_state(batch), reset


def check_work(policy: Policy, work: Mapping[str, object]) -> None:
    """Refuses a policy whose `observe` hands something else than tensors to `act`.

    Raises:
      ConfigError: Naming the parts.
    """
    others = sorted(name for name, part in work.items() if not isinstance(part, Tensor))
    if others:
        raise ConfigError(
            f"{type(policy).__name__} hands {', '.join(others)} from observing to acting, which "
            "are no tensors; give them to `act` as tensors by name to export the policy"
        )
