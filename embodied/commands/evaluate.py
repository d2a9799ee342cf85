"""``embodied evaluate``: fresh episodes, intervals, the twin beside, interventions, a report."""

from __future__ import annotations

from typing import Any

from embodied.commands.base import Command, command_line, finish, table
from embodied.core.files import read_json
from embodied.evaluate import report
from embodied.evaluate.config import EvaluateConfig

COLUMNS = ("task", "memory", "intervention", "success", "95 % interval", "ceiling c*", "commits",
           "swap followed", "n")  # fmt: skip


def run(options: EvaluateConfig) -> None:
    """Evaluates, prints one line a row and where the report is."""
    from embodied.evaluate.api import RESULTS, run_evaluation

    out = run_evaluation(options)
    print(summary(read_json(out / RESULTS)))
    finish(out, command_line("embodied", "play", f"policy={options.source}"))


def summary(results: dict[str, Any]) -> str:
    """Returns the rows of ``results.json`` as a table that fits a terminal, and process rates."""
    kept = [report.HEADER.index(name) for name in COLUMNS]
    rows = [report.cells(row) for row in results["rows"]]
    lines = [table(COLUMNS, [[row[i] for i in kept] for row in rows])]
    for row in results["rows"]:
        if row.get("process"):
            lines += [f"{row['task']}: {told}" for told in report.process_sentences(row["process"])]
    return "\n".join(lines)


COMMAND = Command(
    run,
    EvaluateConfig,
    positional=("source",),
    examples=(
        "evaluate runs/remember_color-easy-rgb-perceptual_cognitive-s0",
        "evaluate runs/a episodes=300 intervene=swapped",
        "evaluate runs/a twin=runs/remember_color-easy-rgb-none-s0 intervene=none,swapped",
        "evaluate runs/a level=medium workers=2 videos=6",
        "evaluate ws://127.0.0.1:8000 episodes=100",
    ),
)
