"""Is the cue there? A linear probe of what a policy keeps and of what it acts on, at go.

What can be decoded is not therefore used: a probe stands beside success, never for it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from embodied.core.errors import DataError
from embodied.core.policy import Policy
from embodied.data.segments import SegmentDataset
from embodied.evaluate.stats import wilson

RIDGE = 1e-1
"""Weight of the squared coefficients, for features of unit scale."""


@dataclasses.dataclass
class ProbeResult:
    """How well a linear map finds the cue on episodes it was not fitted to.

    Attributes:
      accuracy: Share of right answers.
      low, high: Wilson's 95 % interval.
      n: Episodes.
      chance: Share of the commonest cue among them.
    """

    accuracy: float
    low: float
    high: float
    n: int
    chance: float


@torch.inference_mode()
def probe_cue(
    policy: Policy, dataset: SegmentDataset, batches: int, held_out: float = 0.3
) -> dict[str, ProbeResult]:
    """Fits and scores linear probes of the cue.

    Args:
      policy: In evaluation mode.
      dataset: Demonstrations opened with ``privileged=True``; whole episodes.
      batches: Batches to run.
      held_out: Share of the episodes, the last ones, that the probes are scored on.

    Returns:
      ``kept``: from the memory before go (mean and maximum over slots and tokens of each
      tensor of tokens or vectors); ``told``: from what acting is conditioned on at go. Empty
      for a policy that has neither.

    Raises:
      DataError: If an episode never acts.
    """
    features: dict[str, list[Tensor]] = {}
    cues = []
    for step in range(batches):
        segment = dataset.batch(step)
        acts = segment.act_mask & segment.valid
        if not bool(acts.any(dim=1).all()):
            raise DataError("a demonstration without an acting tick: nothing to probe at go")
        at_go = acts.int().argmax(dim=1)
        cues.append(segment.extras["privileged_cue"][:, 0])
        state = policy.initial_state(len(at_go))
        kept, told = None, None
        for tick in range(int(at_go.max()) + 1):
            obs = {key: segment.obs[key][:, tick] for key in policy.spec.observations}
            before = _pooled(state)
            working, state = policy.observe(
                obs, segment.time_s[:, tick], state, segment.is_first[:, tick]
            )
            now = working.features.get("condition")
            here = (at_go == tick)[:, None]
            if before is not None:
                kept = torch.where(here, before, torch.zeros_like(before) if kept is None else kept)
            if now is not None:
                told = torch.where(here, now, torch.zeros_like(now) if told is None else told)
        for name, value in (("kept", kept), ("told", told)):
            if value is not None:
                features.setdefault(name, []).append(value)
    answers = torch.cat(cues)
    return {
        name: fit_and_score(torch.cat(parts), answers, held_out) for name, parts in features.items()
    }


def fit_and_score(features: Tensor, cues: Tensor, held_out: float) -> ProbeResult:
    """Returns how well ridge regression to one-hot cues does on the last episodes.

    Args:
      features: [E, F].
      cues: int64 [E].
      held_out: Share of the episodes to score on.
    """
    split = int(len(cues) * (1 - held_out))
    x = features.double()
    mean, std = x[:split].mean(dim=0), x[:split].std(dim=0)
    x = (x - mean) / torch.where(std < 1e-6, torch.ones_like(std), std)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    target = torch.nn.functional.one_hot(cues).double()
    fitted = x[:split]
    normal = fitted.T @ fitted + RIDGE * len(fitted) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(normal, fitted.T @ target[:split])
    right = ((x[split:] @ weights).argmax(dim=1) == cues[split:]).numpy()
    n, found = len(right), int(right.sum())
    low, high = wilson(found, n)
    chance = np.bincount(cues[split:].numpy()).max() / n
    return ProbeResult(found / n, low, high, n, float(chance))


def _pooled(state: dict[str, Tensor]) -> Tensor | None:
    """Returns [B, F]: mean and maximum over all but the last axis of every float content."""
    parts = []
    for tensor in state.values():
        if tensor.is_floating_point() and tensor.dim() >= 3:
            flat = tensor.flatten(1, -2)
            parts += [flat.mean(dim=1), flat.amax(dim=1)]
        elif tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[1] > 1:
            parts.append(tensor)
    return torch.cat(parts, dim=-1) if parts else None
