"""Writing files whole or not at all, and reading JSON; standard library only."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError

TEMPORARY_PREFIX = ".tmp-"
"""Begins the name of what an interrupted write leaves behind."""

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
