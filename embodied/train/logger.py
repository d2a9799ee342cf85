"""Metrics as JSON lines (the record) and TensorBoard (the picture)."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError


class MetricsLogger:
    """Appends one JSON object a call to ``metrics.jsonl`` and mirrors it to TensorBoard.

    On resume, lines after the resumed step are dropped, so that the file of a killed and
    resumed run equals that of an uninterrupted one.

    Args:
      run: Run directory.
      start_step: First step that will be logged.
    """

    def __init__(self, run: Path, start_step: int) -> None:
        self.path = run / "metrics.jsonl"
        kept = [row for row in read_metrics(run) if row["step"] < start_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a")
        self._board = _open_board(run / "tensorboard", start_step)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Records scalars at `step`; values that are not finite are written as null."""
        clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **clean}) + "\n")
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot write {self.path}: {error.strerror or error}; checkpoints are intact. "
                "Free some space, then carry on with: "
                f"embodied train --resume out={self.path.parent}"
            ) from error
        if self._board is not None:
            for name, value in clean.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of ``metrics.jsonl``; a torn last line (killed run) is skipped."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _open_board(directory: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # tensorboard is a convenience; the JSON lines are the record
        return None
    return SummaryWriter(str(directory), purge_step=start_step)
