"""``report.md`` and ``report.html`` from ``results.json``.

The HTML report is one file: pictures are inlined, nothing is fetched, and it reads on a phone
and in the dark. Videos stay beside it and are linked.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.core.files import write_atomic
from embodied.evaluate.process import STAGES

NOTE = (
    "The tasks are independent re-creations: these scores never stand in one column with scores "
    "published on the originals. Intervals are Wilson's 95 %. The ceiling c* is the best success "
    "of any policy without memory; M = (success - c*) / (expert - c*)."
)


def write(directory: Path, results: dict[str, Any]) -> None:
    """Writes both reports into a results directory."""
    write_atomic(directory / "report.md", markdown(results))
    write_atomic(directory / "report.html", page(results, directory))


# ---- text -------------------------------------------------------------------------------


def percent(value: float | None) -> str:
    """Returns a fraction as a percentage with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def interval(low: float | None, high: float | None) -> str:
    """Returns an interval of fractions."""
    return "–" if low is None or high is None else f"{100 * low:.1f} – {100 * high:.1f}"


def number(value: float | None) -> str:
    """Returns a number with two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


HEADER = (
    "task", "level", "policy", "memory", "intervention", "success", "95 % interval",
    "ceiling c*", "M", "commits", "swap followed", "n",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a result row as text, in the order of `HEADER`."""
    name = row["policy"] + (" (twin)" if row["role"] == "twin" else "")
    return [
        row["task"],
        row["level"],
        name,
        row["memory"] or "–",
        row["intervene"],
        percent(row["success"]),
        interval(row["low"], row["high"]),
        percent(row["ceiling"]),
        number(row["score"]),
        percent(row["commit_rate"]),
        percent(row["swap_followed"]),
        str(row["n"]),
    ]


def sentences(row: dict[str, Any]) -> list[str]:
    """Returns what a row says in words."""
    lines = []
    if row["privileged"]:
        lines.append("PRIVILEGED: training used the cue's class as a label; not a claim.")
    if row["score"] is not None:
        lines.append(
            f"Normalised memory score M = {number(row['score'])} "
            f"({interval_plain(row['score_low'], row['score_high'])}), "
            f"expert {percent(row['expert'])}."
        )
    elif row["expert"] is None:
        lines.append("No measured expert for this setting, so M is not computed.")
    if row["swapped"] is not None:
        if row["swapped"]:
            lines.append(
                f"Swapped memory followed in {row['followed']} of {row['swapped']} episodes "
                f"({percent(row['swap_followed'])}, "
                f"{interval(row['swap_low'], row['swap_high'])}); the donor is the same seed with "
                "the next cue."
            )
        if row["swapped"] < row["n"]:
            missing = row["n"] - row["swapped"]
            lines.append(f"{missing} of {row['n']} episodes did not get as far as the swap.")
    twin = row["twin"]
    if twin:
        lines.append(
            f"Memoryless twin: {percent(twin['success'])} "
            f"({interval(twin['low'], twin['high'])}, n = {twin['n']}), "
            f"{twin['verdict']}; it commits in {percent(twin['commit_rate'])}"
            + ("." if twin["able"] else ", too rarely to be a control.")
        )
        lines.append(
            f"Paired on {twin['paired_n']} common seeds: difference "
            f"{100 * twin['difference']:+.1f} points, policy alone right {twin['only_policy']}, "
            f"twin alone right {twin['only_twin']}, exact McNemar p = {twin['p_value']:.2g}. "
            "This compares two networks; for methods, compare several training seeds."
        )
    if row.get("process"):
        lines += _process_sentences(row["process"])
    if row["failure_kinds"]:
        kinds = ", ".join(
            f"{kind.replace('_', ' ') or 'undecided'} {count}"
            for kind, count in row["failure_kinds"].items()
        )
        lines.append(f"Failures: {kinds}.")
    lines.append(
        f"Mean episode {row['mean_time_s']:.1f} s with {row['mean_observations']:.1f} observation "
        f"ticks; memory {_memory(row)}; seeds {row['eval_seeds'][0]} to "
        f"{row['eval_seeds'][1]}; batch {row['batch']}; {row['wall_s']:.0f} s."
    )
    return lines


def _memory(row: dict[str, Any]) -> str:
    filled = row.get("state_filled")
    used = "" if filled in (None, row["state_bytes"]) else f", {filled:,} in use at the median end"
    return f"{row['state_bytes']:,} bytes{used}"


def _process_sentences(process: dict[str, Any]) -> list[str]:
    told = ", ".join(
        f"{stage} {percent(process[stage]['rate'])} "
        f"({interval(process[stage]['low'], process[stage]['high'])}, n = {process[stage]['n']})"
        for stage in STAGES
    )
    blamed = ", ".join(f"not {stage} {count}" for stage, count in process["blamed"].items())
    return [f"Process rates: {told}.", f"Failures are blamed on: {blamed or 'nothing'}."]


def interval_plain(low: float, high: float) -> str:
    """Returns an interval of plain numbers."""
    return f"{low:.2f} to {high:.2f}"


def markdown(results: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    rows = results["rows"]
    lines = [f"# Evaluation: {_title(results)}", ""]
    lines += _table(HEADER, [cells(row) for row in rows])
    lines += ["", NOTE, ""]
    for row in rows:
        lines += [f"## {_row_title(row)}", ""]
        lines += [f"- {sentence}" for sentence in sentences(row)]
        lines += ["", *_table(("cue", "successes", "n", "success"), _cue_cells(row)), ""]
        if row.get("picture"):
            lines += [f"![moments of {_row_title(row)}]({row['picture']})", ""]
        lines += [f"- [{Path(video).name}]({video})" for video in row.get("videos", [])]
        for file in row.get("inspection", []):
            show = "!" if file.endswith(".png") else "- "
            lines += [f"{show}[memory of {Path(file).stem}]({file})", ""]
        lines.append("")
    lines += ["## Where it came from", ""]
    lines += [f"- {key}: `{value}`" for key, value in _facts(results)]
    return "\n".join(lines) + "\n"


def _title(results: dict[str, Any]) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in results["rows"]))
    memory = results["policy"]["memory"]
    return (
        results["policy"]["policy"] + (f" ({memory})" if memory else "") + " on " + ", ".join(tasks)
    )


def _row_title(row: dict[str, Any]) -> str:
    what = "" if row["intervene"] == "none" else f", {row['intervene']} memory"
    who = "memoryless twin" if row["role"] == "twin" else row["policy"]
    return f"{row['task']} {row['level']}: {who}{what}"


def _cue_cells(row: dict[str, Any]) -> list[list[str]]:
    return [
        [cue, str(c["successes"]), str(c["n"]), percent(c["successes"] / c["n"])]
        for cue, c in row["per_cue"].items()
    ]


def _facts(results: dict[str, Any]) -> list[tuple[str, Any]]:
    policy, machine, rows = results["policy"], results["machine"], results["rows"]
    first = rows[0]
    facts = [
        ("command", results["command"]),
        ("server" if "server" in policy else "checkpoint", policy["path"]),
        ("checkpoint sha256", policy["sha256"]),
        ("parameters", f"{policy['parameters']:,}"),
        ("training seed", first["train_seed"]),
        ("control, visuals", f"{first['control']}, {first['visuals']}"),
        (
            "observation",
            f"{first['observation']} {' '.join(first['cameras'])} {first['image_size']}",
        ),
        ("executor", results["config"]["executor"]["name"]),
        ("processor", machine["gpu"] or machine["cpu"]),
        ("torch", machine["torch"]),
        ("package", results["package_version"]),
        ("commit", results["commit"]),
        ("date", results["created_utc"]),
    ]
    if results["twin"]:
        facts.insert(3, ("twin checkpoint", results["twin"]["path"]))
    return facts


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


# ---- page -------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #f2f4f7;
  --line: #d5dae1; --muted: #5d6671; --bar: #3a76c4; --twin: #9aa4b0; --ceiling: #c2452d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #15181c; --soft: #1e2328;
  --line: #343b44; --muted: #9aa4b0; --bar: #6aa5ee; --twin: #7a848f; --ceiling: #ef7a60; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } .scroll table { font-size: .82rem; }
.scroll th, .scroll td { padding: .3rem .42rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  white-space: nowrap; }
th { color: var(--muted); font-weight: 600; }
img { max-width: 100%; height: auto; border-radius: 6px; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
.note, footer { color: var(--muted); font-size: .9rem; }
code { overflow-wrap: anywhere; background: var(--soft); padding: .1rem .3rem; border-radius: 4px; }
a { color: var(--bar); }
"""


def page(results: dict[str, Any], directory: Path) -> str:
    """Returns the report as one HTML page with its pictures inlined."""
    rows, title = results["rows"], html.escape(f"Evaluation: {_title(results)}")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        chart(rows),
        _html_table(HEADER, [cells(row) for row in rows]),
        f'<p class="note">{html.escape(NOTE)}</p>',
    ]
    for row in rows:
        parts.append(f"<h2>{html.escape(_row_title(row))}</h2><ul>")
        parts += [f"<li>{html.escape(sentence)}</li>" for sentence in sentences(row)]
        parts.append("</ul>")
        parts.append(_html_table(("cue", "successes", "n", "success"), _cue_cells(row)))
        if row.get("picture"):
            data = base64.b64encode((directory / row["picture"]).read_bytes()).decode()
            alt = html.escape(f"moments of {_row_title(row)}")
            parts.append(f'<p><img alt="{alt}" src="data:image/jpeg;base64,{data}"></p>')
        links = [
            f'<a href="{html.escape(video)}">{html.escape(Path(video).name)}</a>'
            for video in row.get("videos", [])
        ]
        if links:
            parts.append(f"<p>Videos: {' · '.join(links)}</p>")
        for file in row.get("inspection", []):
            name = html.escape(Path(file).name)
            if not file.endswith(".png"):
                parts.append(f'<p>Arrays: <a href="{html.escape(file)}">{name}</a></p>')
                continue
            data = base64.b64encode((directory / file).read_bytes()).decode()
            alt = f"which tick read which earlier one: {name}"
            parts.append(f'<p><img alt="{alt}" src="data:image/png;base64,{data}"></p>')
    parts.append("<h2>Where it came from</h2><ul>")
    parts += [
        f"<li>{html.escape(key)}: <code>{html.escape(str(value))}</code></li>"
        for key, value in _facts(results)
    ]
    parts.append("</ul></body></html>")
    return "\n".join(parts) + "\n"


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Returns an SVG: success with its interval for each row, the ceiling as a red line."""
    width, left, line, right = 640, 8, 46, 70
    span = width - left - right
    marks = []
    for i, row in enumerate(rows):
        y = i * line
        start, end = (left + span * row[key] for key in ("low", "high"))
        ceiling = left + span * row["ceiling"]
        fill = "var(--twin)" if row["role"] == "twin" else "var(--bar)"
        middle = y + 32
        marks += [
            f'<text x="{left}" y="{y + 16}">{html.escape(_row_title(row))}</text>',
            f'<rect x="{left}" y="{y + 24}" width="{span}" height="16" fill="var(--soft)"/>',
            f'<rect x="{left}" y="{y + 24}" width="{span * row["success"]:.1f}" height="16" '
            f'fill="{fill}"/>',
            f'<path d="M{start:.1f} {middle}H{end:.1f}M{start:.1f} {middle - 5}v10'
            f'M{end:.1f} {middle - 5}v10" stroke="var(--ink)" fill="none"/>',
            f'<path d="M{ceiling:.1f} {y + 21}v22" stroke="var(--ceiling)" stroke-width="2"/>',
            f'<text x="{left + span + 8}" y="{y + 37}">{percent(row["success"])}</text>',
        ]
    height = len(rows) * line + 6
    label = "success with 95 % interval for each row; the vertical line is the memoryless ceiling"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="100%" role="img" aria-label="{label}">'
        + "".join(marks)
        + f'</svg><p class="note">Bars: {label}.</p>'
    )


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
