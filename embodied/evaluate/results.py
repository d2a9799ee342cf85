"""The row an episode leaves behind, and files of such rows."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError
from embodied.core.files import read_json, write_atomic

FORMAT_VERSION = 1
RESULTS, EPISODES, TWIN_EPISODES = "results.json", "episodes.jsonl", "twin_episodes.jsonl"
"""Files of an evaluation directory."""

NONE, SWAPPED, ERASED, FROZEN = "none", "swapped", "erased", "frozen"
REWOUND, SWAPPED_REWOUND = "rewound", "swapped_rewound"
INTERVENTIONS = (NONE, SWAPPED, ERASED, FROZEN, REWOUND, SWAPPED_REWOUND)
SWAPS, REWINDS = (SWAPPED, SWAPPED_REWOUND), (REWOUND, SWAPPED_REWOUND)
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
      intervene: One of `INTERVENTIONS`.
      intervened: Whether the episode got as far as the intervention; None without one.
      donor_cue: Cue of the swapped-in memory's episode; None without a swap.
      followed: Whether the commit is what the donor's cue demands; None without a swap.
      train_seed: Seed of the training run, where known.
      keyframes: How many keyframes were ``reached``, reached by ``contact``, ``stalled``, out of
        time (``timeout``) or ``clipped`` to the workspace; None for other actions.
      state_filled: Bytes of that memory in use at the end; None where it is elsewhere.
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
    keyframes: dict[str, int] | None = None
    state_filled: int | None = None

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


def read_results(directory: Path) -> dict[str, Any]:
    """Reads ``results.json`` of an evaluation directory.

    Raises:
      DataError: If it is missing, broken or of another version.
    """
    results = read_json(directory / RESULTS)
    version = results.get("format_version") if isinstance(results, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{directory / RESULTS} has format version {version!r}, expected {FORMAT_VERSION}; "
            "remove the directory and evaluate again, or use the package that wrote it"
        )
    return results


def write_episodes(path: Path, episodes: Iterable[EpisodeResult]) -> None:
    """Writes one JSON line an episode, atomically."""
    write_atomic(path, "".join(json.dumps(e.to_json()) + "\n" for e in episodes))


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


def read_role(
    directory: Path, results: Mapping[str, Any], role: str = "policy"
) -> list[EpisodeResult]:
    """Reads all episodes of one role of an evaluation directory.

    Args:
      directory: The evaluation directory.
      results: Its `read_results`.
      role: ``"policy"``, or ``"twin"`` for the twin evaluated beside it.

    Raises:
      DataError: If they are not as many as the results say of each task and intervention.
    """
    path = directory / (EPISODES if role == "policy" else TWIN_EPISODES)
    episodes = read_episodes(path)
    there = Counter((e.task, e.level, e.intervene) for e in episodes)
    told: Counter[tuple[str, str, str]] = Counter()
    for row in results["rows"]:
        if row["role"] == role:
            told[row["task"], row["level"], row["intervene"]] += row["n"]
    if there != told:
        odd = min(key for key in there | told if there[key] != told[key])
        raise DataError(
            f"{path} holds {there[odd]} episodes of {' '.join(odd)}, {RESULTS} tells of "
            f"{told[odd]}: one of them is damaged or edited. Evaluate again"
        )
    return episodes
