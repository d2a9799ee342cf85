"""Makes a benchmark: data, runs, evaluations, and the table of what is done.

The directory holds ``benchmark.json`` (what was asked for, and each memory's own words),
``cells/<memory>-s<seed>/`` (a run with its evaluations and log) and the table. Whatever is done
stays done: a killed benchmark carries on, and one that is asked for more memories or seeds than
before adds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from embodied import registry
from embodied.benchmark import page, table
from embodied.benchmark.cell import Cell, command, side_by_side
from embodied.benchmark.config import HTML, BenchmarkConfig
from embodied.config import to_plain
from embodied.core.errors import ConfigError, DataError
from embodied.core.files import read_json, write_json
from embodied.evaluate.results import NONE, RESULTS, SWAPPED, read_results

FORMAT_VERSION = 1
FILE, LOCK, CELLS = "benchmark.json", ".lock", "cells"
EVALUATION, LOOKS = "evaluation", "looks"
OF_A_CALL = ("memory", "seeds", "report", "jobs", "out", "train_of")
"""Fields in which a benchmark may differ from what its directory was begun with; `train_of` in
memories that have no cell yet."""


def benchmark(config: BenchmarkConfig) -> tuple[Path, dict[str, str]]:
    """Does what is not done yet and writes the table.

    Returns:
      The directory, and cell -> message of those that failed (the others are in the table).

    Raises:
      ConfigError: For unknown names, or a directory begun with other options.
      DataError: If another process is at work in the directory, or it has another version.
    """
    settings = config.settings()
    for task, level in settings:
        registry.imitation_task(task).knobs(level)
    out = Path(config.out)
    with locked(out):
        own = _begin(out, config)
        for directory in (*found(out, EVALUATION), *found(out, LOOKS)):
            read_results(directory)  # of another version: said now, not after hours
        failed: dict[str, str] = {}
        try:
            for task, level in dict.fromkeys(settings):
                collect(out, config, task, level)
            made = cells(out, config)
            failed = side_by_side([c.work for c in made], [c.name for c in made], config.jobs)
        finally:
            write_reports(out, config, own)
    return out, failed


def write_reports(
    out: Path, config: BenchmarkConfig, own: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Writes the table of all cells that are done, and the page where it is asked for.

    Args:
      out: Directory of the benchmark.
      config: What is asked for.
      own: Memory -> words that it alone was trained with, where they are known.
    """
    lines = table.read(found(out, EVALUATION), own or {})
    told = table.write(out, config, lines)
    if config.report == HTML:
        page.write(out, config, lines, told, found(out, LOOKS))


def cells(out: Path, config: BenchmarkConfig) -> list[Cell]:
    """Returns the cells that are asked for: all memories with the first seed, then the others."""
    made = []
    for seed in config.seeds:
        for memory in config.memory:
            name = f"{memory}-s{seed}"
            own = config.train_of.get(memory, ())
            training = (f"memory={memory}", f"seed={seed}", *config.training(), *own)
            folder = out / CELLS / name
            places = folder / table.RUN, folder / EVALUATION, folder / "log"
            looking = _looking(config) if seed == config.seeds[0] else ()
            evaluating = config.evaluating()
            made.append(Cell(name, *places, training, evaluating, folder / LOOKS, looking))
    return made


def _looking(config: BenchmarkConfig) -> tuple[str, ...]:
    """Returns the words of an evaluation that explains an episode of each task, and its swap."""
    tasks = [registry.task_info(task) for task, _ in config.settings()]
    named = [info.name for info in tasks if info.needs_memory(next(iter(info.levels.values())))]
    if config.report != HTML or not named:
        return ()
    return (
        f"task=[{','.join(dict.fromkeys(named))}]",
        "episodes=1",
        "batch=1",
        f"seed_start={config.seed_start}",
        f"intervene={NONE},{SWAPPED}",
        "videos=1",
        "inspect=true",
        *config.evaluate,
    )


def found(out: Path, folder: str) -> list[Path]:
    """Returns such evaluation directories of all cells, of this and of earlier calls."""
    return sorted(path.parent for path in (out / CELLS).glob(f"*/{folder}/{RESULTS}"))


def collect(out: Path, config: BenchmarkConfig, task: str, level: str) -> None:
    """Collects demonstrations where they are missing; a dataset that is complete costs nothing."""
    command(
        out / "collect.log",
        "collect",
        f"task={task}",
        f"level={level}",
        f"observation={config.observation}",
        f"episodes={config.demonstrations}",
        *config.collect,
    )


def _begin(out: Path, config: BenchmarkConfig) -> dict[str, list[str]]:
    """Writes what was asked for, or compares it with what the directory was begun with.

    Returns:
      Memory -> the words that it alone is trained with, of this and of earlier calls. Memories
      with cells from before they were kept are left out.
    """
    plain = {k: v for k, v in to_plain(config).items() if k not in OF_A_CALL}
    file = out / FILE
    fresh = {"format_version": FORMAT_VERSION, "config": plain}
    begun = read_json(file) if file.exists() else fresh
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
    own = _own_words(out, config, begun.get("train_of", {}))
    write_json(file, {**begun, "train_of": own})
    return own


def _own_words(
    out: Path, config: BenchmarkConfig, kept: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """Adds the words of memories without cells to those that are kept; refuses others."""
    places = (f"*/{table.RUN}/config.yaml", f"*/{EVALUATION}/{RESULTS}")
    cells = [path.parents[1].name for place in places for path in (out / CELLS).glob(place)]
    trained = {name.rpartition("-s")[0] for name in cells}
    own = dict(kept)
    for memory in config.memory:
        words = config.train_of.get(memory, [])
        if memory not in trained:
            own[memory] = words
        elif own.get(memory, words) != words:
            before = f"train_of.{memory}=[{','.join(own[memory])}]"
            raise ConfigError(
                f"{out} holds runs of {memory} with {before}, not [{','.join(words)}]; they could "
                f"not stand in one line. Choose another out=, or {before}"
            )
    return own


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps others out of a directory as long as this process or a command of its lives.

    Raises:
      DataError: If another one is at work there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT)
        # Commands that outlive a killed benchmark keep the lock, and so their runs to themselves.
        os.set_inheritable(file, True)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise DataError(
            f"another benchmark, or a command that one has left, is at work in {out}; wait for it, "
            "or choose another out="
        ) from error
    else:
        yield
    finally:
        os.close(file)  # which gives the lock back, as the end of the process would
