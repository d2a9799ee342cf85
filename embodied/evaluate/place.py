"""Where an evaluation is written: whole under its name, or what it finished under a hidden one.

Everything is written into a hidden directory that is renamed at the end. Once that holds
episodes nothing deletes it: an error says where they are kept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from embodied.core.errors import ConfigError, DataError
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.results import EPISODES
from embodied.train.checkpoint import LoadedPolicy

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


def free(config: EvaluateConfig, loaded: LoadedPolicy) -> Path:
    """Returns the directory to make: `out`, which must be free, or a free name.

    Raises:
      ConfigError: If `out` exists.
    """
    if config.out:
        out = Path(config.out)
        if os.path.lexists(out):
            raise ConfigError(f"{out} already exists; choose another out= or remove it")
        return out
    inside_run = loaded.path.parent.name == "checkpoints"
    parent = loaded.path.parent.parent / "eval" if inside_run else Path("eval")
    levels = dict.fromkeys(lev for _, lev in loaded.meta.trained_on())
    name = "-".join([config.level or "-".join(levels), *config.intervene, str(config.episodes)])
    out = parent / name
    number = 2
    while os.path.lexists(out):
        out = parent / f"{name}-{number}"
        number += 1
    return out


@contextlib.contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Makes a hidden directory beside `out` for the block, which is to `settle` it.

    After an error it is deleted, or named in a note of the error if it holds episodes.
    """
    folder = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with writing(out):
            folder.mkdir(parents=True)
        yield folder
    except BaseException as error:
        if (folder / EPISODES).exists():
            error.add_note(f"the episodes that were finished are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def settle(folder: Path, out: Path, config: EvaluateConfig, loaded: LoadedPolicy) -> Path:
    """Renames `folder` to `out`, or to the next free name if that has been taken meanwhile.

    Returns:
      The name it has now.

    Raises:
      ConfigError: If ``config.out`` has been taken.
      DataError: If it can't be renamed.
    """
    while True:
        try:
            os.replace(folder, out)
            return out
        except OSError as error:
            if error.errno not in _TAKEN:
                raise DataError(f"cannot write {out}: {error.strerror or error}") from error
        out = free(config, loaded)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns a refusal of the machine to write the block's files into an error that says where.

    Raises:
      DataError: For any `OSError` of the block.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {place}: {error.strerror or error}") from error
