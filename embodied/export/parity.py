"""Does the exported policy do what the checkpoint does? Both are run on the same ticks.

The observations are those of the policy at work in its own task. They are fed as long episodes
with resets in the middle, so that memory overflows, merges and starts anew within one sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from embodied import registry
from embodied.config import from_plain
from embodied.core.errors import CheckpointError
from embodied.core.policy import Policy
from embodied.core.rng import EVAL_SEED_START, draw_noise
from embodied.core.specs import DISCRETE, KEYFRAME, PolicySpec
from embodied.core.task import EnvConfig
from embodied.evaluate.runner import closing, run
from embodied.serve.runtime import Runtime
from embodied.train.checkpoint import LoadedPolicy

TICKS = 48
"""Ticks of a sequence; three times the default slots of a bank."""
STATE_TOLERANCE, ACTION_TOLERANCE = 1e-5, 1e-4

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Sequence:
    """Inputs of T ticks of B rows.

    Attributes:
      obs: Observation key -> [T, B, ...].
      time_s: float32 [T, B].
      reset: bool [T, B].
      noise: float32 [T, B, ...].
    """

    obs: Arrays
    time_s: np.ndarray
    reset: np.ndarray
    noise: np.ndarray

    def tick(self, t: int) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray]:
        """Returns what goes in at tick t."""
        obs = {key: value[t] for key, value in self.obs.items()}
        return obs, self.time_s[t], self.reset[t], self.noise[t]


class _Recorder(Policy):
    """A policy that keeps what it is shown."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.inner, self.spec = policy, policy.spec
        self.seen: list[Arrays] = []

    def initial_state(self, batch: int, capacity: int | None = None) -> Any:
        return self.inner.initial_state(batch, capacity)

    def observe(self, obs: Any, time_s: Any, state: Any, reset: Any) -> Any:
        self.seen.append({key: value.cpu().numpy().copy() for key, value in obs.items()})
        return self.inner.observe(obs, time_s, state, reset)

    def act(self, working: Any, noise: Any) -> Any:
        return self.inner.act(working, noise)


def record(loaded: LoadedPolicy, ticks: int = TICKS) -> list[Arrays]:
    """Returns the observations [1, ...] of the first ticks of the policy's own episodes.

    Raises:
      MissingExtra: If the simulator is not installed.
    """
    meta, recorder = loaded.meta, _Recorder(loaded.policy)
    pairs = meta.trained_on()
    env = from_plain(EnvConfig, meta.env, where="policy.json:env")
    seed = EVAL_SEED_START
    while len(recorder.seen) < ticks:
        for task, level in pairs:
            with closing(registry.make_vec(task, level, env, num_envs=1)) as vector:
                run(recorder, vector, [seed], progress=False)
        seed += 1
    return recorder.seen[:ticks]


def sequence(spec: PolicySpec, seen: list[Arrays], batch: int) -> Sequence:
    """Lays recorded ticks out for `batch` rows; each row begins at another one.

    Row r starts anew after 2/3 of the ticks, less r: long episodes, short ones, at any phase.
    """
    ticks = len(seen)
    place = (np.arange(ticks)[:, None] + 5 * np.arange(batch)) % ticks
    obs = {
        key: np.stack([[seen[i][key][0] for i in row] for row in place])
        for key in spec.observations
    }
    first = np.maximum(1, (2 * ticks) // 3 - np.arange(batch) % (ticks // 3))
    tick = np.arange(ticks)[:, None]
    reset = (tick == 0) | (tick == first)
    since = np.where(tick < first, tick, tick - first)
    noise = np.stack([[draw_noise(r, t, spec.noise_shape, spec.noise_law) for r in range(batch)]
                      for t in range(ticks)])  # fmt: skip
    return Sequence(obs, (since * spec.observe_period_s).astype(np.float32), reset, noise)


def golden(policy: Policy, inputs: Sequence) -> Arrays:
    """Returns what the checkpoint answers: ``chunk`` [T, B, K, A], and memory at the end."""
    batch = inputs.time_s.shape[1]
    state, chunks = policy.initial_state(batch), []
    with torch.no_grad():
        for t in range(len(inputs.time_s)):
            obs, time_s, reset, noise = inputs.tick(t)
            action, state = policy.step(
                {key: torch.from_numpy(value) for key, value in obs.items()},
                torch.from_numpy(time_s),
                state,
                torch.from_numpy(reset),
                torch.from_numpy(noise),
            )
            chunks.append(action.chunk.numpy())
    kept = {f"state.{name}": tensor.numpy() for name, tensor in state.items()}
    return {"chunk": np.stack(chunks).astype(np.float32), **kept}


def replay(runtime: Runtime, inputs: Sequence) -> Arrays:
    """Returns what the bundle answers to the same; see `golden`."""
    runtime.state, chunks = runtime.initial(runtime.batch), []
    for t in range(len(inputs.time_s)):
        obs, time_s, reset, noise = inputs.tick(t)
        runtime.observe(obs, time_s, reset)
        chunks.append(runtime.act(noise))
    return {
        "chunk": np.stack(chunks),
        **{f"state.{name}": array for name, array in runtime.state.items()},
    }


def compare(
    expected: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    kind: str,
    strict: bool = True,
) -> dict[str, Any]:
    """Compares answers and memory.

    Args:
      expected: From `golden`.
      found: From `replay`.
      kind: Of the actions.
      strict: Refuse what differs by more than is allowed; what is not finite is refused always.

    Decisions must be equal: whole numbers and flags in memory, which tell the items that were
    merged or dropped, and answers that are choices. A choice that falls otherwise moves a
    keyframe or a discrete action by much more than rounding does.

    Returns:
      ``action`` and ``state``, the largest differences, and ``decisions_equal``.

    Raises:
      CheckpointError: If something is not finite or differs by more than is allowed.
    """
    for name, array in (*expected.items(), *found.items()):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"parity: {name} is not finite, which would prove nothing")
    states = [name for name in expected if name.startswith("state.")]
    numbers = [name for name in states if expected[name].dtype.kind == "f"]
    report = {
        "action": _distance(expected["chunk"], found["chunk"]),
        "state": max((_distance(expected[n], found[n]) for n in numbers), default=0.0),
        "decisions_equal": all(
            np.array_equal(expected[n], found[n]) for n in states if n not in numbers
        ),
    }
    if kind in (DISCRETE, KEYFRAME):
        report["decisions_equal"] &= report["action"] <= ACTION_TOLERANCE
    equal = report["action"] <= ACTION_TOLERANCE and report["state"] <= STATE_TOLERANCE
    if strict and not (equal and report["decisions_equal"]):
        raise CheckpointError(
            f"the exported policy is not the checkpoint: actions differ by {report['action']:.1e} "
            f"(at most {ACTION_TOLERANCE:g}), memory by {report['state']:.1e} (at most "
            f"{STATE_TOLERANCE:g}), decisions are "
            f"{'equal' if report['decisions_equal'] else 'others'}; nothing was written. Please "
            "report it with the policy's configuration"
        )
    return report


def _distance(expected: np.ndarray, found: np.ndarray) -> float:
    """Returns the largest difference, of numbers beyond 1 in proportion to their size."""
    if expected.shape != found.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    scale = np.maximum(1.0, np.abs(expected))
    return float((np.abs(expected - found) / scale).max())
