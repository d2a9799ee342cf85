"""A full disk: the line says so, nothing half written stays, and what is whole carries on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from embodied.cli import main
from tests.bad_input.damage import EVALUATE, TASK, TRAIN, refused


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; skips where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills a disk up to `leave` bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (shutil.disk_usage(disk).free - leave))
    return ballast


def test_full_disk_while_collecting(
    place: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "data"
    words = ["collect", f"task={TASK}", "image_size=16", "episodes=6", "workers=0", f"out={out}"]
    ballast = fill(small_disk, leave=60_000)
    line = refused(capsys, *words)
    assert "no space left to write" in line and "run the same command again" in line
    kept = {path.name for path in (out / "unfinished").glob("*.h5")}
    ballast.unlink()
    assert main(words) == 0
    assert "6 episodes stored" in capsys.readouterr().out
    assert kept


@pytest.mark.parametrize(
    ("leave", "message"),
    [
        (0, "no space left to write"),
        (8192, "cannot write the log of"),
        (150_000, "No space left on device (os error 28); earlier checkpoints are intact"),
    ],
    ids=["configuration", "log", "checkpoint"],
)
def test_full_disk_while_training(
    place: Path, small_disk: Path, capsys: pytest.CaptureFixture[str], leave: int, message: str
) -> None:
    run = small_disk / "run"
    words = [*TRAIN, "data=data", "checkpoint_every=1", "log_every=1"]
    words[words.index("out=new")] = f"out={run}"
    ballast = fill(small_disk, leave)
    assert message in refused(capsys, *words)
    assert not list(run.glob("checkpoints/*")) and not list(run.glob(".tmp-*"))
    ballast.unlink()
    if (run / "config.yaml").exists():
        words = ["train", "--resume", f"out={run}"]
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect", f"task={TASK}", "image_size=16", "episodes=1", "workers=0", "out=new"],
         "no space left to write"),
        ([*TRAIN, "data=data"], "No space left on device); all finished files are intact"),
    ],
    ids=["collect", "train"],
)  # fmt: skip
def test_full_disk_without_a_file_system(
    words: list[str],
    message: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert message in refused(capsys, *words)
    assert not [
        path for path in (place / "new").rglob("*") if path.is_file() and path.stat().st_size
    ]


@pytest.mark.sim
def test_full_disk_while_evaluating(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.evaluate.checkpoints import untrained

    source = untrained(tmp_path / "run", "none")
    fill(small_disk, leave=0)
    words = ["evaluate", str(source), *EVALUATE[2:], f"out={small_disk / 'eval'}"]
    assert "No space left on device" in refused(capsys, *words)
    assert {path.name for path in small_disk.iterdir()} == {"ballast"}
