"""``results.json`` of a study: its lines as data, from which later runs of it carry on.

What is published outlives the runs that it came from. A study that goes on elsewhere keeps the
lines that are there, as long as they were made in the way that it says now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError, DataError
from embodied.core.files import read_json, write_json
from studies.study import Line, Study, Variant

FILE, FORMAT_VERSION = "results.json", 2


def write(directory: Path, study: Study, lines: Sequence[Line]) -> None:
    """Writes the lines, each with how it was made."""
    data = {
        "format_version": FORMAT_VERSION,
        "lines": [_plain(line, study.made(line.variant)) for line in lines],
    }
    write_json(directory / FILE, data)


def check(directory: Path, study: Study, here: Collection[str]) -> None:
    """Refuses to write a table without lines that are published.

    Args:
      directory: Where the study's table is.
      study: The study as it is now.
      here: Names of variants whose runs are here.

    Raises:
      ConfigError: If lines would be left out.
      DataError: For a file that can't be read, or of another version.
    """
    _, left_out = _kept(directory, study, here)
    if left_out:
        raise ConfigError(
            f"{directory} would lose lines, as {study.name} makes them in another way now, or not "
            f"at all: {', '.join(left_out)}. Nothing was written. Run those variants again, undo "
            "the change or give what is new a name of its own; or leave them out with --drop"
        )


def with_published(
    directory: Path, study: Study, found: Sequence[Line], drop: bool = False
) -> tuple[list[Line], list[str]]:
    """Adds the published lines of variants that have none among those that were found.

    Lines of fewer seeds than the study has now are kept as they are.

    Args:
      directory: Where the study's table is.
      study: The study as it is now.
      found: Lines of the runs that are here.
      drop: Leaves out published lines that the study makes in another way now, or not at all.

    Returns:
      The lines in the study's order, and the names of published ones that are left out.

    Raises:
      ConfigError: If lines would be left out without `drop`.
      DataError: For a file that can't be read, or of another version.
    """
    lines = {line.variant.name: line for line in found}
    if not drop:
        check(directory, study, lines)
    kept, left_out = _kept(directory, study, lines)
    lines |= {line.variant.name: line for line in kept}
    return [lines[v.name] for v in study.variants if v.name in lines], left_out


def _kept(directory: Path, study: Study, here: Collection[str]) -> tuple[list[Line], list[str]]:
    """Returns published lines to be kept beside those of `here`, and names of those that can't."""
    now = {variant.name: variant for variant in study.variants}
    kept, left_out = [], []
    for line, made in _published(directory / FILE):
        name, seeds = line.variant.name, line.variant.seeds
        if name in here:
            continue
        if name in now and made == study.made(now[name]) and set(seeds) <= set(now[name].seeds):
            variant = dataclasses.replace(now[name], seeds=seeds)  # told as it is told now
            kept.append(dataclasses.replace(line, variant=variant))
        else:
            left_out.append(name)
    return kept, left_out


def _published(file: Path) -> list[tuple[Line, dict[str, Any]]]:
    """Returns the lines of a file, each with how it was made."""
    if not file.exists():
        return []
    data = read_json(file)
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{file} is of another version, expected {FORMAT_VERSION}; choose another --out"
        )
    return [(_line(entry), entry["made"]) for entry in data["lines"]]


def _plain(line: Line, made: dict[str, Any]) -> dict[str, Any]:
    low, high = line.interval
    return {
        "variant": dataclasses.asdict(line.variant),
        "made": made,
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
