"""Numbers and tables as text, the same in every report."""

from __future__ import annotations

from collections.abc import Sequence

NOTE = (
    "The tasks are independent re-creations: these scores never stand in one column with scores "
    "published on the originals. Intervals are Wilson's 95 %. The ceiling c* is the best success "
    'of any policy without memory, "c*, clock" that of one which reads a clock running since the '
    "reset (bounds of it; a dash where no certificate tells); M = (success - c*) / (expert - c*)."
)

CLOCK = "c*, clock"
"""Head of the column beside the ceiling."""


def percent(value: float | None) -> str:
    """Returns a fraction as a percentage with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Returns an interval of fractions."""
    return "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"


def bounds(low: float | None, high: float | None) -> str:
    """Returns what lies between two fractions: one percentage where they are the same."""
    return percent(low) if low == high else f"{interval(low, high)} %"


def number(value: float | None) -> str:
    """Returns a number with two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def tenths(value: float | None) -> str:
    """Returns a number with one decimal, or a dash."""
    return "–" if value is None else f"{value:,.1f}"


def whole(value: float | None) -> str:
    """Returns a whole number with commas, or a dash."""
    return "–" if value is None else f"{value:,.0f}"


def kind(failure: str) -> str:
    """Returns a kind of failure in words."""
    return failure.replace("_", " ") or "undecided"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
