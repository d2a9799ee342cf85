"""Writing files whole or not at all, one writer at a time; reading JSON. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError

TEMPORARY_PREFIX = ".tmp-"
"""Begins the name of what an interrupted write leaves behind."""

LOCK = ".lock"
"""Name of the file by which a directory is held."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that a kill at any moment leaves the old file or the new one.

    Missing parent directories are made.

    Raises:
      DataError: If the disk or the quota is full, or the place can't be written.
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno in _FULL:
            raise DataError(
                f"no space left to write {path} ({len(data):,} bytes: {error.strerror}); all "
                "finished files are intact. Free some space and run the same command again"
            ) from error
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_temporary(directory: Path) -> list[str]:
    """Deletes what interrupted writes left in a directory; returns the names."""
    names = []
    for path in sorted(directory.glob(TEMPORARY_PREFIX + "*")):
        path.unlink(missing_ok=True)
        names.append(path.name)
    return names


@contextlib.contextmanager
def held_directory(directory: Path, below: str = "") -> Iterator[None]:
    """Makes a directory, where it is missing, and holds it for one writer.

    However the process ends, it lets go. When the block fails, directories that were not there
    before and are still empty are taken back.

    Args:
      directory: Where.
      below: Name of a folder in it that is made too.

    Raises:
      DataError: If another one writes there, or the directory can't be made or written.
    """
    fresh = [p for p in (directory / below, directory, *directory.parents) if not p.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("a")
    except OSError as error:
        what = f"cannot write {directory}: {error.strerror}"
        raise DataError(f"{what}; choose another out=") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"another process is writing to {directory}; wait for it, stop it, or choose "
                "another out="
            ) from error
        try:
            (directory / below).mkdir(exist_ok=True)
            yield
        except BaseException:
            for path in fresh:
                if path.is_dir() and {child.name for child in path.iterdir()} <= {LOCK}:
                    (path / LOCK).unlink(missing_ok=True)
                    path.rmdir()
            raise


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes indented JSON atomically; refuses NaN."""
    write_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads JSON; says which file is missing or broken."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
