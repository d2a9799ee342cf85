"""``report.html`` of a benchmark: leaderboard, what each task is and proves, and what memory held.

One file, but for the videos, which lie beside it; see `embodied.report.html`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embodied import registry
from embodied.benchmark import certificates, table
from embodied.benchmark.config import BenchmarkConfig
from embodied.benchmark.places import line_of
from embodied.benchmark.record import Record
from embodied.benchmark.table import Line, Place
from embodied.claims import evidence
from embodied.core.files import write_atomic
from embodied.evaluate.process import STAGES
from embodied.evaluate.results import EPISODES, read_episodes, read_results
from embodied.evaluate.scrubber import Looks
from embodied.report import html
from embodied.report.html import Html, element
from embodied.report.text import NOTE, interval, kind, percent

FILE = "report.html"


def write(
    out: Path,
    config: BenchmarkConfig,
    record: Record,
    lines: Sequence[Line],
    told: Sequence[dict[str, Any]],
    looks: Sequence[Path],
) -> None:
    """Writes the page.

    Args:
      out: Directory of the benchmark.
      config: What was asked for.
      record: What this and earlier calls asked for.
      lines: Of `table.read`.
      told: The same as plain data, of `table.write`.
      looks: Evaluation directories that explain episodes.
    """
    seen = Looks()
    videos: dict[Place, list[tuple[str, str]]] = {}
    for directory in looks:
        memory, _ = line_of(directory)
        found = [row for row in read_results(directory)["rows"] if row["role"] == "policy"]
        rows = [{**row, "memory": memory} for row in found]
        seen.add(directory, rows, read_episodes(directory / EPISODES))
        for row in rows:
            films = videos.setdefault((row["task"], row["level"]), [])
            label = f"{row['memory']}, memory: {row['intervene']}"
            films += [(str((directory / v).relative_to(out)), label) for v in row["videos"]]
    parts: list[object] = [element("p", NOTE, class_="note"), *_leaderboard(told)]
    parts.append(element("h2", "Tasks"))
    for place in dict.fromkeys(config.settings()):
        parts.append(_task(place, lines, seen, videos.get(place, [])))
    if seen.episodes:
        parts.append(seen.section())
    parts += [
        element("h2", "Commands"),
        html.items(_unmarked(table.commands(config, record, told))),
    ]
    title = f"{config.policy} with each memory"
    data = seen.data() if seen.episodes else None
    write_atomic(out / FILE, html.document(title, *parts, data=data))


def _leaderboard(told: Sequence[dict[str, Any]]) -> list[Html]:
    if not told:
        return [element("p", "No cell is done yet.")]
    bars = [
        html.Bar(
            line["memory"],
            line["success"],
            line["low"],
            line["high"],
            line["ceiling"],
            control=line["memory"] == "none",
        )
        for line in told
    ]
    rows = [
        [name.text.strip("`"), *(html.Cell(entry.text, entry.value) for entry in entries)]
        for name, *entries in table.body(told)
    ]
    parts = [
        html.chart(bars),
        html.table(table.header(told), rows, name="Leaderboard; a head sorts by its column"),
    ]
    for column in (None, *table.beyond(told)):
        heads, cells = table.by_task(told, column)
        name = f"Beyond training: {column}" if column else "By task"
        parts.append(html.table([h.strip("`") for h in heads], cells, name=name))
    return parts


def _task(
    place: Place, lines: Sequence[Line], looks: Looks, films: Sequence[tuple[str, str]]
) -> Html:
    task, level = place
    info = registry.task_info(task)
    text, instructions = registry.task_words(task)
    done = [row for line in lines for row in line.of(place)]
    knobs = done[0]["knobs"] if done else info.knobs(level)  # words of a command may change them
    shown = ", ".join(f"{key} {value}" for key, value in knobs.items())
    parts: list[object] = [
        element("summary", f"{task} {level}: {info.summary}"),
        *(element("p", paragraph.replace("``", "")) for paragraph in text.split("\n\n")),
        element("p", "Instructions: ", "; ".join(f"“{said}”" for said in instructions)),
        element("p", f"{info.env_id}, {shown}.", class_="note"),
        element("h3", "Certificates"),
        html.items(_unmarked(certificates.sentences(registry.certificate(task), level, knobs))),
        *_published(task, level, knobs),
        element("h3", "Memories"),
        _results(place, lines, looks),
    ]
    if films:
        videos = [html.video(path, label) for path, label in films]
        parts += [element("h3", "Videos"), element("div", *videos, class_="videos")]
    return element("details", *parts)


def _published(task: str, level: str, knobs: Mapping[str, Any]) -> list[Html]:
    """Returns what trained networks have shown of the task, if any was published."""
    lines = evidence.sentences(task, level, knobs)
    return [element("h3", "Published claims"), html.items(_unmarked(lines))] if lines else []


def _results(place: Place, lines: Sequence[Line], looks: Looks) -> Html:
    """Returns what each memory does in one task, and how it fails."""
    done = [(line, rows) for line in lines if (rows := line.of(place))]
    kinds = sorted({name for _, rows in done for row in rows for name in row["failure_kinds"]})
    measured = any(row["process"] for _, rows in done for row in rows)
    stages = STAGES if measured else ()
    body = []
    for line, rows in done:
        sums: Counter[str] = Counter()
        for row in rows:
            sums.update(row["failure_kinds"])
        whole = table.place_summary(rows)
        process = table.process_summary(rows) or dict.fromkeys(STAGES)
        body.append(
            [
                line.memory,
                html.Cell(percent(whole["success"]), whole["success"]),
                html.Cell(interval(whole["low"], whole["high"]), whole["low"]),
                *(html.Cell(percent(process[stage]), process[stage]) for stage in stages),
                *(html.Cell(str(sums[name]), sums[name]) for name in kinds),
                html.Cell(str(whole["n"]), whole["n"]),
                _look(looks.index_of(*place, line.memory), line.memory),
            ]
        )
    failures = [f"failed: {kind(name)}" for name in kinds]
    head = ["memory", "success", "95 % interval", *stages, *failures, "n", "an episode"]
    return html.table(head, body, name=f"{place[0]} {place[1]}")


def _look(index: int | None, memory: str) -> Html | str:
    if index is None:
        return "–"
    said = f"look into an episode of {memory}"
    return element("a", "look", href="#inspector", data_episode=index, aria_label=said)


def _unmarked(lines: Sequence[str]) -> list[Html]:
    """Returns lines of Markdown with their code as elements."""
    made = []
    for line in lines:
        pieces = line.strip().removeprefix("- ").split("`")
        shown = [element("code", p) if i % 2 else html.together(p) for i, p in enumerate(pieces)]
        made.append(html.together(*shown))
    return made
