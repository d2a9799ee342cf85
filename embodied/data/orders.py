"""Which ticks make up batch number `step`: a pure function of (seed, stage, step).

* ``segments``: every row is a whole episode, so memory starts empty and meets all of it.
* ``group``: every row is some ticks of an episode, drawn at random and sorted by time; memory
  starts empty at each group. MemoryVLA's default.
* ``stream``: every row follows its own endless sequence of episodes, a few ticks a batch;
  memory goes on from batch to batch and is cleared where an episode begins. MemoryVLA's order
  for large data, there with one row.

Source: MemoryVLA (arXiv 2508.19236), its released data loaders.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from embodied.core import rng
from embodied.core.errors import ConfigError
from embodied.data.sampling import EpisodeSampler

ORDERS = ("segments", "group", "stream")


@dataclasses.dataclass(frozen=True)
class Piece:
    """Ticks of one episode, in the order of time.

    Attributes:
      dataset: Position of the dataset.
      episode: Episode within its split, from 0.
      ticks: Observation ticks: a slice, or int64 indices.
    """

    dataset: int
    episode: int
    ticks: slice | np.ndarray


class Order(abc.ABC):
    """Base of the orders.

    Args:
      lengths: Observation ticks of each episode, an array for each dataset.
      stages: Sampling weights of the datasets in each stage; one stage of equal weights if
        empty. See `EpisodeSampler`.
      batch: B, rows of a batch.
      ticks: T: longest segment (0: whole episodes), ticks of a group, or of a stream's step.
      seed: Seed of the order.
    """

    def __init__(
        self,
        lengths: Sequence[np.ndarray],
        stages: Sequence[Sequence[float]],
        batch: int,
        ticks: int,
        seed: int,
    ) -> None:
        self.lengths, self.stages, self.batch = lengths, list(stages) or [[]], batch
        self.ticks, self.seed = ticks, seed

    @abc.abstractmethod
    def rows(self, step: int, stage: int) -> list[list[Piece]]:
        """Returns the pieces of each row of batch `step`, one after the other."""

    def _sampler(self, batch: int, weights: Sequence[float], *names: str | int) -> EpisodeSampler:
        seed = self.seed
        if names:
            seed = int(rng.derive(self.seed, *names).integers(2**62))
        return EpisodeSampler([len(n) for n in self.lengths], weights, batch, seed)


class Segments(Order):
    """Whole episodes, or a random window of longer ones."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._samplers = [
            self._sampler(self.batch, weights, *(("stage", i) if i else ()))
            for i, weights in enumerate(self.stages)
        ]

    def rows(self, step: int, stage: int) -> list[list[Piece]]:
        drawn = self._samplers[stage].batch_indices(step)
        return [[Piece(d, e, self._ticks(d, e, step, row))] for row, (d, e) in enumerate(drawn)]

    def _ticks(self, dataset: int, episode: int, step: int, row: int) -> slice | np.ndarray:
        length = int(self.lengths[dataset][episode])
        if not self.ticks or length <= self.ticks:
            return slice(0, length)
        draw = rng.derive(self.seed, "window", step, row)
        start = int(draw.integers(length - self.ticks + 1))
        return slice(start, start + self.ticks)


class Groups(Segments):
    """Distinct ticks of an episode drawn uniformly, sorted; all of an episode that is shorter."""

    def _ticks(self, dataset: int, episode: int, step: int, row: int) -> slice | np.ndarray:
        length = int(self.lengths[dataset][episode])
        if length <= self.ticks:
            return slice(0, length)
        draw = rng.derive(self.seed, "group", step, row)
        return np.sort(draw.choice(length, self.ticks, replace=False))


class Streams(Order):
    """An endless sequence of whole episodes for each row, cut into steps of T ticks."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        if len(self.stages) > 1:
            raise ConfigError(
                "stages change which episodes come next, but a stream's memory goes on; use "
                "order=segments or order=group with stages"
            )
        self._samplers = [
            self._sampler(1, self.stages[0], "stream", row) for row in range(self.batch)
        ]
        self._episodes: list[list[tuple[int, int]]] = [[] for _ in range(self.batch)]
        self._ends: list[list[int]] = [[] for _ in range(self.batch)]

    def rows(self, step: int, stage: int) -> list[list[Piece]]:
        return [self._row(row, step * self.ticks) for row in range(self.batch)]

    def _row(self, row: int, first: int) -> list[Piece]:
        self._extend(row, first + self.ticks)
        ends, episodes = self._ends[row], self._episodes[row]
        pieces, at, last = [], first, first + self.ticks
        index = int(np.searchsorted(ends, first, side="right"))
        while at < last:
            begins = ends[index - 1] if index else 0
            stop = min(ends[index], last)
            pieces.append(Piece(*episodes[index], slice(at - begins, stop - begins)))
            at, index = stop, index + 1
        return pieces

    def _extend(self, row: int, ticks: int) -> None:
        """Draws episodes until the row's sequence is at least so many ticks long."""
        ends, episodes = self._ends[row], self._episodes[row]
        while not ends or ends[-1] < ticks:
            dataset, episode = self._samplers[row].batch_indices(len(ends))[0]
            episodes.append((dataset, episode))
            before = ends[-1] if ends else 0
            ends.append(before + int(self.lengths[dataset][episode]))


def build_order(
    name: str,
    lengths: Sequence[np.ndarray],
    stages: Sequence[Sequence[float]],
    batch: int,
    ticks: int,
    seed: int,
) -> Order:
    """Returns the order of that name; see the module docstring and `Order`."""
    classes = {"segments": Segments, "group": Groups, "stream": Streams}
    return classes[name](lengths, stages, batch, ticks, seed)
