"""Whether an agent reads the right chunk: ``python scripts/studies/chunks_read.py RUN``.

Hierarchical chunks choose a few of all chunks to read. The games of the recall suite know which
ticks must be remembered, so when the question comes one can look whether their chunk is among
those chosen. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from embodied import registry  # noqa: E402
from embodied.core.errors import ConfigError, EmbodiedError  # noqa: E402
from embodied.core.policy import Policy  # noqa: E402
from embodied.core.specs import check_observations  # noqa: E402
from embodied.core.task import EnvConfig  # noqa: E402
from embodied.memory.chunk_config import HierarchicalChunksConfig  # noqa: E402
from embodied.memory.hierarchical_chunks import HierarchicalChunks  # noqa: E402
from embodied.train.checkpoint import load  # noqa: E402

SEED_START, EPISODES, BATCH = 2_000_000, 1_000, 100
FACTS = ("read", "held", "in_window", "chunks_held")


@torch.inference_mode()
def right_chunk_read(
    policy: Policy,
    task: str,
    level: str,
    knobs: Mapping[str, Any] | None = None,
    episodes: int = EPISODES,
    seed_start: int = SEED_START,
    batch: int = BATCH,
    capacity: int | None = None,
) -> dict[str, Any]:
    """Plays episodes greedily and looks into memory at the tick that asks.

    That is the first tick with ``info["gate"]``: the first whose action counts, but for tasks in
    which other actions count before (apples on the way, questions of earlier lessons).

    A chunk of a layer holds what came into that layer at its ticks. In layers above the first
    that may tell of earlier ticks too, so there the right chunk is not the only one of use.

    Args:
      policy: Remembers by hierarchical chunks.
      task: A task of the recall suite whose evidence is known.
      level: Its level.
      knobs: Overrides of the level's knobs.
      episodes: How many, of seeds from `seed_start` on.
      seed_start: First seed.
      batch: Rows played side by side.
      capacity: Chunks that are kept instead of the policy's own number, as in an evaluation.

    Returns:
      ``episodes``, ``success`` in 0..1 and ``layers``, for each layer ``read``, ``held`` and
      ``in_window``: shares of the episodes in which any tick of the evidence is in a chunk that
      is read, in a chunk that is still held, and among the ticks of the layer's window; and
      ``chunks_held``, the mean number of chunks to choose from.

    Raises:
      ConfigError: For a policy with another memory, a task without evidence, or a number below 1.
      SpecMismatch: If the policy does not see what the task shows.
    """
    memory = getattr(policy, "memory", None)
    if not isinstance(memory, HierarchicalChunks):
        raise ConfigError(
            "expected a policy that remembers by hierarchical chunks, got "
            f"{type(memory).__name__}; train one with memory=hierarchical_chunks"
        )
    if min(episodes, batch) < 1:
        raise ConfigError(f"episodes and batch must be >= 1, got {episodes} and {batch}")
    rows, training = min(batch, episodes), policy.training
    won: list[np.ndarray] = []
    looks: list[np.ndarray] = []
    policy.eval()
    env = registry.make_vec(task, level, EnvConfig(knobs=dict(knobs or {})), num_envs=rows)
    try:
        with closing(env):
            check_observations(
                policy.spec.observations, env.observation_specs, needs="the policy", gives=task
            )
            for first in range(0, episodes, rows):
                success, look = _play(policy, memory, env, seed_start + first, capacity)
                won.append(success)
                looks.append(look)
    finally:
        policy.train(training)
    means = np.concatenate(looks)[:episodes].mean(axis=0).tolist()
    return {
        "episodes": episodes,
        "success": float(np.concatenate(won)[:episodes].mean()),
        "layers": [dict(zip(FACTS, layer, strict=True)) for layer in means],
    }


def _play(
    policy: Policy, memory: HierarchicalChunks, env: Any, seed: int, capacity: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Plays an episode in each row; returns bool [n], and float [n, layers, `FACTS`]."""
    n, state = env.num_envs, policy.initial_state(env.num_envs, capacity)
    seen, info = env.reset(seed=seed)
    evidence = _evidence(env)
    looks = np.full((n, len(memory.layers), len(FACTS)), np.nan)
    reset, over = torch.ones(n, dtype=torch.bool), np.zeros(n, bool)
    noise, tick = torch.zeros(n, *policy.spec.noise_shape), 0
    while not over.all():
        obs = {key: torch.from_numpy(seen[key]) for key in policy.spec.observations}
        time_s = torch.from_numpy(np.asarray(info["time_s"], np.float32))
        asks = np.asarray(info["gate"], bool) & ~over & np.isnan(looks[:, 0, 0])
        if asks.any():
            report, reads = policy.inspect(obs, time_s, state, reset), _reads(policy, obs)
            for i in range(len(memory.layers)):
                look = look_at(report, i, evidence, tick, memory.config, reads)
                looks[asks, i] = np.stack([look[name] for name in FACTS], axis=1)[asks]
        working, state = policy.observe_into(obs, time_s, state, reset)
        actions = policy.act(working, noise).chunk[:, 0].argmax(dim=-1)
        seen, _, terminated, truncated, info = env.step(actions.numpy())
        reset, over, tick = torch.zeros_like(reset), over | terminated | truncated, tick + 1
    if np.isnan(looks).any():
        raise ConfigError(
            f"{env.info.name} ended episodes without asking anything, so there is no tick to look "
            "at; choose a task that asks once"
        )
    return np.asarray(info["success"], bool), looks


def look_at(
    report: Mapping[str, Tensor],
    layer: int,
    evidence: np.ndarray,
    tick: int,
    config: HierarchicalChunksConfig,
    reads: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Finds the evidence in what the memory explains of one layer.

    Args:
      report: What `HierarchicalChunks.inspect` returned, of n rows.
      layer: Which layer.
      evidence: int64 [n, E, 2]; first and last ticks, -1 where there are fewer than E.
      tick: The present one, counted from the episode's first.
      config: Of the memory.
      reads: bool [n]; rows that read chunks at this tick. None: all.

    Returns:
      Each of `FACTS`: bool [n], and int64 [n] for ``chunks_held``.
    """
    number, held, weight = (
        report[f"layer{layer}.{name}"].numpy()
        for name in ("chunk_number", "chunk_live", "chunk_weight")
    )
    first, last = evidence[..., 0], evidence[..., 1]
    real, C = first >= 0, config.chunk
    begins = (number * C)[:, None]
    meets = (begins <= last[..., None]) & (begins + C - 1 >= first[..., None])
    right = (meets & real[..., None]).any(axis=1) & held
    near = (first <= tick) & (last > tick - config.window)
    read = (right & (weight > 0)).any(axis=1)
    return {
        "read": read if reads is None else read & reads,
        "held": right.any(axis=1),
        "in_window": (near & real).any(axis=1),
        "chunks_held": held.sum(axis=1),
    }


def _evidence(env: Any) -> np.ndarray:
    """Returns int64 [n, E, 2] of the present episodes."""
    evidence: np.ndarray = env.evidence()
    if (evidence[:, :, 0] < 0).all(axis=1).any():
        raise ConfigError(
            f"{env.info.name} does not know what must be remembered of an episode; choose a task "
            "whose answer was shown at certain ticks, for example recall/ballet_lite"
        )
    return evidence


def _reads(policy: Policy, obs: Mapping[str, Tensor]) -> np.ndarray | None:
    """Returns bool [n], rows whose observation asks for reads; None where all read.

    What a memory explains is a read of all rows, whether the agent makes it or not.
    """
    key = getattr(policy.config, "read_when", "")
    if not key:
        return None
    reads: np.ndarray = (obs[key] != 0).reshape(len(obs[key]), -1).any(dim=1).numpy()
    return reads


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "scripts/studies/chunks_read.py",
        description="Tells whether an agent reads the chunk that holds what is asked.",
    )
    parser.add_argument("run", metavar="RUN", help="run, checkpoint or claim")
    parser.add_argument("--task", help="by default the first that it was trained on")
    parser.add_argument("--level", help="by default the one that it was trained on")
    parser.add_argument("--knobs", type=json.loads, default={}, help='for example {"delay": 48}')
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--seed-start", type=int, default=SEED_START)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--capacity", type=int, help="chunks kept; by default as in training")
    options = parser.parse_args(argv)
    try:
        loaded = load(options.run)
        task, level = loaded.meta.trained_on()[0]
        found = right_chunk_read(
            loaded.policy,
            options.task or task,
            options.level or level,
            {**loaded.meta.env.get("knobs", {}), **options.knobs},
            options.episodes,
            options.seed_start,
            options.batch,
            options.capacity,
        )
    except EmbodiedError as error:
        print(f"chunks_read: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
