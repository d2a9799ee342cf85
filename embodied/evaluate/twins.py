"""The memoryless twin of a policy: what may be one, whether it is still to run or has been run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError
from embodied.evaluate import remote
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.results import (
    NONE,
    RESULTS,
    EpisodeResult,
    read_results,
    read_role,
)
from embodied.serve.client import is_uri
from embodied.train.checkpoint import LoadedPolicy

MEMORYLESS = "none"

SETTING = ("knobs", "control", "visuals", "observation", "cameras", "image_size")
"""Fields of a result row in which a policy and its twin agree, beside task and level."""


@dataclasses.dataclass(frozen=True)
class StoredTwin:
    """The twin's episodes of an earlier evaluation.

    Attributes:
      path: Its results directory.
      rows: Its rows without intervention.
      episodes: Their episodes.
    """

    path: Path
    rows: list[dict[str, Any]]
    episodes: list[EpisodeResult]

    def of(self, task: str, level: str) -> list[EpisodeResult]:
        """Returns the episodes of one task and level."""
        return [e for e in self.episodes if (e.task, e.level) == (task, level)]

    def check(self, row: Mapping[str, Any], seeds: Collection[int]) -> None:
        """Refuses episodes that a policy's can't be compared with.

        Args:
          row: Task and level of the policy's, and the fields of `SETTING`.
          seeds: Seeds of its episodes.

        Raises:
          ConfigError: Saying what differs.
        """
        check_setting(row, self.rows, f"twin={self.path}")
        own = {e.seed for e in self.of(row["task"], row["level"])}
        if own.isdisjoint(seeds):
            raise ConfigError(
                f"twin={self.path} has {len(own)} episodes of {row['task']}, none of a seed in "
                f"{min(seeds)}..{max(seeds)}, so they can't be paired; evaluate both with the "
                "same seed_start"
            )


@contextlib.contextmanager
def opened(config: EvaluateConfig) -> Iterator[LoadedPolicy | StoredTwin | None]:
    """Opens ``config.twin``: a policy, or the results directory of one; None without a twin.

    Raises:
      ConfigError: If it has a memory.
    """
    if not config.twin:
        yield None
        return
    what, path = f"twin={config.twin}", Path(config.twin)
    if is_uri(config.twin) or not (path / RESULTS).exists():
        with remote.opened(config, config.twin) as loaded:
            check_memoryless(what, str(loaded.meta.config.get("memory", "")))
            yield loaded
        return
    results = read_results(path)
    rows = [row for row in results["rows"] if row["role"] == "policy"]
    for row in rows:
        check_memoryless(what, row["memory"])
    plain = [row for row in rows if row["intervene"] == NONE]
    episodes = [e for e in read_role(path, results) if e.intervene == NONE]
    yield StoredTwin(path, plain, episodes)


def check_memoryless(what: str, memory: str) -> None:
    """Refuses a twin with a memory, or one that doesn't say that it has none.

    Raises:
      ConfigError: Naming `what` and its memory.
    """
    if memory != MEMORYLESS:
        has = f"memory={memory}" if memory else "a memory that it doesn't name"
        raise ConfigError(f"{what} has {has}; a twin has memory={MEMORYLESS}")


def check_setting(row: Mapping[str, Any], twins: Sequence[Mapping[str, Any]], what: str) -> None:
    """Refuses a twin without `row`'s task and level, or one that was evaluated differently there.

    Args:
      row: Task and level of the policy's, and the fields of `SETTING`.
      twins: The twin's rows.
      what: The twin, for messages.

    Raises:
      ConfigError: Saying what differs.
    """
    place = (row["task"], row["level"])
    own = [other for other in twins if (other["task"], other["level"]) == place]
    if not own:
        held = ", ".join(f"{other['task']} {other['level']}" for other in twins)
        raise ConfigError(f"{what} has no episodes of {' '.join(place)}; it has {held or 'none'}")
    for other in own:
        odd = [f"{f} {row[f]!r} against {other[f]!r}" for f in SETTING if row[f] != other[f]]
        if odd:
            raise ConfigError(
                f"{what} was evaluated on {' '.join(place)} with another setting than the policy: "
                f"{'; '.join(odd)}. Evaluate both alike"
            )
