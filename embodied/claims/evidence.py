"""What published claims prove of one task: certificates 3 (networks without memory) and 6 (swaps).

The exact certificates of a task are computed from the task alone. That no trained network without
memory gets beyond the ceiling, and that one with memory follows a memory that was exchanged, can
only be measured; here are the claims in which it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.claims.index import SWAPPED_EPISODES, read_index, results_root
from embodied.core.files import read_json
from embodied.evaluate import stats
from embodied.evaluate.results import NONE, read_episodes
from embodied.evaluate.summary import ABLE_COMMIT_RATE, swap_summary
from embodied.evaluate.twins import MEMORYLESS
from embodied.report.text import interval, percent


def sentences(
    task: str, level: str, knobs: Mapping[str, Any], root: Path | None = None
) -> list[str]:
    """Returns a line for each claim that measured the task.

    Args:
      task: Task name.
      level: Level name.
      knobs: Of that level; results under other knobs say nothing of it.
      root: Directory of results; by default the published ones.
    """
    root, lines = root or results_root(), []
    for claim in read_index(root):
        if claim["intervene"] != NONE:
            continue  # a memory that was tampered with proves nothing, and its plain rows are told
        rows = [
            row
            for file in sorted((root / claim["id"]).glob("evaluation-*.json"))
            for row in read_json(file)["rows"]
            if (row["task"], row["level"], row["knobs"]) == (task, level, dict(knobs))
            and row["memory"] == claim["memory"]
            and row["intervene"] == NONE
            and not row["privileged"]
        ]
        if rows:
            lines.append(_line(claim, rows, _swaps(root / claim["id"], task, level)))
    return lines


def _swaps(folder: Path, task: str, level: str) -> tuple[int, int]:
    """Returns how many memories of a claim were followed, and how many were swapped."""
    # Swaps may come from other evaluations than the claim's own, so its rows don't have them all.
    file = folder / SWAPPED_EPISODES
    episodes = read_episodes(file) if file.exists() else []
    found = swap_summary([e for e in episodes if (e.task, e.level) == (task, level)])
    return found["followed"], found["swapped"]


def _line(claim: dict[str, Any], plain: list[dict[str, Any]], swaps: tuple[int, int]) -> str:
    wins, n = sum(row["successes"] for row in plain), sum(row["n"] for row in plain)
    said = (
        f"`{claim['id']}`: {claim['policy']} from {claim['observation']} succeeds in "
        f"{percent(wins / n)} ({interval(*stats.wilson(wins, n))}, n = {n:,})"
    )
    if claim["memory"] == MEMORYLESS:
        commits = sum(row["commit_rate"] * row["n"] for row in plain) / n
        found = stats.equivalence(wins, n, plain[0]["ceiling"])
        able = "" if commits >= ABLE_COMMIT_RATE else ", no able control"
        return f"{said} without memory and commits in {percent(commits)}{able}; {found.verdict}."
    said += f" with memory {claim['memory']}"
    followed, swapped = swaps
    if swapped:
        said += f", and follows a swapped memory in {followed} of {swapped}"
    return f"{said}."
