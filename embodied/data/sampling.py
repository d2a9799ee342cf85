"""Which episodes make up batch number `step`: a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embodied.core import rng
from embodied.core.errors import ConfigError

_BLOCK = 1024


class EpisodeSampler:
    """Draws whole episodes from several datasets by weight, each dataset in shuffled passes.

    Every slot of every batch first draws a dataset by weight; the dataset then gives the next
    episode of its current pass, and each pass is a fresh permutation. Only (seed, step) and the
    numbers of episodes matter: not workers, not what was drawn before, not resuming.

    Args:
      sizes: Episodes in each dataset.
      weights: Sampling weight of each; empty for equal weights.
      batch: Episodes in a batch.
      seed: Seed of the order.

    Raises:
      ConfigError: For an empty dataset, weights that don't fit, or a batch below 1.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], batch: int, seed: int
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch_episodes must be at least 1, got {batch}")
        weights = list(weights) or [1.0] * len(sizes)
        if len(weights) != len(sizes) or min(weights) < 0 or not 0 < sum(weights) < np.inf:
            raise ConfigError(
                f"data_weights must be {len(sizes)} numbers >= 0, one a dataset, got {weights}"
            )
        empty = [i for i, (n, w) in enumerate(zip(sizes, weights, strict=True)) if w and not n]
        if empty:
            raise ConfigError(f"datasets {empty} (by position) have no episode in this split")
        self._sizes = list(sizes)
        self._p = np.asarray(weights, np.float64) / sum(weights)
        self._batch = batch
        self._seed = seed
        self._before = [np.zeros(len(sizes), np.int64)]  # draws of each dataset before block i
        self._blocks: dict[int, np.ndarray] = {}
        self._orders: dict[tuple[int, int], np.ndarray] = {}

    def batch_indices(self, step: int) -> list[tuple[int, int]]:
        """Returns ``(dataset, episode)`` for each slot of batch `step`, from 0."""
        if step < 0:
            raise ConfigError(f"a step is at least 0, got {step}")
        block, row = divmod(step, _BLOCK)
        while len(self._before) <= block:
            last = len(self._before) - 1
            counts = np.bincount(self._choices(last).ravel(), minlength=len(self._sizes))
            self._before.append(self._before[last] + counts)
        choices = self._choices(block)
        drawn = self._before[block] + np.bincount(choices[:row].ravel(), minlength=len(self._sizes))
        result = []
        for dataset in choices[row].tolist():
            turn, place = divmod(int(drawn[dataset]), self._sizes[dataset])
            result.append((dataset, int(self._order(dataset, turn)[place])))
            drawn[dataset] += 1
        return result

    def _choices(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            if len(self._blocks) > 4:
                self._blocks.clear()
            shape = (_BLOCK, self._batch)
            if len(self._sizes) == 1:
                self._blocks[block] = np.zeros(shape, np.int64)
            else:
                draw = rng.derive(self._seed, "dataset", block)
                self._blocks[block] = draw.choice(len(self._sizes), shape, p=self._p)
        return self._blocks[block]

    def _order(self, dataset: int, turn: int) -> np.ndarray:
        key = (dataset, turn)
        if key not in self._orders:
            if len(self._orders) > 4 * len(self._sizes):
                self._orders.clear()
            draw = rng.derive(self._seed, "order", dataset, turn)
            self._orders[key] = draw.permutation(self._sizes[dataset])
        return self._orders[key]
