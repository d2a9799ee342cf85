"""The table of a benchmark: a line a memory, pooled over its training seeds and all tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from embodied import registry
from embodied.benchmark.config import BenchmarkConfig
from embodied.benchmark.places import BEYOND, RUN, line_of
from embodied.benchmark.record import Record
from embodied.core.files import write_atomic, write_json
from embodied.evaluate.process import STAGES
from embodied.evaluate.results import (
    NONE,
    RESULTS,
    EpisodeResult,
    read_results,
    read_role,
)
from embodied.evaluate.stats import clustered_paired, wilson
from embodied.report.text import (
    CLOCK,
    NOTE,
    bounds,
    interval,
    markdown_table,
    number,
    percent,
    tenths,
    whole,
)
from embodied.train.logger import cpu_seconds, read_metrics

REFERENCE = "full_history"
"""Every memory is compared with it on the same seeds, where it is in the table."""

Place = tuple[str, str]
"""Task and level."""


@dataclasses.dataclass
class Line:
    """What a memory came to.

    Attributes:
      memory: Its name.
      rows: Training seed -> result rows of `evaluate`, a row a task.
      episodes: Training seed -> episodes without intervention.
      parameters: Of the policy.
      step_ms: Training seed -> time of one decision; None where it is not known.
      cpu_s: Training seed -> CPU seconds of the training; None where they are not known.
      own: Words that it alone was trained with; None where they are not known.
      beyond: Column -> result rows of episodes unlike those of training, of all training seeds.
    """

    memory: str
    rows: dict[int, list[dict[str, Any]]]
    episodes: dict[int, list[EpisodeResult]]
    parameters: int
    step_ms: dict[int, float | None] = dataclasses.field(default_factory=dict)
    cpu_s: dict[int, float | None] = dataclasses.field(default_factory=dict)
    own: Sequence[str] | None = None
    beyond: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)

    def of(self, place: Place | None = None) -> list[dict[str, Any]]:
        """Returns the rows of one task, or all."""
        rows = [row for some in self.rows.values() for row in some]
        return [row for row in rows if place in (None, (row["task"], row["level"]))]

    def outcomes(self, seed: int) -> dict[tuple[str, str, int], bool]:
        """Returns (task, level, episode seed) -> success of a training seed."""
        return {(e.task, e.level, e.seed): e.success for e in self.episodes[seed]}


def read(evaluations: Sequence[Path], record: Record) -> list[Line]:
    """Returns a line for each memory among evaluation directories, the best one first."""
    lines: dict[str, Line] = {}
    for directory in evaluations:
        results = read_results(directory)
        memory, seed = line_of(directory)
        empty = Line(
            memory, {}, {}, results["policy"]["parameters"], own=record.train_of.get(memory)
        )
        line = lines.setdefault(memory, empty)
        line.rows[seed] = _plain(results)
        line.step_ms[seed] = results["policy"].get("step_ms")
        line.cpu_s[seed] = cpu_seconds(read_metrics(directory.parent / RUN))
        line.episodes[seed] = [e for e in read_role(directory, results) if e.intervene == NONE]
        for column in record.beyond:
            other = directory.with_name(BEYOND.format(column))
            if (other / RESULTS).exists():
                line.beyond.setdefault(column, []).extend(_plain(read_results(other)))
    return sorted(lines.values(), key=lambda line: -_mean([r["success"] for r in line.of()]))


def _plain(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of the policy itself, whose memory nobody touched."""
    rows: list[dict[str, Any]] = results["rows"]
    return [row for row in rows if (row["role"], row["intervene"]) == ("policy", NONE)]


def write(
    out: Path, config: BenchmarkConfig, record: Record, lines: Sequence[Line]
) -> list[dict[str, Any]]:
    """Writes ``table.json`` and ``table.md``; returns the lines as plain data."""
    found = [summary(line, _reference(lines)) for line in lines]
    write_json(out / "table.json", {"tasks": [list(p) for p in config.settings()], "lines": found})
    write_atomic(out / "table.md", markdown(config, record, found))
    return found


def _reference(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.memory == REFERENCE), None)


def summary(line: Line, reference: Line | None) -> dict[str, Any]:
    """Returns a line as plain data."""
    rows = line.of()
    return {
        "memory": line.memory,
        "train_of": line.own,
        "seeds": sorted(line.rows),
        "parameters": line.parameters,
        **outcome(rows),
        "commit_rate": _mean([row["commit_rate"] for row in rows]),
        "state_bytes": max(row["state_bytes"] for row in rows),
        "state_filled": _all_known([row["state_filled"] for row in rows]),
        "step_ms": _all_known(list(line.step_ms.values())),
        "cpu_min": _all_known([s and s / 60 for s in line.cpu_s.values()]),
        "process": process_summary(rows),
        "paired": _paired(line, reference) if reference not in (None, line) else None,
        "beyond": {column: outcome(some) for column, some in line.beyond.items()},
    }


def outcome(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what result rows come to over all tasks and in each, as plain data."""
    wins, n = sum(row["successes"] for row in rows), sum(row["n"] for row in rows)
    low, high = wilson(wins, n)
    scores = [row["score"] for row in rows]
    places: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        places.setdefault(f"{row['task']} {row['level']}", []).append(row)
    return {
        "n": n,
        "success": wins / n,
        "low": low,
        "high": high,
        "ceiling": _mean([row["ceiling"] for row in rows]),
        "time_aware": time_aware(rows),
        "score": None if None in scores else _mean(scores),
        "by_task": {name: place_summary(some) for name, some in places.items()},
    }


def place_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns what the rows of one task come to, as plain data."""
    wins, n = sum(row["successes"] for row in rows), sum(row["n"] for row in rows)
    low, high = wilson(wins, n)
    facts = {key: rows[0][key] for key in ("ceiling", "expert")}
    facts["time_aware"] = time_aware(rows)
    return {"n": n, "success": wins / n, "low": low, "high": high, **facts}


def time_aware(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Returns mean bounds of the ceilings with a clock; None unless all are certified."""
    found = [registry.time_aware_ceiling(r["task"], r["level"], r["knobs"]) for r in rows]
    known = [pair for pair in found if pair is not None]
    if not known or len(known) < len(found):
        return None
    lows, highs = zip(*known, strict=True)
    return {"low": _mean(lows), "high": _mean(highs)}


def process_summary(rows: Sequence[dict[str, Any]]) -> dict[str, float | None] | None:
    """Returns the mean rate of each stage over tasks; None where it was not measured."""
    found = [row["process"] for row in rows]
    if None in found:
        return None
    return {stage: _all_known([process[stage]["rate"] for process in found]) for stage in STAGES}


def _paired(line: Line, reference: Line | None) -> dict[str, Any] | None:
    """Compares with the reference on the training and episode seeds that both have."""
    assert reference is not None
    pairs = []
    for seed in sorted(set(line.rows) & set(reference.rows)):
        own, other = line.outcomes(seed), reference.outcomes(seed)
        common = sorted(set(own) & set(other))
        if common:
            pairs.append(([own[key] for key in common], [other[key] for key in common]))
    if not pairs:
        return None
    found = clustered_paired(pairs)
    within = found.within[0]
    p_value = within.p_value if found.clusters == 1 else found.p_value
    return {
        "with": reference.memory,
        "seeds": found.clusters,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "p_value": p_value,
    }


def markdown(config: BenchmarkConfig, record: Record, lines: Sequence[dict[str, Any]]) -> str:
    """Returns ``table.md``."""
    text = [f"# {config.policy} with each memory", "", NOTE, ""]
    if not lines:
        return "\n".join([*text, "No cell is done yet."]) + "\n"
    text += markdown_table(header(lines), [[entry.text for entry in row] for row in body(lines)])
    text += ["", "## By task", ""]
    text += markdown_table(*by_task(lines))
    for column in beyond(lines):
        text += ["", f"## Beyond training: {column}", ""]
        text += markdown_table(*by_task(lines, column))
    text += ["", "## Commands", "", *commands(config, record, lines)]
    return "\n".join(text) + "\n"


class Entry(NamedTuple):
    """A cell: what it says, and the number that it stands for, if any."""

    text: str
    value: float | None = None


def header(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the heads of the table's columns."""
    stages = STAGES if _measured(lines) else ()
    head = ["memory", "seeds", "success", "95 % interval", "c*", CLOCK, "M", *beyond(lines)]
    head += ["commits", *stages]
    cost = ["step ms", "training, CPU min"]
    return [*head, "against full history", "bytes in use", "bytes", *cost, "parameters", "n"]


def body(lines: Sequence[dict[str, Any]]) -> list[list[Entry]]:
    """Returns the cells of the table, a row a line."""
    stages = STAGES if _measured(lines) else ()
    rows = []
    for line in lines:
        process, paired = line["process"] or dict.fromkeys(STAGES), line["paired"]
        rows.append(
            [
                Entry(f"`{line['memory']}`"),
                Entry(str(len(line["seeds"])), len(line["seeds"])),
                Entry(percent(line["success"]), line["success"]),
                Entry(interval(line["low"], line["high"]), line["low"]),
                Entry(percent(line["ceiling"]), line["ceiling"]),
                _clock(line["time_aware"]),
                Entry(number(line["score"]), line["score"]),
                *(_beyond(line, column) for column in beyond(lines)),
                Entry(percent(line["commit_rate"]), line["commit_rate"]),
                *(Entry(percent(process[stage]), process[stage]) for stage in stages),
                Entry(_difference(paired), paired and paired["difference"]),
                *(Entry(whole(line[key]), line[key]) for key in ("state_filled", "state_bytes")),
                *(Entry(tenths(line[key]), line[key]) for key in ("step_ms", "cpu_min")),
                *(Entry(whole(line[key]), line[key]) for key in ("parameters", "n")),
            ]
        )
    return rows


def _clock(found: Mapping[str, float] | None) -> Entry:
    return Entry("–") if found is None else Entry(bounds(**found), found["low"])


def beyond(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the columns of episodes unlike those of training that any line has."""
    return list(dict.fromkeys(column for line in lines for column in line["beyond"]))


def _beyond(line: dict[str, Any], column: str) -> Entry:
    found = line["beyond"].get(column, {"success": None})
    return Entry(percent(found["success"]), found["success"])


def by_task(
    lines: Sequence[dict[str, Any]], column: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """Returns the heads and the rows of what each memory does in each task.

    Args:
      lines: Lines as plain data.
      column: Of `beyond`; None for the episodes of the table itself.
    """
    of = [(line["beyond"].get(column, {}) if column else line).get("by_task", {}) for line in lines]
    rows = []
    for task in dict.fromkeys(task for tasks in of for task in tasks):
        known = [tasks.get(task) for tasks in of]
        first = next(place for place in known if place)
        shown = [
            "–" if p is None else f"{percent(p['success'])} ({interval(p['low'], p['high'])})"
            for p in known
        ]
        facts = [percent(first["ceiling"]), _clock(first["time_aware"]).text]
        rows.append([task, *facts, percent(first["expert"]), *shown])
    return ["task", "c*", CLOCK, "expert", *(f"`{line['memory']}`" for line in lines)], rows


def commands(config: BenchmarkConfig, record: Record, lines: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the commands of which the lines are made, in Markdown."""
    shared = config.training()
    text = [f"- `embodied train memory=M seed=S {' '.join(shared)}`, and of single memories:"]
    for line in lines:
        if line["train_of"] is None:
            text.append(f"  - `{line['memory']}`: unknown, as its runs are older than this record")
        elif line["train_of"]:
            words = config.training(line["train_of"])
            without = "".join(f", without `{word}`" for word in shared if word not in words)
            text.append(f"  - `{line['memory']}`: `{' '.join(line['train_of'])}`{without}")
    text.append(f"- `embodied evaluate RUN {' '.join(config.evaluating())}`")
    for column in beyond(lines):
        words = " ".join(config.going_beyond(record.beyond[column]))
        text.append(f"- {column}: `embodied evaluate RUN {words}`")
    return text


def _measured(lines: Sequence[dict[str, Any]]) -> bool:
    return any(line["process"] for line in lines)


def _difference(paired: dict[str, Any] | None) -> str:
    if paired is None:
        return "–"
    points = f"{100 * paired['difference']:+.1f}"
    if paired["low"] is not None:
        points += f" ({100 * paired['low']:+.1f} to {100 * paired['high']:+.1f})"
    elif paired["p_value"] is not None:
        points += f" (p = {paired['p_value']:.2g})"
    return points


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _all_known(values: Sequence[float | None]) -> float | None:
    """Returns the mean; None unless all are known."""
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None
