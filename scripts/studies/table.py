"""The table and the picture of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from embodied.core.files import write_atomic
from embodied.report.text import interval, percent
from studies import facts
from studies import lines as data
from studies.study import Line, Study

COLORS = ("#3b76c4", "#d1622b", "#3f9142", "#8a56ac", "#8c6d31", "#c23b75")
ROW, LEFT, WIDTH, RIGHT = 22, 330, 360, 70
"""Pixels: height of a line, room for labels, length of the axis, room for numbers."""
Point = tuple[float, float, tuple[float, float]]
"""Place, share, and its interval."""


def write(directory: Path, study: Study, lines: Sequence[Line]) -> Path:
    """Writes ``README.md``, ``plot.svg`` and ``results.json``; returns the directory."""
    data.write(directory, study, lines)
    write_atomic(directory / "plot.svg", plot(study, lines))
    if study.axis:
        write_atomic(directory / "curves.svg", curves(study, lines))
    if facts.LEARNING.keys() & set(study.facts):
        write_atomic(directory / "learning.svg", learning(study, lines))
    write_atomic(directory / "README.md", markdown(study, lines))
    return directory


def markdown(study: Study, lines: Sequence[Line]) -> str:
    """Returns the table, the commands below it."""
    extras = list(dict.fromkeys(name for line in lines for name in line.extra))
    drawn = facts.LEARNING.keys() & set(study.facts)
    known = {name for line in lines for name in line.facts}
    told = [name for name in study.facts if name in known and name not in drawn]
    header = ["variant", "choice", "success", "95 % interval", "seeds"]
    swaps = any(line.followed is not None for line in lines)
    header += [*(["swap followed"] if swaps else []), *extras, *told]
    rows = [
        [
            f"`{line.variant.name}`",
            line.variant.what,
            percent(line.successes / line.n),
            interval(*line.interval),
            ", ".join(percent(value) for value in line.by_seed),
            *([percent(line.followed)] if swaps else []),
            *(percent(line.extra.get(name)) for name in extras),
            *(facts.text(name, line.facts.get(name, ())) for name in told),
        ]
        for line in lines
    ]
    text = [f"# {study.title}", "", study.about, "", "![success of each variant](plot.svg)", ""]
    if study.axis:
        text += [f"![success over {study.axis}](curves.svg)", ""]
    if drawn:
        text += ["![running success in training](learning.svg)", ""]
    text += ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    run = {line.variant.name for line in lines}
    missing = [variant.name for variant in study.variants if variant.name not in run]
    text += [
        "",
        f"{lines[0].n if lines else 0:,} episodes of fresh seeds for the first line; one training "
        "seed where a line has one figure. Intervals are Wilson's over episodes and know nothing "
        "of the spread between training seeds.",
        "",
        f"Training: `embodied train {' '.join(study.train)} seed=S`. Evaluation: "
        f"`embodied evaluate RUN {' '.join(study.evaluate)}`. What each line adds to the one, and "
        "to the other, in place of a word with the same key:",
        "",
    ]
    for line in lines:
        own, asked = (" ".join(words) for words in (line.variant.train, line.variant.evaluate))
        text.append(f"- `{line.variant.name}`: {_code(own)}; {_code(asked)}")
    if missing:
        text += ["", f"Not run: {', '.join(f'`{name}`' for name in missing)}."]
    return "\n".join(text) + "\n"


def _code(words: str) -> str:
    return f"`{words}`" if words else "nothing"


def plot(study: Study, lines: Sequence[Line]) -> str:
    """Returns an SVG: a line for each variant, its interval and the dots of its seeds."""
    height = ROW * len(lines) + 50
    reference = lines[0].successes / lines[0].n if lines else 0.0

    def x(value: float) -> float:
        return LEFT + WIDTH * value

    parts = [
        f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="20" y2="{height - 28}" stroke="#d5d9de"/>'
        f'<text x="{x(v):.1f}" y="{height - 10}" text-anchor="middle">{v:.0%}</text>'
        for v in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    parts.append(
        f'<line x1="{x(reference):.1f}" x2="{x(reference):.1f}" y1="20" y2="{height - 28}" '
        'stroke="#3b76c4" stroke-dasharray="4 3"/>'
    )
    for index, line in enumerate(lines):
        y, (low, high) = 34 + ROW * index, line.interval
        parts += [
            f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(_label(line))}</text>',
            f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="#3b76c4" '
            'stroke-width="3"/>',
            *(f'<circle cx="{x(v):.1f}" cy="{y}" r="4" fill="#3b76c4"/>' for v in line.by_seed),
            f'<text x="{LEFT + WIDTH + 10}" y="{y + 4}">{percent(line.successes / line.n)}</text>',
        ]
    width = LEFT + WIDTH + RIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" font-size="12" role="img" '
        f'aria-label="{escape(study.title)}"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def curves(study: Study, lines: Sequence[Line]) -> str:
    """Returns an SVG: success over `study.axis`, a curve for each trained variant."""
    named: dict[str, list[Point]] = {}
    for line in lines:
        if line.variant.at is not None:
            name = line.variant.like or line.variant.name
            point = line.variant.at, line.successes / line.n, line.interval
            named.setdefault(name, []).append(point)
    return _chart(study.title, study.axis, named)


def learning(study: Study, lines: Sequence[Line]) -> str:
    """Returns an SVG: running success in training, a curve for each training seed."""
    named: dict[str, list[Point]] = {}
    for line in (line for line in lines if not line.variant.like):
        by_share = {share: line.facts.get(name, ()) for name, share in facts.LEARNING.items()}
        for index, seed in enumerate(line.variant.seeds):
            name = f"{line.variant.name}, seed {seed}"
            told = {at: v[index] for at, v in by_share.items() if index < len(v)}
            named[name] = [(100.0 * at, v, (v, v)) for at, v in told.items() if v is not None]
    return _chart(study.title, "% of the frames of a training", named)


def _chart(title: str, axis: str, named: Mapping[str, Sequence[Point]]) -> str:
    """Returns an SVG of shares over places, which stand side by side: one curve a name."""
    width, height, left, top, bottom = 640, 340, 60, 20, 60
    places = sorted({at for points in named.values() for at, _, _ in points})
    step = (width - left - 180) / max(1, len(places) - 1)
    x = {place: left + step * index for index, place in enumerate(places)}

    def y(value: float) -> float:
        return top + (height - top - bottom) * (1 - value)

    parts = [
        f'<line x1="{left}" x2="{width - 180}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="#d5d9de"/>'
        f'<text x="{left - 8}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.0%}</text>'
        for v in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    parts += [
        f'<text x="{x[p]:.1f}" y="{height - bottom + 20}" text-anchor="middle">{p:,g}</text>'
        for p in places
    ]
    parts.append(
        f'<text x="{(left + width - 180) / 2}" y="{height - 12}" text-anchor="middle">'
        f"{escape(axis)}</text>"
    )
    for index, (name, points) in enumerate(named.items()):
        color, points = COLORS[index % len(COLORS)], sorted(points)
        path = " ".join(f"{x[at]:.1f},{y(value):.1f}" for at, value, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for at, value, (low, high) in points:
            px = x[at]
            parts.append(
                f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}" '
                f'stroke="{color}"/><circle cx="{px:.1f}" cy="{y(value):.1f}" r="3.5" '
                f'fill="{color}"/>'
            )
        label_y = top + 20 * index + 12
        parts.append(f'<text x="{width - 160}" y="{label_y}" fill="{color}">{escape(name)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" font-family="sans-serif" font-size="12" role="img" '
        f'aria-label="{escape(title)}"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>\n"
    )


def _label(line: Line) -> str:
    short = line.variant.what.removesuffix(" (published)")
    return short if len(short) <= 52 else short[:51] + "…"
