"""Random numbers named by what they are for, so that nothing depends on call order.

An episode's randomness comes from its seed and a purpose alone. Adding a draw for one
purpose never shifts the draws of another, and a batch row draws what it would draw alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

VALIDATION_SEED_START = 720_720
EVAL_SEED_START = 1_441_440
"""Demonstrations use seeds below the first, validation during training those between, and
published evaluation those from the second on: the three never meet. Both are multiples of
every number up to 16, so that cues, balanced in blocks of seeds, start with a whole block."""

GAUSSIAN = "gaussian"
GUMBEL = "gumbel"
NO_NOISE = "none"


def derive(seed: int, *purpose: str | int) -> np.random.Generator:
    """Returns the generator for `purpose` under `seed`.

    Args:
      seed: Non-negative episode or run seed.
      *purpose: Names or indices, for example ``("noise", 12)``.

    Returns:
      A PCG64 generator; equal arguments give equal streams in any process.
    """
    if seed < 0:
        raise ValueError(f"a seed must be >= 0, got {seed}")
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else int(p) for p in purpose]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *words])))


def draw_noise(seed: int, tick: int, shape: tuple[int, ...], law: str) -> np.ndarray:
    """Draws the noise a policy consumes at one observation tick of one episode.

    Args:
      seed: Episode seed.
      tick: Index of the observation tick inside the episode, from 0.
      shape: Shape of the noise, without the batch axis.
      law: ``"gaussian"``, ``"gumbel"`` or ``"none"`` (zeros).

    Returns:
      float32 array of `shape`.
    """
    if law == NO_NOISE:
        return np.zeros(shape, np.float32)
    generator = derive(seed, "policy_noise", tick)
    if law == GAUSSIAN:
        return generator.standard_normal(shape, dtype=np.float32)
    if law == GUMBEL:
        return generator.gumbel(size=shape).astype(np.float32)
    raise ValueError(f"unknown noise law {law!r}; expected gaussian, gumbel or none")


def draw_noises(
    seeds: Sequence[int], ticks: Sequence[int], shape: tuple[int, ...], law: str
) -> np.ndarray:
    """Returns `draw_noise` of each row, float32 [B, *shape]."""
    rows = [
        draw_noise(seed, int(tick), shape, law) for seed, tick in zip(seeds, ticks, strict=True)
    ]
    return np.stack(rows)
