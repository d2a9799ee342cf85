"""What the levels of most tasks share: functions of the knobs for their rows, and checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embodied.core.errors import ConfigError

COMMON_KNOBS: dict[str, Any] = {
    "gap_min_s": 2.0,
    "gap_max_s": 4.0,
    "busy": 0.0,
    "hidden_phase": 0,
    "visible_cue": 0,
}
"""Knobs of every task: the gap's range in seconds (its length is drawn from the seed),
`busy` 0..1 (how much happens in the gap), `hidden_phase` 1 (the lamp stays dark; reported
apart), `visible_cue` 1 (the cue stays in sight: the reactive twin)."""

GAPS = {
    "easy": {"gap_min_s": 2.0, "gap_max_s": 4.0, "busy": 0.0},
    "medium": {"gap_min_s": 3.0, "gap_max_s": 8.0, "busy": 0.0},
    "hard": {"gap_min_s": 5.0, "gap_max_s": 15.0, "busy": 0.5},
    "extreme": {"gap_min_s": 10.0, "gap_max_s": 30.0, "busy": 1.0},
}


def four(
    easy: Mapping[str, Any],
    medium: Mapping[str, Any],
    hard: Mapping[str, Any],
    extreme: Mapping[str, Any],
    **shared: Any,
) -> dict[str, dict[str, Any]]:
    """Returns the four named levels with the gaps that every task has.

    Args:
      easy: The task's own knobs at that level; likewise the other three.
      medium: See `easy`.
      hard: See `easy`.
      extreme: See `easy`.
      **shared: The task's knobs that are the same at all levels, ``cue_s`` and ``execute_s``
        among them; a level's own go before.
    """
    own = {"easy": easy, "medium": medium, "hard": hard, "extreme": extreme}
    return {name: {**COMMON_KNOBS, **shared, **GAPS[name], **own[name]} for name in GAPS}


# Functions at module level, so that a vector environment's workers get them.
def one_in_k(knobs: Mapping[str, Any]) -> float:
    """Returns the ceiling of one choice among `K`; with the cue in sight it is 1."""
    return 1.0 if knobs["visible_cue"] else 1.0 / knobs["K"]


def k_cues(knobs: Mapping[str, Any]) -> int:
    """Returns `K`: as many cue values as candidates."""
    return int(knobs["K"])


def horizon_s(knobs: Mapping[str, Any]) -> float:
    """Returns the longest episode in seconds: cue phase, gap and execute phase."""
    return knobs["cue_s"] + knobs["gap_max_s"] + knobs["execute_s"]


def check_whole(task: str, knobs: Mapping[str, Any], name: str, low: int, high: int) -> None:
    """Checks that a knob is a whole number from `low` to `high`.

    Raises:
      ConfigError: If it isn't; says the range.
    """
    value = knobs[name]
    if not low <= value <= high or value != int(value):
        raise ConfigError(f"knob {name} of {task}: expected {low} to {high}, got {value}")
