"""The ``embodied`` command: finds the verb, fills its options, prints errors in one line."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from embodied import __version__
from embodied.commands import VERBS
from embodied.core.errors import EmbodiedError

_MACHINE = {
    errno.ENOSPC: "free some space and run it again; finished files are intact",
    errno.EDQUOT: "free some of your quota and run it again; finished files are intact",
    errno.EFBIG: "raise the limit on file sizes and run it again; finished files are intact",
    errno.EROFS: "choose a directory that can be written",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.ENOTDIR: "choose a path whose parents are directories",
    errno.EISDIR: "choose a file's name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""What the machine may refuse at any file, and what to do. Other system errors are bugs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line.

    Args:
      argv: Words after the program's name; those of the process by default.

    Returns:
      Exit code: 0, what the verb returns, 2 for bad input, 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Read once when numpy loads; without it the simulator's small matrices use all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return _run(words)
    except EmbodiedError as error:
        print(f"embodied: {error}{_notes(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        print(f"embodied: interrupted{_notes(error)}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter's shutdown quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        place = f"{error.filename}: " if error.filename else ""
        said = f"{place}{error.strerror}; {_MACHINE[error.errno]}{_notes(error)}"
        print(f"embodied: {said}", file=sys.stderr)
        return EmbodiedError.exit_code


def _notes(error: BaseException) -> str:
    """Returns what was added to an error on its way, to follow its message."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def overview() -> str:
    """Returns the help of the whole program."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb.ljust(width)}  {text}" for verb, text in VERBS.items())
    return (
        "usage: embodied VERB [ARGUMENT] [key=value ...] [--flag]\n\n"
        "Robot policies that remember, and the simulated tasks that prove they do.\n\n"
        f"{verbs}\n\n"
        "embodied VERB --help shows a verb's keys. Start with: embodied demo"
    )


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Prints a warning as one line; where in the code it was raised helps no user."""
    print(f"embodied: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"embodied-memory {__version__}")
        return 0
    from embodied.commands import base
    from embodied.extras import named_extras

    verb, rest = words[0], words[1:]
    with named_extras():
        command = base.load(verb)
        if "-h" in rest or "--help" in rest:
            print(base.help_text(command, verb))
            return 0
        options = base.parse(command, rest, verb)
        try:
            return command.run(options) or 0
        except KeyboardInterrupt as error:
            if command.resumes and getattr(options, "resume", True):
                error.add_note("what is finished is kept; the same command carries on")
            raise


if __name__ == "__main__":
    sys.exit(main())
