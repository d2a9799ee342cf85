"""``benchmark.json``: what a directory was begun with, and what later calls added."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.benchmark.config import BenchmarkConfig
from embodied.benchmark.places import BEYOND, CELLS, EVALUATION, RUN, found
from embodied.config import to_plain
from embodied.core.errors import ConfigError, DataError
from embodied.core.files import read_json, write_json
from embodied.evaluate.results import RESULTS

FORMAT_VERSION = 1
FILE = "benchmark.json"
OF_A_CALL = ("memory", "seeds", "report", "jobs", "out", "train_of", "beyond")
"""Fields in which a benchmark may differ from what its directory was begun with; `train_of` in
memories that have no cell yet, `beyond` in columns that have none."""

Words = dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Record:
    """What this and earlier calls asked for.

    Attributes:
      train_of: Memory -> the words that it alone is trained with. Memories with cells from before
        they were kept are left out.
      beyond: Column -> the words that its episodes are evaluated with.
    """

    train_of: Words
    beyond: Words


def begin(out: Path, config: BenchmarkConfig) -> Record:
    """Writes what is asked for, or compares it with what the directory was begun with.

    Raises:
      ConfigError: For options whose results could not stand in one table.
      DataError: For a directory of another version.
    """
    plain = {k: v for k, v in to_plain(config).items() if k not in OF_A_CALL}
    file = out / FILE
    fresh = {"format_version": FORMAT_VERSION, "config": plain}
    begun: dict[str, Any] = read_json(file) if file.exists() else fresh
    if begun.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {begun.get('format_version')!r}, expected "
            f"{FORMAT_VERSION}; choose another out=, or use the package that wrote it"
        )
    other = sorted(k for k in {*plain, *begun["config"]} if plain.get(k) != begun["config"].get(k))
    if other:
        raise ConfigError(
            f"{out} was begun with {other[0]}={json.dumps(begun['config'].get(other[0]))}, not "
            f"{json.dumps(plain.get(other[0]))}; its lines could not be compared. Choose another "
            "out=, or the options it was begun with"
        )
    record = Record(
        _train_of(out, config, begun.get("train_of", {})),
        _beyond(out, config, begun.get("beyond", {})),
    )
    write_json(file, {**begun, **dataclasses.asdict(record)})
    return record


def _train_of(out: Path, config: BenchmarkConfig, kept: Mapping[str, list[str]]) -> Words:
    """Adds the words of memories without cells to those that are kept; refuses others."""
    places = (f"*/{RUN}/config.yaml", f"*/{EVALUATION}/{RESULTS}")
    cells = [path.parents[1].name for place in places for path in (out / CELLS).glob(place)]
    trained = {name.rpartition("-s")[0] for name in cells}
    own = dict(kept)
    for memory in config.memory:
        words = config.train_of.get(memory, [])
        if memory not in trained:
            own[memory] = words
        elif own.get(memory, words) != words:
            _refuse(out, f"runs of {memory}", "line", f"train_of.{memory}", own[memory], words)
    return own


def _beyond(out: Path, config: BenchmarkConfig, kept: Mapping[str, list[str]]) -> Words:
    """Adds the words of columns without results to those that are kept; refuses others."""
    own = dict(kept)
    for column, words in config.beyond.items():
        if own.get(column, words) != words and found(out, BEYOND.format(column)):
            _refuse(out, f"results of {column}", "column", f"beyond.{column}", own[column], words)
        own[column] = words
    return own


def _refuse(
    out: Path, what: str, where: str, key: str, before: list[str], words: list[str]
) -> None:
    begun = f"{key}=[{','.join(before)}]"
    raise ConfigError(
        f"{out} holds {what} with {begun}, not [{','.join(words)}]; they could not stand in one "
        f"{where}. Choose another out=, or {begun}"
    )
