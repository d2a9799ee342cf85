"""Published claims: rows of ``results/index.json`` with everything needed to replay them.

Beside the index, ``results/<id>/`` holds the claim's per-episode rows (``episodes.jsonl``, and
``swapped_episodes.jsonl`` where memories were swapped), the evaluations they come from
(``evaluation-<training seed>.json``), the training configuration (``config.yaml``, and
``init-<n>.yaml`` of the runs whose weights it started from), a report, and for headline claims a
checkpoint. Reading the index needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError, DataError, unknown_name
from embodied.core.files import read_json
from embodied.evaluate.results import EpisodeResult, read_episodes

INDEX = "index.json"
EPISODES, SWAPPED_EPISODES = "episodes.jsonl", "swapped_episodes.jsonl"
CHECKPOINT = "checkpoint"

FIELDS = (
    "id", "task", "level", "knobs", "policy", "memory", "intervene", "control", "visuals",
    "observation", "success", "n", "low", "high", "ceiling", "expert", "score", "commit_rate",
    "swap_followed", "twin", "state_bytes", "train_seeds", "eval_seeds", "batch", "command",
    "commit", "checkpoint",
)  # fmt: skip
"""Every row has every field; null where it can't apply. Rates are fractions, the interval is
Wilson's 95 %, `twin` names the twin's claim, `checkpoint` is a folder below ``results/``."""


def results_root() -> Path:
    """Returns the directory of published results: of the clone, else of the working directory."""
    clone = Path(__file__).resolve().parents[2] / "results"
    return clone if clone.is_dir() else Path("results")


def read_index(root: Path | None = None) -> list[dict[str, Any]]:
    """Returns all claims; none where nothing has been published.

    Raises:
      DataError: If a row lacks a field or has an unknown one.
    """
    file = (root or results_root()) / INDEX
    if not file.exists():
        return []
    rows = read_json(file)
    for row in rows:
        if set(row) != set(FIELDS):
            odd = sorted(set(row) ^ set(FIELDS))
            raise DataError(f"{file}: claim {row.get('id')!r} differs in the fields {odd}")
    return rows


def find_claim(name: str, root: Path | None = None) -> dict[str, Any]:
    """Returns the claim called `name`; an unknown one is refused with the nearest match."""
    rows = {row["id"]: row for row in read_index(root)}
    if name not in rows:
        raise unknown_name("claim", name, rows)
    return rows[name]


def claim_episodes(row: Mapping[str, Any], folder: Path) -> list[EpisodeResult]:
    """Returns a claim's episodes.

    Args:
      row: Its row of the index.
      folder: Where its files are.

    Raises:
      DataError: If they are not as many as its row says.
    """
    episodes = read_episodes(folder / EPISODES)
    if len(episodes) != row["n"]:
        raise DataError(
            f"{folder / EPISODES} holds {len(episodes)} episodes, the claim {row['id']!r} is about "
            f"{row['n']}: one of them is damaged or edited. Restore the folder, or publish again"
        )
    return episodes


def claim_checkpoint(name: str, root: Path | None = None) -> Path:
    """Returns the checkpoint directory that a claim ships.

    Raises:
      ConfigError: If the claim ships none.
    """
    root = root or results_root()
    row = find_claim(name, root)
    if row["checkpoint"] is None:
        raise ConfigError(
            f"claim {name!r} ships no checkpoint; train it again from results/{name}/config.yaml"
        )
    return root / row["checkpoint"]
