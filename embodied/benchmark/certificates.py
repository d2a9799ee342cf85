"""A task's stored certificates, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embodied.report.text import bounds, interval, percent

POOR = {"write_once": "a memory that keeps what it first wrote and never updates it (write once)"}
"""Baselines of tasks, in words."""


def sentences(
    certificate: Mapping[str, Any] | None, level: str, knobs: Mapping[str, Any]
) -> list[str]:
    """Returns what the certificates of a level say.

    Args:
      certificate: Of `registry.certificate`; None where a task has none.
      level: Level name.
      knobs: All knobs in force.
    """
    proof = (certificate or {}).get("levels", {}).get(level)
    if proof is None:
        return ["No certificate is stored; `embodied certify` makes one."]
    if proof["knobs"] != dict(knobs):
        return [f"None is stored for these knobs; those of {level} hold for its own."]
    lines = [_ceiling(proof["ceiling"])]
    for name, value in proof["ceiling"].get("baselines", {}).items():
        what = POOR.get(name, f"a poor memory ({name.replace('_', ' ')})")
        lines.append(f"The best success of {what}: {percent(value)}.")
    for control, found in proof["aliasing"].items():
        pairs = sum(behaviour["pairs"] for behaviour in found["behaviours"].values())
        gate = proof["gate"][control]
        equal = "equal to the last bit" if found["holds"] else "NOT equal"
        shows = "never shows" if gate["holds"] else "SHOWS"
        lines.append(
            f"Under {control}: {pairs} pairs of rollouts with different cues are {equal} at go; "
            f"what was corrupted before a gate {shows} after it ({gate['corruptions']} attempts)."
        )
    for control, found in proof.get("onward", {}).items():
        equal = "equal to the last bit" if found["holds"] else "NOT equal"
        lines.append(
            f"Under {control}, a motion of one cue done again from {found['gates']} other gates is "
            f"{equal} over {found['ticks']:,} ticks, until something is decided."
        )
    for control, attacks in proof.get("attack", {}).items():
        for sees, attack in attacks.items():
            tried = f"{attack['candidates']} manners of pushing leave"
            if not attack["candidates"]:
                tried = "the arm is held until go, so that it can't push; what shows there leaves"
            lines.append(
                f"Under {control}, an attacker that sees {sees} and tries to carry the cue through "
                f"the gate: {tried} "
                f"{'nothing' if attack['holds'] else 'SOMETHING'}; {percent(attack['accuracy'])} "
                f"of its answers are right ({interval(attack['low'], attack['high'])}), by "
                f"guessing {percent(attack['chance'])}."
            )
    for control, twin in proof["reactive"].items():
        lines.append(
            f"Under {control}, with the cue left in sight: ceiling {percent(twin['ceiling'])}."
        )
    for control, kept in proof.get("window", {}).items():
        lines.append(
            f"Under {control}, {kept['label']}: the first frame alone suffices in "
            f"{percent(kept['first'])}. Of at least {kept['history_ticks']} ticks the last "
            f"{kept['last_ticks']} solve all, or the first and the last "
            f"{kept['first_and_last_ticks']}."
        )
    for name, expert in proof["expert"].items():
        lines.append(
            f"Expert, {name.replace('_', ', ')}: {expert['successes']} of {expert['episodes']} "
            f"({interval(expert['low'], expert['high'])})."
        )
    return lines


def _ceiling(ceiling: Mapping[str, Any]) -> str:
    clock = ceiling["time_aware"]
    how = "exactly" if ceiling["exact"] else "NOT exactly"
    return (
        f"Ceiling without memory: {ceiling['value']} = {percent(ceiling['c_star'])}, solved {how} "
        f"on {ceiling['states']} states; of a policy that reads a clock running since the reset: "
        f"{bounds(**clock)}."
    )
