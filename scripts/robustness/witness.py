"""Makes 'bit for bit' checkable: hashes what an environment exchanges, replays recordings."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from embodied import registry
from embodied.core.errors import EmbodiedError
from embodied.core.policy import Policy
from embodied.core.specs import PolicySpec
from embodied.core.task import EnvConfig
from embodied.data.record import RecordPlan, record_episode
from embodied.data.schema import Episode
from embodied.data.workers import package_versions


class Witness:
    """A vector env whose every action, observation, reward and ending goes into one hash.

    Args:
      inner: A vector env of `sims.make_vec`; everything is passed on to it.
    """

    def __init__(self, inner: Any) -> None:
        self._inner, self._hash = inner, hashlib.sha256()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def reset(self, **options: Any) -> Any:
        """Passes a reset on."""
        answer = self._inner.reset(**options)
        self._fold(answer[0])
        return answer

    def step(self, actions: np.ndarray, **options: Any) -> Any:
        """Passes a step on."""
        answer = self._inner.step(actions, **options)
        active = options.get("active")
        self._fold(actions if active is None else actions[active], *answer[:4])
        return answer

    def hexdigest(self) -> str:
        """Returns the hash of everything so far."""
        return self._hash.hexdigest()

    def _fold(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, dict):
                self._fold(*(value[key] for key in sorted(value)))
            else:
                self._hash.update(np.ascontiguousarray(value).tobytes())


def record(
    task: str, level: str, config: EnvConfig, spec: PolicySpec, seeds: Sequence[int]
) -> list[Episode]:
    """Records the expert's episodes of `seeds`, observed as `spec` asks.

    Raises:
      EmbodiedError: If the expert fails on one.
    """
    env = registry.make_env(task, level, config, render_every_step=False)
    plan = RecordPlan(0.0, spec.observe_on, spec.observe_period_s)
    episodes = []
    for seed in seeds:
        episode = record_episode(env, seed, plan, env_config={}, versions=package_versions())
        if isinstance(episode, str):
            raise EmbodiedError(f"the expert failed on seed {seed} ({episode}); take other seeds")
        episodes.append(episode)
    env.close()
    return episodes


def gymnasium_differences(
    kind: str, task: str, level: str, config: EnvConfig, episodes: Sequence[Episode]
) -> list[str]:
    """Replays recorded actions in Gymnasium's own vector env of plain environments.

    Args:
      kind: ``"sync"`` or ``"async"``.
      task: Task name.
      level: Level name.
      config: How the environments are made.
      episodes: An episode for each row; compared up to the end of the shortest.

    Returns:
      A line for each array at an observation tick that differs from the recorded one in a bit.
    """
    make = functools.partial(registry.make_env, task, level, config)
    if kind == "async":
        vector: Any = gymnasium.vector.AsyncVectorEnv(
            [make] * len(episodes), context="spawn", autoreset_mode="Disabled"
        )
    else:
        vector = gymnasium.vector.SyncVectorEnv([make] * len(episodes), autoreset_mode="Disabled")
    differences = []
    try:
        seen, _ = vector.reset(seed=[episode.meta.seed for episode in episodes])
        for tick in range(min(episode.meta.length for episode in episodes)):
            for row, episode in enumerate(episodes):
                differences += _differing(episode, tick, {k: v[row] for k, v in seen.items()})
            seen, *_ = vector.step(np.stack([e.control["action"][tick] for e in episodes]))
    finally:
        vector.close()
    return differences


def _differing(episode: Episode, tick: int, seen: dict[str, np.ndarray]) -> list[str]:
    at = np.flatnonzero(episode.obs["tick"] == tick)
    if not len(at):
        return []
    return [
        f"seed {episode.meta.seed}, tick {tick}, {key}"
        for key, value in seen.items()
        if value.tobytes() != _stored(episode, key, int(at[0])).tobytes()
    ]


def _stored(episode: Episode, key: str, index: int) -> np.ndarray:
    value = episode.obs[key]
    return value if key == "instruction_u8" else value[index]


def answers(policy: Policy, episodes: Sequence[Episode], batch: int) -> np.ndarray:
    """Feeds recorded observations to a policy, `batch` episodes at a time.

    Rows without an episode, or past the end of theirs, are fed zeros and thrown away, as the
    runner does.

    Returns:
      float32 [n, K, A]: every chunk asked for, ordered by episode and tick.
    """
    import torch

    from embodied.core.rng import draw_noise

    spec = policy.spec
    chunks: dict[tuple[int, int], np.ndarray] = {}
    with torch.inference_mode():
        for first in range(0, len(episodes), batch):
            group = episodes[first : first + batch]
            state = policy.initial_state(batch)
            for index in range(max(len(episode.obs["tick"]) for episode in group)):
                live = [r for r, e in enumerate(group) if index < len(e.obs["tick"])]
                obs = {key: s.zeros(batch) for key, s in spec.observations.items()}
                noise = np.zeros((batch, *spec.noise_shape), np.float32)
                clock = np.zeros(batch, np.float32)
                for row in live:
                    episode = group[row]
                    clock[row] = episode.obs["time_s"][index]
                    noise[row] = draw_noise(
                        episode.meta.seed, index, spec.noise_shape, spec.noise_law
                    )
                    for key in obs:
                        obs[key][row] = _stored(episode, key, index)
                working, state = policy.observe(
                    {key: torch.from_numpy(value) for key, value in obs.items()},
                    torch.from_numpy(clock),
                    state,
                    torch.full((batch,), index == 0),
                )
                chunk = policy.act(working, torch.from_numpy(noise)).chunk.float().numpy()
                for row in live:
                    if group[row].obs["act_mask"][index]:
                        chunks[first + row, index] = chunk[row]
    return np.stack([chunks[key] for key in sorted(chunks)])
