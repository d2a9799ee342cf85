"""How long one decision takes, on the machine that evaluates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
import torch

from embodied.core import rng
from embodied.core.errors import ConfigError
from embodied.core.policy import Policy
from embodied.evaluate.remote import RemotePolicy

CALLS, LONGEST_S, WARM_UP = 30, 2.0, 3
TICK_S = 0.1  # what memory is told to lie between two calls


@torch.inference_mode()
def step_ms(
    policy: Policy,
    observation: Mapping[str, np.ndarray],
    capacity: int | None = None,
) -> float | None:
    """Measures observing one tick and acting on it, for one row.

    Args:
      policy: Where its weights are is where it is timed.
      observation: Key -> [B, ...]; the first row is looked at again and again.
      capacity: Memory slots instead of the policy's own number.

    Returns:
      The median in ms of some calls, or of as many as two seconds allow. None for a server, whose
      time is not the policy's alone, and for a bundle without a graph for one row.
    """
    if isinstance(policy, RemotePolicy):
        return None
    try:
        state = policy.initial_state(1, capacity)
    except ConfigError:
        return None
    device = next(policy.parameters(), torch.empty(0)).device
    seen = {key: np.array(observation[key][:1]) for key in policy.spec.observations}
    obs = {key: torch.from_numpy(value).to(device) for key, value in seen.items()}
    law, shape = policy.spec.noise_law, policy.spec.noise_shape
    noise = torch.from_numpy(rng.draw_noises([0], [0], shape, law)).to(device)
    times: list[float] = []
    training, began = policy.training, time.perf_counter()
    policy.eval()
    for call in range(WARM_UP + CALLS):
        start = time.perf_counter()
        time_s = torch.full((1,), call * TICK_S, device=device)
        reset = torch.full((1,), call == 0, device=device)
        working, state = policy.observe_into(obs, time_s, state, reset)
        policy.act(working, noise).chunk.cpu()  # waits for the device
        times.append((time.perf_counter() - start) * 1e3)
        if len(times) > WARM_UP and time.perf_counter() - began > LONGEST_S:
            break
    policy.train(training)
    return statistics.median(times[WARM_UP:])
