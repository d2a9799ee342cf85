"""Success under disturbance: ``python scripts/robustness_table.py CLAIM [KIND ...]``.

Evaluates a claim's policy (or a run, checkpoint or bundle) and its memoryless twin on the same
seeds while something goes wrong: actions that miss their tick, lost observations, late answers,
moved cameras, other light. Each cell is kept as soon as it is measured, so that a run that is
killed goes on where it was. Writes ``disturbed-NAME.json``, ``.md`` and ``.svg``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402
from robustness.grid import KINDS, MEMORY, TWIN, Grid, cells  # noqa: E402
from robustness.panels import markdown, picture  # noqa: E402

from embodied import __version__  # noqa: E402
from embodied.claims.index import find_claim, read_index  # noqa: E402
from embodied.core.errors import EmbodiedError  # noqa: E402
from embodied.core.files import read_json, write_atomic  # noqa: E402
from embodied.evaluate import provenance  # noqa: E402
from embodied.evaluate.config import EvaluateConfig  # noqa: E402
from embodied.export.exported import load  # noqa: E402


def twin_of(source: str) -> str:
    """Returns the claim of the memoryless twin of a claim; "" where there is none."""
    if source not in {row["id"] for row in read_index()}:
        return ""
    return find_claim(source)["twin"] or ""


def measure(options: argparse.Namespace) -> Path:
    """Measures what is missing and writes the three files; returns the Markdown one."""
    torch.set_num_threads(1)
    twin = options.twin or twin_of(options.source)
    sources = {MEMORY: options.source, **({TWIN: twin} if twin else {})}
    policies = {role: load(source) for role, source in sources.items()}
    config = EvaluateConfig(
        options.source,
        episodes=options.episodes,
        batch=options.batch,
        task=[options.task] if options.task else [],
    )
    stem = options.out / f"disturbed-{Path(options.source).name}"
    file = stem.with_suffix(".json")
    grid = Grid(file, policies, config)
    setting = grid.setting
    kept = ("path", "sha256", "policy", "memory", "level", "parameters", "package_version")
    head = {
        "format_version": 1,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "command": f"python scripts/robustness_table.py {options.source} "
        f"--episodes {options.episodes} --batch {options.batch}",
        "task": setting.task,
        "level": setting.level,
        "observation": setting.env.observation,
        "ceiling": setting.ceiling,
        "episodes": options.episodes,
        "policies": {
            role: {k: v for k, v in provenance.describe(loaded).items() if k in kept}
            for role, loaded in policies.items()
        },
    }
    grid.run(cells(options.kinds, setting.env.observation != "state"), head)
    result = read_json(file)
    write_atomic(stem.with_suffix(".svg"), picture(result))
    write_atomic(stem.with_suffix(".md"), markdown(result, stem.with_suffix(".svg").name))
    return stem.with_suffix(".md")


def main(argv: Sequence[str] | None = None) -> int:
    kinds = "".join(f"\n  {name.ljust(20)}{kind.what}" for name, kind in KINDS.items())
    parser = argparse.ArgumentParser(
        "scripts/robustness_table.py",
        description=f"Success under disturbance. Kinds:{kinds}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="CLAIM", help="claim, run, checkpoint or bundle")
    parser.add_argument("kinds", metavar="KIND", nargs="*", help="all by default")
    parser.add_argument("--twin", default="", help="memoryless twin; by default the claim's")
    parser.add_argument("--task", default="", help="one of its tasks; its first by default")
    parser.add_argument("--episodes", type=int, default=100, help="of each cell")
    parser.add_argument("--batch", type=int, default=16, help="part of the result, as ever")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_intermixed_args(argv)
    try:
        made = measure(options)
    except EmbodiedError as error:
        print(f"robustness_table: {error}", file=sys.stderr)
        return error.exit_code
    print(f"made  {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
