"""Nothing is lost: ``python scripts/kill_test.py [--quick] [--kills 10] [--out DIRECTORY]``.

Collects and trains once undisturbed and once killed by SIGKILL at random moments and started
again each time. After every kill, everything that was finished before must read; in the end
both results must be equal, bit for bit. Writes ``kill.json`` and ``kill.md``; exit code 1 if
anything was lost or differs.

Of the random moments, a fifth falls into the start of the process, the others into its work.
Some further kills are aimed: they strike as soon as a half-written file is seen. About half of
the others spare the process's own workers, which must then end by themselves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustness.killing import Kill, torment
from robustness.stages import Collecting, Training

from embodied import __version__
from embodied.core.errors import EmbodiedError
from embodied.core.files import write_atomic, write_json
from embodied.evaluate import provenance

HEADER = ("kill", "in its", "after", "hit", "finished", "read", "lost", "half-written left")


def cells(number: int, kill: Kill, total: int) -> list[str]:
    """Returns a kill as a row of the table."""
    return [
        str(number),
        kill.kind,
        f"{kill.after_s:.2f} s",
        "process alone" if kill.alone else "with its workers",
        f"{kill.finished} of {total}",
        str(kill.readable),
        ", ".join(map(str, kill.lost)) or kill.damage or "nothing",
        ", ".join(kill.half_written) or "nothing",
    ]


def markdown(result: dict[str, Any]) -> str:
    """Returns ``kill.md``."""
    lines = [
        "# Killed and carried on",
        "",
        f"`kill -9` at random moments, each followed by the same command again. {result['machine']}"
        f"; {result['created_utc']}; commit {result['commit']}. Command: `{result['command']}`.",
        "",
        "`start`: while the process starts; `work`: at a random moment of its work; `write`: "
        "aimed, as soon as a half-written file was seen. `finished` counts what was complete on "
        "disk just before, `read` what was read whole (hashes compared) right after. A run keeps "
        "its newest two checkpoints; one that reads stands for those before it.",
    ]
    for name, stage in result["stages"].items():
        equal = "equal" if not stage["different"] else f"DIFFERENT in {stage['different']}"
        lines += [
            "",
            f"## {name}: {len(stage['kills'])} kills, {'passed' if stage['ok'] else 'FAILED'}",
            "",
            f"{stage['total']} {stage['unit']}, undisturbed in {stage['undisturbed_s']} s. The "
            f"killed run's result is {equal} bit for bit in {stage['files_compared']} files "
            f"(SHA-256 of all contents {stage['content_sha256'][:16]} against "
            f"{stage['content_sha256_killed'][:16]}). Processes left over: "
            f"{stage['processes_left_over']}.",
            "",
            "| " + " | ".join(HEADER) + " |",
            "|" + "---|" * len(HEADER),
        ]
        for number, row in enumerate(stage["kills"], 1):
            lines.append("| " + " | ".join(cells(number, Kill(**row), stage["total"])) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/kill_test.py", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few kills of tiny runs")
    parser.add_argument("--kills", type=int, default=None, help="random kills of each (10)")
    parser.add_argument("--aimed", type=int, default=None, help="aimed kills of each (3)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_args(argv)
    quick = options.quick
    kills = options.kills if options.kills is not None else (2 if quick else 10)
    aimed = options.aimed if options.aimed is not None else (1 if quick else 3)
    collecting = Collecting(total=10 if quick else 96, workers=1 if quick else 2)
    small = ("policy.config.width=16", "policy.config.readout_queries=2") if quick else ()
    result: dict[str, Any] = {
        "format_version": 1,
        "ok": False,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "command": f"scripts/kill_test.py --kills {kills} --aimed {aimed} --seed {options.seed}"
        + (" --quick" if quick else ""),
        "seed": options.seed,
        "stages": {},
    }
    with tempfile.TemporaryDirectory(prefix="kill-test-") as name:
        folder = Path(name)
        data = folder / "collect-whole"
        steps = (12, 2) if quick else (90, 3)
        for stage in (collecting, Training(data, *steps, options=small)):
            try:
                result["stages"][stage.name] = torment(
                    stage, folder, kills, aimed, options.seed, lambda line: print(line, flush=True)
                )
            except EmbodiedError as error:
                print(f"kill_test: {error}", file=sys.stderr)
                return error.exit_code
    result["ok"] = all(stage["ok"] for stage in result["stages"].values())
    write_json(options.out / "kill.json", result)
    write_atomic(options.out / "kill.md", markdown(result))
    print(f"{'passed' if result['ok'] else 'FAILED'}: see {options.out / 'kill.md'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
