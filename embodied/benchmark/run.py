"""Makes a benchmark: data, runs, evaluations, and the table of what is done.

The directory holds ``benchmark.json`` (what was asked for, and each memory's own words),
``cells/<memory>-s<seed>/`` (a run with its evaluations and log) and the table. Whatever is done
stays done: a killed benchmark carries on, and one that is asked for more memories or seeds than
before adds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from embodied.benchmark import evaluations, page, table
from embodied.benchmark.cell import Cell, command, side_by_side
from embodied.benchmark.config import HTML, BenchmarkConfig
from embodied.benchmark.places import BEYOND, CELLS, EVALUATION, LOOKS, RUN, found
from embodied.benchmark.record import Record, begin
from embodied.core.errors import DataError
from embodied.evaluate.results import read_results

LOCK = ".lock"


def benchmark(config: BenchmarkConfig) -> tuple[Path, dict[str, str]]:
    """Does what is not done yet and writes the table.

    Returns:
      The directory, and cell -> message of those that failed (the others are in the table).

    Raises:
      ConfigError: For unknown names, words that a command would refuse, or a directory begun with
        other options.
      DataError: If another process is at work in the directory, or it has another version.
    """
    evaluations.check(config)
    out = Path(config.out)
    with locked(out):
        record = begin(out, config)
        for folder in (EVALUATION, LOOKS, BEYOND.format("*")):
            for directory in found(out, folder):
                read_results(directory)  # of another version: said now, not after hours
        failed: dict[str, str] = {}
        try:
            for task, level in dict.fromkeys(config.settings()):
                collect(out, config, task, level)
            made = cells(out, config)
            failed = side_by_side([c.work for c in made], [c.name for c in made], config.jobs)
        finally:
            write_reports(out, config, record)
    return out, failed


def write_reports(out: Path, config: BenchmarkConfig, record: Record) -> None:
    """Writes the table of all cells that are done, and the page where it is asked for.

    Args:
      out: Directory of the benchmark.
      config: What is asked for.
      record: What this and earlier calls asked for.
    """
    lines = table.read(found(out, EVALUATION), record)
    told = table.write(out, config, record, lines)
    if config.report == HTML:
        page.write(out, config, record, lines, told, found(out, LOOKS))


def cells(out: Path, config: BenchmarkConfig) -> list[Cell]:
    """Returns the cells that are asked for: all memories with the first seed, then the others."""
    made = []
    for seed in config.seeds:
        for memory in config.memory:
            name = f"{memory}-s{seed}"
            words = config.training(config.train_of.get(memory, ()))
            training = (f"memory={memory}", f"seed={seed}", *words)
            folder = out / CELLS / name
            asked = evaluations.of(config, looked=seed == config.seeds[0])
            todo = {folder / place: words for place, words in asked.items()}
            made.append(Cell(name, folder / RUN, folder / "log", training, todo))
    return made


def collect(out: Path, config: BenchmarkConfig, task: str, level: str) -> None:
    """Collects demonstrations where they are missing; a dataset that is complete costs nothing."""
    command(out / "collect.log", "collect", *config.collecting(task, level))


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
