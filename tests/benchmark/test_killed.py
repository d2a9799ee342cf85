"""``kill -9`` in the middle of a benchmark: nothing is lost, and nobody gets in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embodied.benchmark import cell, run
from embodied.benchmark.config import BenchmarkConfig
from embodied.core.errors import DataError
from embodied.core.files import read_json
from tests.benchmark.cells import TASKS, Commands

ROOT = Path(__file__).resolve().parents[2]
MEMORIES = ["full_history", "none"]

STUCK = """
from embodied.benchmark import cell, run
from embodied.benchmark.config import BenchmarkConfig
from tests.benchmark.cells import TASKS, Commands
cell.command = run.command = Commands(stuck="none")
run.benchmark(BenchmarkConfig(task=TASKS, memory={memories!r}, train=["steps=5"], out={out!r}))
"""
COMMAND = """
import sys
from pathlib import Path
from embodied.benchmark import cell, run
sys.executable = {fake!r}
with run.locked(Path({out!r})):
    cell.command(Path({out!r}) / "log", "train")
"""


def started(code: str, until: Path) -> subprocess.Popen[bytes]:
    """Starts a Python process and waits for a file that it makes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    end = time.monotonic() + 120
    while not until.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    return process


def killed(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_was_done_is_kept_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "b"
    code = STUCK.format(memories=MEMORIES, out=str(out))
    killed(started(code, out / "cells" / "none-s0" / "run" / "config.yaml"))
    kept = out / "cells" / "full_history-s0" / "evaluation" / "results.json"
    before = kept.read_bytes()
    again = Commands()
    monkeypatch.setattr(run, "command", again)
    monkeypatch.setattr(cell, "command", again)
    config = BenchmarkConfig(task=TASKS, memory=MEMORIES, train=["steps=5"], out=str(out))
    assert run.benchmark(config) == (out, {})
    done = [words for words in again.calls if words[0] != "collect"]
    assert [(words[0], "none-s0" in words[-1]) for words in done] == [
        ("train", True),
        ("evaluate", True),
    ]
    assert done[0][1] == "--resume" and kept.read_bytes() == before
    lines = read_json(out / "table.json")["lines"]
    assert [line["memory"] for line in lines] == MEMORIES


def test_a_command_that_outlives_its_benchmark_keeps_others_out(tmp_path: Path) -> None:
    out, mark = tmp_path / "b", tmp_path / "pid"
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\necho $$ > {mark}.part && mv {mark}.part {mark}\nexec sleep 60\n")
    fake.chmod(0o755)
    killed(started(COMMAND.format(fake=str(fake), out=str(out)), mark))
    try:
        with pytest.raises(DataError, match="a command that one has left"), run.locked(out):
            pass
    finally:
        os.kill(int(mark.read_text()), signal.SIGKILL)
    end = time.monotonic() + 30
    while True:
        try:
            with run.locked(out):
                return
        except DataError:
            assert time.monotonic() < end
            time.sleep(0.05)
