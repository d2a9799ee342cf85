"""Where things lie in the directory of a benchmark."""

from __future__ import annotations

from pathlib import Path

from embodied.evaluate.results import RESULTS

CELLS = "cells"
"""Folder of the cells, each named by its memory and training seed."""

RUN, EVALUATION, LOOKS = "run", "evaluation", "looks"
"""Folders of a cell: its training, the table's numbers, the episodes that are looked into."""

BEYOND = "beyond-{}"
"""Folder of a cell for episodes unlike those of training; named by the table's column."""


def found(out: Path, folder: str) -> list[Path]:
    """Returns such evaluation directories of all cells, of this and of earlier calls."""
    return sorted(path.parent for path in (out / CELLS).glob(f"*/{folder}/{RESULTS}"))


def line_of(directory: Path) -> tuple[str, int]:
    """Returns what was asked for as memory, and the training seed, of an evaluation directory.

    Results name the memory itself, of which a table may hold several with other options.
    """
    memory, _, seed = directory.parent.name.rpartition("-s")
    return memory, int(seed)
