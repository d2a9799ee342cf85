"""Whether a bundle does as well as its checkpoint: ``python scripts/exported_test.py SOURCE``.

Exports a claim or a run, once as it is and once with weights in 8 bits, and lets the checkpoint and
both bundles play the same seeds in the simulator. Pairs of outcomes are compared by McNemar's exact
test: the plain bundle must not be found worse; what the smaller one loses is told. What is done
already is kept, so that a killed run goes on. Writes ``exported-NAME.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from embodied import __version__  # noqa: E402
from embodied.core.errors import EmbodiedError  # noqa: E402
from embodied.core.files import read_json, write_atomic, write_json  # noqa: E402
from embodied.evaluate import provenance  # noqa: E402
from embodied.evaluate.api import EPISODES, RESULTS, evaluate  # noqa: E402
from embodied.evaluate.executors.config import ExecutorConfig  # noqa: E402
from embodied.evaluate.results import read_episodes  # noqa: E402
from embodied.evaluate.stats import mcnemar, wilson  # noqa: E402
from embodied.export.bundle import export  # noqa: E402
from embodied.report.text import interval, percent  # noqa: E402
from embodied.serve.bundle import PARITY  # noqa: E402

CHECKPOINT, BUNDLE, SMALL = "checkpoint", "bundle", "8 bits"
WORSE = 0.05
"""A p-value below which a bundle that wins less often is found worse."""


def outcomes(source: str, options: argparse.Namespace, name: str) -> list[bool]:
    """Returns the success of each seed in order; evaluates unless that is done."""
    out = options.work / f"evaluation-{name.replace(' ', '-')}"
    if not (out / RESULTS).exists():
        evaluate(
            source,
            episodes=options.episodes,
            batch=options.batch,
            seed_start=options.seed_start,
            task=[options.task] if options.task else [],
            videos=0,
            out=str(out),
        )
    rows = sorted(read_episodes(out / EPISODES), key=lambda row: (row.task, row.level, row.seed))
    return [row.success for row in rows]


def exported(options: argparse.Namespace, name: str) -> Path:
    """Returns the bundle directory; exports unless that is done."""
    out = options.work / name.replace(" ", "-")
    if not out.exists():
        export(options.source, out, [1, options.batch], ExecutorConfig(), name == SMALL)
    return out


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the table."""
    reference = outcomes(options.source, options, CHECKPOINT)
    rows = [_row(CHECKPOINT, reference, reference, {})]
    for name in (BUNDLE, SMALL):
        bundle = exported(options, name)
        size = sum(file.stat().st_size for file in bundle.iterdir())
        parity = read_json(bundle / PARITY)["formats"]["onnx"]["1"]
        own = {"bytes": size, "action": parity["action"], "state": parity["state"]}
        rows.append(_row(name, outcomes(str(bundle), options, name), reference, own))
    plain = rows[1]
    worse = plain["difference"] < 0 and plain["p_value"] < WORSE
    return {"ok": not worse, "rows": rows}


def _row(
    name: str, won: Sequence[bool], reference: Sequence[bool], own: dict[str, Any]
) -> dict[str, Any]:
    low, high = wilson(sum(won), len(won))
    paired = dataclasses.asdict(mcnemar(won, reference))
    paired["only_checkpoint"] = paired.pop("only_b")
    paired["only_this"] = paired.pop("only_a")
    success = {"success": sum(won) / len(won), "low": low, "high": high}
    return {"name": name, **success, **paired, **own}


def markdown(result: dict[str, Any]) -> str:
    """Returns ``exported-NAME.md``."""
    lines = [
        f"# {result['policy']}: its bundle in the simulator",
        "",
        f"The same {result['rows'][0]['n']} seeds from {result['seed_start']:,} on for each line; "
        "p is McNemar's exact test against the checkpoint. Differences of actions and memory are "
        f"those of the bundle's own check. {result['machine']}; {result['created_utc']}; commit "
        f"{result['commit']}. Command: `{result['command']}`. "
        f"{'Passed' if result['ok'] else 'FAILED'}.",
        "",
        "| | success | 95 % interval | only this | only checkpoint | p | actions | memory | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        paired = [row["only_this"], row["only_checkpoint"], f"{row['p_value']:.2g}"]
        own = ["–"] * 3
        if "bytes" in row:
            own = [f"{row['action']:.1e}", f"{row['state']:.1e}", f"{row['bytes'] / 1e6:.1f}"]
        else:
            paired = ["–"] * 3
        cells = [row["name"], percent(row["success"]), interval(row["low"], row["high"])]
        lines.append("| " + " | ".join(map(str, [*cells, *paired, *own])) + " |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/exported_test.py", description=__doc__.split("\n")[0])
    parser.add_argument("source", help="claim, run or checkpoint")
    parser.add_argument("--task", default="", help="one of its tasks; all by default")
    parser.add_argument("--episodes", type=int, default=200, help="of each task")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed-start", type=int, default=2_100_000)
    parser.add_argument("--work", type=Path, help="bundles and evaluations; runs/exported-NAME")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_args(argv)
    name = Path(options.source).name
    options.work = options.work or Path("runs") / f"exported-{name}"
    try:
        measured = measure(options)
    except EmbodiedError as error:
        print(f"exported_test: {error}", file=sys.stderr)
        return error.exit_code
    result = {
        "format_version": 1,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "command": f"scripts/exported_test.py {name} --episodes {options.episodes} --batch "
        f"{options.batch} --seed-start {options.seed_start}",
        "policy": name,
        "seed_start": options.seed_start,
        **measured,
    }
    write_json(options.out / f"exported-{name}.json", result)
    write_atomic(options.out / f"exported-{name}.md", markdown(result))
    print(f"{'passed' if result['ok'] else 'FAILED'}: see {options.out / f'exported-{name}.md'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
