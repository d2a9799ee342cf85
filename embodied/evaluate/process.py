"""Where memory fails: was the cue stored, kept over the gap, recalled at go, and acted on?

Found by intervention, not by probing. At go, where all observations are equal whatever the cue was,
the memory is exchanged, and only what is done then counts:

* *stored*: own memory as it was when the cue phase ended, against the donor's of that moment, lead
  to different commits. What happened to it later plays no part.
* *kept*: own memory of go against the donor's of go lead to different commits.
* *recalled*: the commit is the right one, whether or not it was carried out well.
* *executed*: the episode succeeds, among those that did not commit to something wrong.

An episode that fails is blamed on the first of these that it fails in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from embodied.core.errors import DataError
from embodied.evaluate.results import NONE, REWOUND, SWAPPED, SWAPPED_REWOUND, EpisodeResult
from embodied.evaluate.stats import wilson

NEEDED = (NONE, SWAPPED, REWOUND, SWAPPED_REWOUND)
"""Interventions whose episodes tell the rates."""

STAGES = STORED, KEPT, RECALLED, EXECUTED = ("stored", "kept", "recalled", "executed")
_WRONG = ("wrong_choice", "early_commit")


def process_rates(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Returns the rate of each stage and what failures are blamed on.

    Args:
      episodes: Rows of one task and level under all of `NEEDED`; seeds that all of them have
        count.

    Returns:
      For each of `STAGES` ``{n, k, rate, low, high}`` (95 % Wilson; `n` leaves out episodes
      that could not tell, and `rate` is None where none could), and ``blamed``: stage -> failed
      episodes.

    Raises:
      DataError: If an intervention is missing.
    """
    by_kind: dict[str, dict[int, EpisodeResult]] = {kind: {} for kind in NEEDED}
    for episode in episodes:
        if episode.intervene in by_kind:
            by_kind[episode.intervene][episode.seed] = episode
    seeds = set.intersection(*(set(rows) for rows in by_kind.values()))
    if not seeds:
        missing = [kind for kind, rows in by_kind.items() if not rows]
        raise DataError(
            f"process rates need the same seeds under {', '.join(NEEDED)}; missing: "
            f"{', '.join(missing) or 'a common seed'}"
        )
    told: dict[str, list[bool]] = {stage: [] for stage in STAGES}
    blamed: Counter[str] = Counter()
    for seed in sorted(seeds):
        passed = _stages(*(by_kind[kind][seed] for kind in NEEDED))
        for stage, value in passed.items():
            if value is not None:
                told[stage].append(value)
        if not by_kind[NONE][seed].success:
            blamed[next(stage for stage in STAGES if passed[stage] is False)] += 1
    return {**{stage: _rate(told[stage]) for stage in STAGES}, "blamed": dict(blamed)}


def _stages(
    plain: EpisodeResult,
    swapped: EpisodeResult,
    rewound: EpisodeResult,
    both: EpisodeResult,
) -> dict[str, bool | None]:
    """Returns whether the episode passed each stage; None where it can't tell."""
    wrong = plain.failure_kind in _WRONG
    acted = plain.committed or wrong
    return {
        STORED: _differ(rewound, both) if acted else None,
        KEPT: _differ(plain, swapped) if acted else None,
        RECALLED: not wrong if acted else None,
        EXECUTED: None if wrong else plain.success,
    }


def _differ(own: EpisodeResult, donors: EpisodeResult) -> bool | None:
    """Returns whether two memories lead to different commits; None where one leads to none."""
    if not (own.committed and donors.committed) or donors.donor_cue is None:
        return None
    return own.commit != donors.commit


def _rate(passed: Sequence[bool]) -> dict[str, Any]:
    if not passed:
        return {"n": 0, "k": 0, "rate": None, "low": None, "high": None}
    low, high = wilson(sum(passed), len(passed))
    return {
        "n": len(passed),
        "k": sum(passed),
        "rate": sum(passed) / len(passed),
        "low": low,
        "high": high,
    }
