"""Many small runs of one question: ``python scripts/study.py NAME [VARIANT ...]``.

Trains and evaluates every variant (an interrupted study carries on where it was), then writes
``results/studies/NAME/``: a table, a picture and the numbers. Lines that stand there already stay,
whether their runs are still here or not. A study that makes some of them in another way now is
refused before anything runs; ``--drop`` leaves those out. ``--table`` writes the table without
running anything.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from embodied.core.errors import EmbodiedError, unknown_name  # noqa: E402

STUDIES = {
    "memory_vla_ablations": "what each choice of MemoryVLA is worth",
    "sam2act_ablations": "what each choice of SAM2Act+ is worth",
    "sam2act_views": "what larger views buy SAM2Act",
    "memory_vla_chunks": "hierarchical chunks as the memory of MemoryVLA, by imitation",
    "busy_gaps": "what a bank keeps of a cue over a long gap in which other things happen",
    "recall_ballet": "which memory lets an agent recall what it saw, and for how many frames",
    "recall_levels": "how many dancers and dances chunks get to, also unlike those of training",
    "recall_walking": "Ballet with walking: a grid, and official pixels for an hour",
    "recall_families": "which memory lets an agent recall in more families of tasks",
    "recall_robot": "which memory lets an arm recall, learnt by reinforcement",
    "recall_gaps": "how long after it was shown something is still found, far beyond training",
}
"""Name -> question; each is a module of scripts/studies with a ``STUDY``."""


def main(argv: Sequence[str] | None = None) -> int:
    names = "".join(f"\n  {name.ljust(22)}{text}" for name, text in STUDIES.items())
    parser = argparse.ArgumentParser(
        "scripts/study.py",
        description=f"Runs a study. Names:{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("variants", metavar="VARIANT", nargs="*")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--out", type=Path, default=Path("results/studies"))
    parser.add_argument("--table", action="store_true", help="write the table, run nothing")
    parser.add_argument(
        "--drop", action="store_true", help="leave out published lines made in another way"
    )
    options = parser.parse_intermixed_args(argv)
    try:
        if options.name not in STUDIES:
            raise unknown_name("study", options.name, STUDIES)
        from studies import lines, study, table  # load torch; bad names are answered without

        question = importlib.import_module(f"studies.{options.name}").STUDY
        directory = options.out / question.name
        every = study.jobs(question, [], options.runs)
        asked = [] if options.table else study.jobs(question, options.variants, options.runs)
        if not options.drop:  # said now, not after hours
            here = {line.variant.name for line in study.read(every)}
            lines.check(directory, question, here | {job.variant.name for job in asked})
        study.work(asked, options.jobs)
        found = study.read(every)
        told, left_out = lines.with_published(directory, question, found, options.drop)
        table.write(directory, question, told)
    except EmbodiedError as error:
        print(f"study: {error}", file=sys.stderr)
        return error.exit_code
    if left_out:
        print(
            f"study: left out, as {question.name} makes them in another way now, or not at all: "
            f"{', '.join(left_out)}",
            file=sys.stderr,
        )
    print(f"made  {directory}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
