"""How far a keyframe policy's answers are from demonstrations that it never learnt from.

Success says whether the hand came near enough; this says how near, whatever the task allows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied.core.errors import DataError
from embodied.core.policy import Policy
from embodied.data.segments import SegmentDataset


@torch.inference_mode()
def keyframes_off(policy: Policy, dataset: SegmentDataset, batches: int) -> dict[str, float]:
    """Asks a policy at every decision of demonstrations where the hand goes next.

    What is seen is the demonstration, whatever the policy answered before.

    Args:
      policy: Answers with keyframes, position (m) first; in evaluation mode.
      dataset: Whole episodes, observed at decisions, with keyframes.
      batches: Batches to run.

    Returns:
      ``median_m`` and ``p95_m``: distance between the position that is answered and the
      demonstrated one, over all decisions; ``decisions``: how many.

    Raises:
      DataError: If no decision has a keyframe.
    """
    off: list[Tensor] = []
    for step in range(batches):
        segment = dataset.batch(step)
        keyframe = segment.extras["keyframe"]
        counts = segment.act_mask & segment.valid & segment.extras["keyframe_valid"]
        rows, ticks = counts.shape
        state, noise = policy.initial_state(rows), torch.zeros(rows, *policy.spec.noise_shape)
        for tick in range(ticks):
            obs = {key: segment.obs[key][:, tick] for key in policy.spec.observations}
            working, state = policy.observe(
                obs, segment.time_s[:, tick], state, segment.is_first[:, tick]
            )
            answer = policy.act(working, noise).chunk[:, 0, :3]
            off.append((answer - keyframe[:, tick, :3]).norm(dim=-1)[counts[:, tick]])
    found = torch.cat(off).numpy()
    if not found.size:
        raise DataError("no decision of these demonstrations has a keyframe to compare with")
    return {
        "median_m": float(np.median(found)),
        "p95_m": float(np.quantile(found, 0.95)),
        "decisions": len(found),
    }
