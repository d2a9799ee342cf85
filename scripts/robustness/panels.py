"""The robustness table for people: Markdown, and a picture with a panel for each disturbance."""

from __future__ import annotations

from html import escape
from typing import Any

from embodied.report.text import interval, percent
from robustness.grid import KINDS, MEMORY, PLAIN, TWIN, Cell

COLORS = {MEMORY: "#3b76c4", TWIN: "#d1622b"}
WIDTH, HEIGHT, COLUMNS = 300, 190, 2
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 34, 40
"""Pixels: size of a panel, panels in a row, room around its axes."""

Rows = dict[tuple[str, float, str], dict[str, Any]]


def by_cell(result: dict[str, Any]) -> Rows:
    """Returns the rows of a result by kind, level and role."""
    return {(row["kind"], row["level"], row["role"]): row for row in result["rows"]}


def markdown(result: dict[str, Any], picture: str) -> str:
    """Returns the table."""
    rows, roles = by_cell(result), list(result["policies"])
    seeds = result["rows"][0]["seeds"]
    lines = [
        "# Success under disturbance",
        "",
        f"{result['task']} ({result['level']}, {result['observation']}), {result['episodes']} "
        f"episodes a cell, seeds {seeds[0]} to {seeds[1]}, Wilson's 95 % intervals; the ceiling "
        f"without memory is {percent(result['ceiling'])}. {result['machine']}; "
        f"{result['created_utc']}; commit {result['commit']}. Command: `{result['command']}`.",
        "",
        *(f"- {role}: {d['path']} ({d['memory']})" for role, d in result["policies"].items()),
        "",
        f"![success under disturbance]({picture})",
        "",
        "`lost` and `won`: episodes of the same seeds that failed, or succeeded, only under the "
        "disturbance. What each disturbance is exactly is said in "
        "`scripts/robustness/disturb.py`.",
        "",
        "| disturbance | level | " + " | ".join(f"{role} | lost, won" for role in roles) + " |",
        "|---|---|" + "---|---|" * len(roles),
    ]
    for kind, level in dict.fromkeys((row["kind"], row["level"]) for row in result["rows"]):
        what = "none" if kind == PLAIN else f"`{kind}`: {KINDS[kind].what}"
        size = "" if kind == PLAIN else f"{level:g} {KINDS[kind].unit}"
        cells = []
        for role in roles:
            row = rows.get((kind, level, role))
            cells += ["–", "–"] if row is None else [
                f"{percent(row['success'])} ({interval(row['low'], row['high'])})",
                f"{row['lost']}, {row['won']}",
            ]  # fmt: skip
        lines.append("| " + " | ".join([what, size, *cells]) + " |")
    return "\n".join(lines) + "\n"


def picture(result: dict[str, Any]) -> str:
    """Returns an SVG: success over the level, a panel for each disturbance."""
    rows = by_cell(result)
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in result["rows"])]
    height = HEIGHT * -(-len(kinds) // COLUMNS) + 30
    parts = []
    for index, kind in enumerate(kinds):
        x, y = WIDTH * (index % COLUMNS), HEIGHT * (index // COLUMNS)
        parts.append(f'<g transform="translate({x} {y})">{_panel(kind, rows, result)}</g>')
    for index, role in enumerate(result["policies"]):
        x = LEFT + 160 * index
        parts.append(
            f'<circle cx="{x}" cy="{height - 14}" r="4" fill="{COLORS[role]}"/>'
            f'<text x="{x + 10}" y="{height - 10}">{role}</text>'
        )
    width = WIDTH * COLUMNS
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" font-size="11" role="img" '
        'aria-label="success under disturbance"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _panel(kind: str, rows: Rows, result: dict[str, Any]) -> str:
    known, plain = KINDS[kind], Cell(PLAIN, 0.0)
    levels = sorted({known.plain, *(level for name, level, _ in rows if name == kind)})
    step = (WIDTH - LEFT - RIGHT) / max(1, len(levels) - 1)
    x = {level: LEFT + step * number for number, level in enumerate(levels)}

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value)

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(kind.replace("_", " "))}</text>']
    for value in (0.0, 0.5, 1.0):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
            f'stroke="#d5d9de"/><text x="{LEFT - 8}" y="{y(value) + 4:.1f}" '
            f'text-anchor="end">{value:.0%}</text>'
        )
    ceiling = y(result["ceiling"])
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{ceiling:.1f}" y2="{ceiling:.1f}" '
        'stroke="#8c949e" stroke-dasharray="4 3"/>'
    )
    for level in levels:
        parts.append(
            f'<text x="{x[level]:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{level:g}</text>"
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - BOTTOM + 31}" '
        f'text-anchor="middle">{escape(known.unit)}</text>'
    )
    for role in result["policies"]:
        places = [
            (level, rows.get((plain.kind, plain.level, role) if level == known.plain
                             else (kind, level, role)))
            for level in levels
        ]  # fmt: skip
        parts.append(_curve([(x[lev], row) for lev, row in places if row], y, COLORS[role]))
    return "".join(parts)


def _curve(points: list[tuple[float, dict[str, Any]]], y: Any, color: str) -> str:
    path = " ".join(f"{x:.1f},{y(row['success']):.1f}" for x, row in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>']
    for x, row in points:
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(row["low"]):.1f}" y2="{y(row["high"]):.1f}" '
            f'stroke="{color}"/><circle cx="{x:.1f}" cy="{y(row["success"]):.1f}" r="3" '
            f'fill="{color}"/>'
        )
    return "".join(parts)
