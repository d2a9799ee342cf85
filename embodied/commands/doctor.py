"""``embodied doctor``: is this machine fit, and what to type if not."""

from __future__ import annotations

import dataclasses
import json

from embodied import doctor
from embodied.commands.base import Command, finish, table


@dataclasses.dataclass
class Options:
    """Keys of ``embodied doctor``.

    Attributes:
      quick: Leave out drawing a frame and asking for a GPU.
      json: Print JSON instead of a table.
    """

    quick: bool = False
    json: bool = False


def run(options: Options) -> int:
    """Prints one row a check; exit code 1 if one failed."""
    checks = doctor.examine(options.quick)
    fit = doctor.fit(checks)
    if options.json:
        print(json.dumps({"fit": fit, "checks": [dataclasses.asdict(c) for c in checks]}, indent=1))
        return 0 if fit else 1
    print(table(("check", "status", "found"), [(c.name, c.status, c.found) for c in checks]))
    advice = [f"  {c.name}: {c.advice}" for c in checks if c.advice]
    if advice:
        print("\nadvice:", *advice, sep="\n")
    print()
    finish(None, "embodied demo" if fit else "embodied doctor (after the lines above)")
    return 0 if fit else 1


COMMAND = Command(run, Options, examples=("doctor", "doctor --quick"))
