"""Rivals measured in turns, so that a slow minute of the machine hits all of them alike."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from embodied.commands.base import table
from embodied.evaluate.provenance import cpu_model

Slice = Callable[[float], tuple[float, float]]
"""``slice(seconds)`` works for about that long and returns (units done, seconds spent on them)."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
      rounds: Turns of each rival, after one that is not counted.
      slice_s: Seconds of a turn.
    """

    rounds: int
    slice_s: float


QUICK, FULL = Plan(3, 0.3), Plan(9, 1.5)


@dataclasses.dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
      name: Key of the JSON line.
      ours: A value for each round.
      other: The rival's values, or None without one.
      unit: Unit of both.
      what: What is compared with what.
    """

    name: str
    ours: Sequence[float]
    other: Sequence[float] | None
    unit: str
    what: str

    def to_json(self) -> dict[str, float | str]:
        """Returns the figure's medians in four digits, and their ratio ours / other."""
        ours = statistics.median(self.ours)
        if self.other is None:
            return {"ours": _digits(ours), "unit": self.unit}
        other = statistics.median(self.other)
        return {
            "ours": _digits(ours),
            "other": _digits(other),
            "ratio": _digits(ours / other),
            "unit": self.unit,
        }


def take_turns(rivals: Mapping[str, Slice], plan: Plan) -> dict[str, list[float]]:
    """Runs the rivals A B C A B C ... and returns each one's units a second, a value a round."""
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(plan.rounds + 1):
        for name, work in rivals.items():
            units, seconds = work(plan.slice_s)
            if turn:  # the first one warms caches, allocators and lazy imports
                rates[name].append(units / seconds)
    return rates


def repeat(once: Callable[[], object], units: float = 1.0) -> Slice:
    """Returns a slice that calls `once` until its time is up; a call does `units`."""

    def work(seconds: float) -> tuple[float, float]:
        calls, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not calls:
            once()
            calls += 1
        return calls * units, spent

    return work


def milliseconds(rates: Iterable[float]) -> list[float]:
    """Turns rates per second into milliseconds for one."""
    return [1000.0 / rate for rate in rates]


def report(figures: Sequence[Figure]) -> str:
    """Returns the table (medians, ± the round furthest from it) and the JSON line."""
    values = {figure.name: figure.to_json() for figure in figures}
    rows = [
        [
            figure.name,
            _spread(figure.ours),
            _spread(figure.other) if figure.other else "",
            values[figure.name].get("ratio", ""),
            figure.unit,
            figure.what,
        ]
        for figure in figures
    ]
    header = ["figure", "ours", "other", "ratio", "unit", "what"]
    return table(header, rows) + "\n" + json.dumps(values)


def machine_line() -> str:
    """Returns what is measured on, with a warning if the machine is busy."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    line = f"{cpu_model()}, {cores} cores, one thread, load average {load:.1f}"
    if load > 0.3:
        line += "\nwarning: other programs are running; times taken now are too long"
    return line


def _spread(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    apart = max(abs(value - middle) for value in values)
    return f"{_digits(middle):g} ±{100 * apart / middle:.0f} %"


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
