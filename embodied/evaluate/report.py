"""``report.md`` and ``report.html`` from ``results.json``.

The HTML report is one file but for its videos, which stay beside it; see `embodied.report.html`.
With ``inspect=true`` one can scrub through its episodes and see what memory held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from embodied import registry
from embodied.core.files import write_atomic
from embodied.evaluate import scrubber
from embodied.evaluate.process import STAGES
from embodied.evaluate.results import EPISODES, read_episodes
from embodied.report import html
from embodied.report.text import (
    CLOCK,
    NOTE,
    bounds,
    interval,
    kind,
    markdown_table,
    number,
    percent,
)


def write(directory: Path, results: dict[str, Any]) -> None:
    """Writes both reports into a results directory."""
    write_atomic(directory / "report.md", markdown(results))
    write_atomic(directory / "report.html", page(results, directory))


HEADER = (
    "task", "level", "policy", "memory", "intervention", "success", "95 % interval",
    "ceiling c*", CLOCK, "M", "commits", "swap followed", "n",
)  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Returns a result row as text, in the order of `HEADER`."""
    name = row["policy"] + (" (twin)" if row["role"] == "twin" else "")
    clock = registry.time_aware_ceiling(row["task"], row["level"], row["knobs"])
    return [
        row["task"],
        row["level"],
        name,
        row["memory"] or "–",
        row["intervene"],
        percent(row["success"]),
        interval(row["low"], row["high"]),
        percent(row["ceiling"]),
        bounds(*(clock or (None, None))),
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
        lines += process_sentences(row["process"])
    if row["failure_kinds"]:
        kinds = [f"{kind(name)} {count}" for name, count in row["failure_kinds"].items()]
        lines.append(f"Failures: {', '.join(kinds)}.")
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


def _observation(row: dict[str, Any]) -> str:
    if row["observation"] == "state":
        return "state"
    return f"{row['observation']}, cameras {', '.join(row['cameras'])}, {row['image_size']} px"


def process_sentences(process: dict[str, Any]) -> list[str]:
    """Returns how often each stage of remembering held, and what failures are blamed on."""
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
    lines += markdown_table(HEADER, [cells(row) for row in rows])
    lines += ["", NOTE, ""]
    for row in rows:
        lines += [f"## {_row_title(row)}", ""]
        lines += [f"- {sentence}" for sentence in sentences(row)]
        lines += ["", *markdown_table(("cue", "successes", "n", "success"), _cue_cells(row)), ""]
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
        ("observation", _observation(first)),
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


# ---- page -------------------------------------------------------------------------------


def page(results: dict[str, Any], directory: Path) -> str:
    """Returns the report as one HTML page with its pictures inlined; videos lie beside it."""
    rows = results["rows"]
    parts: list[object] = [
        html.chart([bar(row) for row in rows]),
        html.table(HEADER, [cells(row) for row in rows]),
        html.element("p", NOTE, class_="note"),
    ]
    for row in rows:
        parts += _section(row, directory)
    looks = scrubber.Looks()
    if any(row.get("inspection") for row in rows):
        looks.add(directory, rows, read_episodes(directory / EPISODES))
    if looks.episodes:
        parts.append(looks.section())
    facts = [
        html.together(f"{key}: ", html.element("code", value)) for key, value in _facts(results)
    ]
    parts += [html.element("h2", "Where it came from"), html.items(facts)]
    title = f"Evaluation: {_title(results)}"
    return html.document(title, *parts, data=looks.data() if looks.episodes else None)


def _section(row: dict[str, Any], directory: Path) -> list[html.Html]:
    """Returns what the page says of one row."""
    parts = [
        html.element("h2", _row_title(row)),
        html.items(sentences(row)),
        html.table(("cue", "successes", "n", "success"), _cue_cells(row)),
    ]
    if row.get("picture"):
        data = (directory / row["picture"]).read_bytes()
        parts.append(html.picture(data, f"moments of {_row_title(row)}"))
    videos = [html.video(file, Path(file).name) for file in row.get("videos", [])]
    if videos:
        parts.append(html.element("div", *videos, class_="videos"))
    for file in row.get("inspection", []):
        name = Path(file).name
        if file.endswith(".mp4"):
            parts.append(html.element("div", html.video(file, name), class_="videos"))
        elif file.endswith(".png"):
            alt = f"what each tick saw and which earlier one it read: {name}"
            parts.append(html.picture((directory / file).read_bytes(), alt))
        else:
            parts.append(html.element("p", "Arrays: ", html.link(file, name)))
    return parts


def bar(row: dict[str, Any]) -> html.Bar:
    """Returns a row's bar of the chart."""
    return html.Bar(
        _row_title(row),
        row["success"],
        row["low"],
        row["high"],
        row["ceiling"],
        control=row["role"] == "twin",
    )
