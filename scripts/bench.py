"""Speed, measured side by side: ``python scripts/bench.py NAME [--quick]``.

Prints a table for people and, as the last line, one JSON object for programs:
``{figure: {"ours": x, "other": y, "ratio": r, "unit": u}}``, with ``ours`` and ``unit`` alone
where there is no rival. Rivals take turns in one process on one thread. Run it on an otherwise
idle machine.
"""

from __future__ import annotations

import os

# Read once when numpy and torch load: everything is measured on one thread.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402
import importlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from embodied.core.errors import EmbodiedError, unknown_name  # noqa: E402

BENCHMARKS = {
    "sim": "simulation steps, pictures, resets and worker processes, against stock robosuite",
    "suite": "simulation steps of every task",
    "memory_vla": "MemoryVLA's bank, control rate, cost of memory in training, peak memory",
    "export": "an exported policy against torch, and behind a server",
    "sam2act": "SAM2Act's renderer and search, decisions and keyframes a second, training, memory",
    "train": "training and acting with each memory, against the memoryless twin",
    "recall": "games of the recall suite, reads of a long past, training of HCAM agents",
}
"""Name -> what it measures; each is a module of scripts/benchmarks with ``measure(plan)``."""


def main(argv: Sequence[str] | None = None) -> int:
    names = "".join(f"\n  {name.ljust(12)}{text}" for name, text in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        "scripts/bench.py",
        description=f"Measures speed. Names:{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a rough look within a minute or two")
    options = parser.parse_args(argv)
    try:
        if options.name not in BENCHMARKS:
            raise unknown_name("benchmark", options.name, BENCHMARKS)
        from benchmarks import timing  # loads torch; bad names are answered without

        print(timing.machine_line(), flush=True)
        module = importlib.import_module(f"benchmarks.{options.name}")
        figures = module.measure(timing.QUICK if options.quick else timing.FULL)
    except EmbodiedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    print(timing.report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
