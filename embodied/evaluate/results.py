"""The row an episode leaves behind, and reading and writing rows without half-written files."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError

NONE, SWAPPED, ERASED, FROZEN = "none", "swapped", "erased", "frozen"
INTERVENTIONS = (NONE, SWAPPED, ERASED, FROZEN)
"""See :mod:`embodied.evaluate.interventions`."""

OUTCOME_FIELDS = ("cue", "success", "commit", "failure_kind", "length", "donor_cue", "followed")
"""What a replay must reproduce."""


@dataclasses.dataclass
class EpisodeResult:
    """One evaluated episode.

    Attributes:
      task: Task name.
      level: Level name.
      seed: Episode seed; environment and policy noise depend on it alone.
      cue: Index of the cue shown.
      success: Whether the task was solved.
      committed: Whether a choice was made.
      commit: What was chosen, ``""`` if nothing.
      failure_kind: See :data:`embodied.core.task.FAILURE_KINDS`.
      length: Control ticks.
      time_s: Seconds of simulated time.
      reward: Sum of rewards.
      observations: Observation ticks, that is memory ticks.
      state_bytes: Memory allocated for one row.
      row: Batch row it ran in; a replay uses the same.
      intervene: ``none``, ``swapped``, ``erased`` or ``frozen``.
      intervened: Whether the episode got as far as the intervention; None without one.
      donor_cue: Cue of the swapped-in memory's episode; None without a swap.
      followed: Whether the commit is what the donor's cue demands; None without a swap.
      train_seed: Seed of the training run, where known.
    """

    task: str
    level: str
    seed: int
    cue: int
    success: bool
    committed: bool
    commit: str
    failure_kind: str
    length: int
    time_s: float
    reward: float
    observations: int
    state_bytes: int
    row: int
    intervene: str = "none"
    intervened: bool | None = None
    donor_cue: int | None = None
    followed: bool | None = None
    train_seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> EpisodeResult:
        """Rebuilds a row; refuses missing or unknown fields.

        Raises:
          DataError: If the fields are not those of this version.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - set(fields))
        missing = sorted(
            name
            for name, field in fields.items()
            if name not in data and field.default is dataclasses.MISSING
        )
        if unknown or missing:
            raise DataError(
                f"an episode row has unknown fields {unknown} and lacks {missing}; "
                "it was written by another version, evaluate again"
            )
        return cls(**data)

    def outcome(self) -> dict[str, Any]:
        """Returns the fields that a replay must reproduce."""
        return {name: getattr(self, name) for name in OUTCOME_FIELDS}


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it, flushed, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON atomically; refuses NaN."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_episodes(path: Path, episodes: Iterable[EpisodeResult]) -> None:
    """Writes one JSON line an episode, atomically."""
    write_atomic(path, "".join(json.dumps(e.to_json()) + "\n" for e in episodes))


def read_json(path: Path) -> Any:
    """Reads JSON; says which file is missing or broken."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def read_episodes(path: Path) -> list[EpisodeResult]:
    """Reads `write_episodes` output.

    Raises:
      DataError: Naming file and line of a broken row.
    """
    episodes = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            episodes.append(EpisodeResult.from_json(json.loads(line)))
        except (ValueError, TypeError, DataError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return episodes
