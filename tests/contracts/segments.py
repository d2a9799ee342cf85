"""Random segments for a policy, and ways to run it through them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from embodied.core.policy import Policy
from embodied.core.rng import draw_noise
from embodied.core.specs import DISCRETE, ArraySpec
from embodied.core.types import Action, Observation, Segment, State, Working
from tests.contracts.tools import BATCH, no_reset

TICKS = 6
Extras = Callable[[Policy, int, int, np.random.Generator], dict[str, Tensor]]


def dtype_of(policy: Policy) -> torch.dtype:
    return next((parameter.dtype for parameter in policy.parameters()), torch.float32)


def random_array(spec: ArraySpec, leading: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Returns values within the bounds of `spec`, standard normal where it has none."""
    shape = (*leading, *spec.shape)
    if spec.dtype == "bool":
        return torch.from_numpy(rng.random(shape) < 0.5)
    if np.issubdtype(np.dtype(spec.dtype), np.integer):
        low = int(spec.low or 0)
        high = 255 if spec.high is None else int(spec.high)
        return torch.from_numpy(rng.integers(low, high + 1, shape).astype(spec.dtype))
    if spec.low is not None and spec.high is not None:
        return torch.from_numpy(rng.uniform(spec.low, spec.high, shape).astype(spec.dtype))
    return torch.from_numpy(rng.standard_normal(shape).astype(spec.dtype))


def random_segment(
    policy: Policy, batch: int, ticks: int, seed: int, extras: Extras | None = None
) -> Segment:
    """Returns whole episodes padded at the end, one row with a second episode inside.

    Its numbers are of the policy's dtype.
    """
    spec, rng = policy.spec, np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(ticks // 2 + 1, ticks + 1, batch))
    lengths[0] = ticks
    valid = torch.arange(ticks) < lengths[:, None]
    is_first = torch.zeros(batch, ticks, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[-1, ticks // 2] = True
    act_mask = valid & torch.from_numpy(rng.random((batch, ticks)) < 0.6)
    act_mask[:, ticks // 2] = valid[:, ticks // 2]
    size, horizon = spec.action.size, spec.action.horizon
    if spec.action.kind == DISCRETE:
        chosen = torch.from_numpy(rng.integers(0, size, (batch, ticks, horizon)))
        chunk = torch.nn.functional.one_hot(chosen, size).float()
    else:
        limits = ArraySpec((horizon, size), "float32", "", spec.action.low, spec.action.high)
        chunk = random_array(limits, (batch, ticks), rng)
    segment = Segment(
        obs={k: random_array(s, (batch, ticks), rng) for k, s in spec.observations.items()},
        time_s=spec.observe_period_s * torch.arange(ticks).expand(batch, ticks),
        is_first=is_first,
        valid=valid,
        act_mask=act_mask,
        chunk=chunk,
        chunk_valid=act_mask[..., None].expand(batch, ticks, horizon).clone(),
        extras=extras(policy, batch, ticks, rng) if extras else {},
        record={k: random_array(s, (batch, ticks), rng) for k, s in spec.record.items()},
    )
    return segment.map(lambda x: x.to(dtype_of(policy)) if x.is_floating_point() else x)


def noise(policy: Policy, batch: int, tick: int = 0, seed: int = 0) -> Tensor:
    """Returns the noise of `batch` episodes with seeds from `seed` on."""
    spec = policy.spec
    drawn = [draw_noise(seed + b, tick, spec.noise_shape, spec.noise_law) for b in range(batch)]
    return torch.from_numpy(np.stack(drawn)).to(dtype_of(policy))


def at(segment: Segment, tick: int) -> Observation:
    return {key: tensor[:, tick] for key, tensor in segment.obs.items()}


def fresh_time(policy: Policy, ticks: int = 0) -> Tensor:
    return torch.full((BATCH,), ticks * policy.spec.observe_period_s)


@torch.no_grad()
def roll(
    policy: Policy, segment: Segment, state: State
) -> tuple[list[Action], list[Working], State]:
    """Steps through a segment; a row's padding leaves its state as it was."""
    actions, workings = [], []
    for t in range(segment.valid.shape[1]):
        valid = segment.valid[:, t]
        reset = segment.is_first[:, t] & valid
        working, after = policy.observe(at(segment, t), segment.time_s[:, t], state, reset)
        actions.append(policy.act(working, noise(policy, len(valid), t)))
        workings.append(working)
        state = {
            k: torch.stack([(after if ok else state)[k][b] for b, ok in enumerate(valid)])
            for k in state
        }
    return actions, workings, state


def filled(policy: Policy, segment: Segment, ticks: int = 3) -> State:
    """Returns the state after the first ticks of a segment, all valid."""
    state = policy.initial_state(BATCH)
    with torch.no_grad():
        for t in range(ticks):
            _, state = policy.observe(at(segment, t), segment.time_s[:, t], state, no_reset())
    return state
