"""``embodied list``: what there is to choose from."""

from __future__ import annotations

import dataclasses
import json

from embodied import registry
from embodied.commands.base import Command, finish, percent, table
from embodied.core.errors import unknown_name

SECTIONS = ("tasks", "policies", "memories", "presets", "suites", "claims")


@dataclasses.dataclass
class Options:
    """Keys of ``embodied list``.

    Attributes:
      what: Only one section: tasks, policies, memories, presets, suites or claims.
      json: Print JSON instead of tables.
    """

    what: str = ""
    json: bool = False


def run(options: Options) -> None:
    """Prints the sections asked for."""
    if options.what and options.what not in SECTIONS:
        raise unknown_name("section", options.what, SECTIONS)
    sections = [options.what] if options.what else list(SECTIONS)
    content = {name: _READERS[name]() for name in sections}
    if options.json:
        print(json.dumps(content, indent=1))
        return
    for name, rows in content.items():
        print(f"{name}:")
        if rows:
            print(table(list(rows[0]), _once(rows)))
        else:
            print(f"(none{_ABSENT.get(name, '')})")
        print()
    finish(None, "embodied play remember_color level=easy")


def _once(rows: list[dict[str, object]]) -> list[list[object]]:
    """Returns the cells, with a description that repeats the one above left empty."""
    cells, above = [], None
    for row in rows:
        repeats = row.get("what") == above
        cells.append(["" if key == "what" and repeats else row[key] for key in row])
        above = row.get("what")
    return cells


def _tasks() -> list[dict[str, object]]:
    rows = []
    for name in registry.task_names():
        info = registry.task_info(name)
        for level, knobs in info.levels.items():
            rows.append(
                {
                    "task": name,
                    "level": level,
                    # Three digits, however small: of one in five million 0.0 % would say nothing.
                    "ceiling": f"{100 * info.ceiling(knobs):.3g} %",
                    "chance": percent(info.chance(knobs) if info.chance else None),
                    "cues": info.cues(knobs),
                    "longest": f"{info.horizon_s(knobs):.0f} s",
                    "what": info.summary,
                }
            )
    return rows


def _policies() -> list[dict[str, object]]:
    return [
        {"policy": name, "what": registry.policy_summary(name)} for name in registry.policy_names()
    ]


def _yaml_group(group: str, label: str) -> list[dict[str, object]]:
    from embodied.commands.compose import config_root

    rows = []
    for path in sorted((config_root() / group).glob("*.yaml")):
        # The first comment of a file says what it is for.
        comments = [ln for ln in path.read_text().splitlines() if ln.startswith("# ")]
        about = next((ln[2:] for ln in comments if "@package" not in ln), "")
        rows.append({label: path.stem, "what": about})
    return rows


def _memories() -> list[dict[str, object]]:
    return _yaml_group("memory", "memory")


def _presets() -> list[dict[str, object]]:
    return _yaml_group("preset", "preset")


def _suites() -> list[dict[str, object]]:
    every = {"suite": "all", "what": "every built-in task that an arm needs memory for"}
    return [every, *_yaml_group("suite", "suite")]


def _claims() -> list[dict[str, object]]:
    from embodied.claims.index import read_index

    return [
        {
            "claim": row["id"],
            "level": row["level"],
            "success": percent(row["success"]),
            "95 % interval": f"{percent(row['low'])} .. {percent(row['high'])}",
            "ceiling": percent(row["ceiling"]),
            "n": row["n"],
            "checkpoint": "shipped" if row["checkpoint"] else "-",
        }
        for row in read_index()
    ]


_READERS = {
    "tasks": _tasks,
    "policies": _policies,
    "memories": _memories,
    "presets": _presets,
    "suites": _suites,
    "claims": _claims,
}
_ABSENT = {"claims": "; they live in results/ of a clone"}

COMMAND = Command(
    run, Options, positional=("what",), examples=("list", "list tasks", "list --json")
)
