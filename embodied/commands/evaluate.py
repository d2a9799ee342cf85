"""``embodied evaluate``: fresh episodes, intervals, the twin beside, interventions, a report."""

from __future__ import annotations

from embodied.commands.base import Command, command_line, finish, percent, table
from embodied.evaluate.api import RESULTS, EvaluateConfig, run_evaluation
from embodied.evaluate.results import read_json


def run(options: EvaluateConfig) -> None:
    """Evaluates, prints one line a row and where the report is."""
    out = run_evaluation(options)
    print(summary(read_json(out / RESULTS)))
    finish(out, command_line("embodied", "play", f"policy={options.source}"))


def summary(results: dict) -> str:
    """Returns the rows of ``results.json`` as a table."""
    header = ("task", "memory", "intervene", "n", "success", "95 % interval", "ceiling",
              "committed", "followed")  # fmt: skip
    rows = [
        (
            row["task"],
            row["memory"],
            row["intervene"],
            row["n"],
            percent(row["success"]),
            f"{percent(row['low'])} .. {percent(row['high'])}",
            percent(row["ceiling"]),
            percent(row["commit_rate"]),
            percent(row["swap_followed"]),
        )
        for row in results["rows"]
    ]
    return table(header, rows)


COMMAND = Command(
    run,
    EvaluateConfig,
    positional=("source",),
    examples=(
        "evaluate runs/remember_color-easy-rgb-perceptual_cognitive-s0",
        "evaluate runs/a episodes=300 intervene=swapped",
        "evaluate runs/a twin=runs/remember_color-easy-rgb-none-s0 intervene=none,swapped",
        "evaluate runs/a level=medium workers=2 videos=6",
    ),
)
