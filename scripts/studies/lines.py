"""``results.json`` of a study: its lines as data, from which later runs of it carry on.

What is published outlives the runs that it came from. A study that goes on elsewhere keeps the
lines that are there, as long as they were made in the way that it says now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError
from embodied.core.files import read_json, write_json
from studies.study import Line, Study, Variant

FILE, FORMAT_VERSION = "results.json", 1
WORDS = ("train", "evaluate")


def write(directory: Path, study: Study, lines: Sequence[Line]) -> None:
    """Writes the lines, and how all of them were made."""
    data = {
        "format_version": FORMAT_VERSION,
        **{field: list(getattr(study, field)) for field in WORDS},
        "lines": [_plain(line) for line in lines],
    }
    write_json(directory / FILE, data)


def with_published(
    directory: Path, study: Study, found: Sequence[Line]
) -> tuple[list[Line], list[str]]:
    """Adds the published lines of variants that have none among those that were found.

    Args:
      directory: Where the study's table is.
      study: The study as it is now.
      found: Lines of the runs that are here.

    Returns:
      The lines in the study's order, and the names of published ones that are left out since
      the study makes them in another way now, or not at all.

    Raises:
      DataError: For a file that can't be read, or of another version.
    """
    now = {variant.name: variant for variant in study.variants}
    lines, left_out = {line.variant.name: line for line in found}, []
    published, comparable = _published(directory / FILE, study)
    for line in published:
        name = line.variant.name
        if name in lines:
            continue
        if comparable and name in now and _made(line.variant) == _made(now[name]):
            lines[name] = dataclasses.replace(line, variant=now[name])
        else:
            left_out.append(name)
    return [lines[v.name] for v in study.variants if v.name in lines], left_out


def _published(file: Path, study: Study) -> tuple[list[Line], bool]:
    """Returns the lines of a file, and whether the study still makes all of them as it did."""
    if not file.exists():
        return [], True
    data = read_json(file)
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{file} is of another version, expected {FORMAT_VERSION}; choose another --out"
        )
    comparable = all(tuple(data[field]) == getattr(study, field) for field in WORDS)
    return [_line(entry) for entry in data["lines"]], comparable


def _made(variant: Variant) -> Variant:
    """Returns how a variant is made; what is said of it may change."""
    return dataclasses.replace(variant, what="")


def _plain(line: Line) -> dict[str, Any]:
    low, high = line.interval
    return {
        "variant": dataclasses.asdict(line.variant),
        "success": line.successes / line.n,
        "low": low,
        "high": high,
        "successes": line.successes,
        "n": line.n,
        "by_seed": line.by_seed,
        "swap_followed": line.followed,
        "extra": line.extra,
        "facts": line.facts,
    }


def _line(entry: dict[str, Any]) -> Line:
    plain = entry["variant"]
    variant = Variant(**{k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()})
    facts = {name: tuple(values) for name, values in entry["facts"].items()}
    return Line(
        variant, entry["successes"], entry["n"], tuple(entry["by_seed"]), entry["swap_followed"],
        entry["extra"], facts,
    )  # fmt: skip
