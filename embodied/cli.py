"""The ``embodied`` command: finds the verb, fills its options, prints errors in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from embodied import __version__
from embodied.commands import VERBS
from embodied.core.errors import EmbodiedError


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
        return _run(words)
    except EmbodiedError as error:
        print(f"embodied: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("embodied: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone; keep the interpreter's shutdown quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
        return command.run(base.parse(command, rest, verb)) or 0


if __name__ == "__main__":
    sys.exit(main())
