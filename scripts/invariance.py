"""Same results however they are run: ``python scripts/invariance.py CHECKPOINT [--quick]``.

Evaluates a checkpoint with 0, 1 and 2 simulator processes (all rows in this process, or side
by side in others), which must change no bit; replays recorded actions in Gymnasium's own
synchronous and asynchronous vector environments; and compares batch sizes: actions on recorded
observations must agree to 1e-5, and 98 % of closed-loop outcomes, of which the others are
listed. Writes ``invariance.json`` and ``invariance.md``; exit code 1 if any of it fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from robustness.witness import Witness, answers, gymnasium_differences, record

from embodied import __version__
from embodied.core.errors import EmbodiedError
from embodied.core.files import write_atomic, write_json
from embodied.core.rng import EVAL_SEED_START
from embodied.evaluate import api, provenance
from embodied.evaluate.results import NONE, EpisodeResult
from embodied.evaluate.runner import closing
from embodied.train.checkpoint import LoadedPolicy, load

ACTION_TOLERANCE, AGREEMENT = 1e-5, 0.98
OUTCOME = ("success", "commit", "failure_kind")
"""What an episode came to; its length may shift by a tick without changing that."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How much to run.

    Attributes:
      episodes: Closed-loop episodes of each setting.
      recorded: Recorded episodes whose observations are answered at each batch size.
      workers: Numbers of simulator processes; the first is the reference.
      batches: Batch sizes; the last is the reference and the one used with workers.
    """

    episodes: int
    recorded: int
    workers: tuple[int, ...] = (0, 1, 2)
    batches: tuple[int, ...] = (1, 4, 16)


FULL, QUICK = Size(100, 16), Size(6, 3, (0, 2), (1, 3))


def measure(loaded: LoadedPolicy, size: Size, task: str = "") -> dict[str, Any]:
    """Runs everything for one task of a checkpoint; returns the content of the JSON file."""
    torch.set_num_threads(1)
    source = str(loaded.path)
    config = api.EvaluateConfig(source, task=[task] if task else [], progress=False)
    setting = api.settings(config, loaded)[0]
    where = (setting.task, setting.level, setting.env)
    seeds = list(range(EVAL_SEED_START, EVAL_SEED_START + size.episodes))
    runs: dict[tuple[int, int], tuple[list[EpisodeResult], str]] = {}
    plans = [(size.batches[-1], workers) for workers in size.workers]
    plans += [(batch, size.workers[0]) for batch in size.batches[:-1]]
    for batch, workers in plans:
        print(f"{len(seeds)} episodes of {setting.task}, batch {batch}, workers {workers}")
        one = dataclasses.replace(config, batch=batch, workers=workers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more workers than cores are no mistake here
            vector = Witness(api.make_vec(one, setting))
        with closing(vector):
            rows = api.run_episodes(one, loaded, setting, vector, NONE, seeds)
        runs[batch, workers] = rows, vector.hexdigest()
    recorded = record(*where, loaded.policy.spec, seeds[: size.recorded])
    replay = recorded[: max(2, size.recorded // 4)]
    print("recorded observations, Gymnasium's vector environments")
    return {
        "task": setting.task,
        "level": setting.level,
        "observation": setting.env.observation,
        "seeds": [seeds[0], seeds[-1]],
        "workers": _workers(runs, size),
        "gymnasium": {
            kind: {
                "rows": len(replay),
                "differences": gymnasium_differences(kind, *where, replay)[:20],
            }
            for kind in ("sync", "async")
        },
        "actions": _actions(loaded, recorded, size),
        "outcomes": _outcomes(runs, size),
    }


def _workers(runs: dict[Any, Any], size: Size) -> list[dict[str, Any]]:
    batch = size.batches[-1]
    expected, digest = runs[batch, size.workers[0]]
    return [
        {
            "workers": workers,
            "how": "asynchronous, in processes" if workers else "synchronous, in this process",
            "batch": batch,
            "episodes": len(expected),
            "successes": sum(row.success for row in runs[batch, workers][0]),
            "sha256": runs[batch, workers][1],
            "equal": runs[batch, workers] == (expected, digest),
        }
        for workers in size.workers
    ]


def _actions(loaded: LoadedPolicy, recorded: list[Any], size: Size) -> list[dict[str, Any]]:
    chunks = {batch: answers(loaded.policy, recorded, batch) for batch in size.batches}
    reference = chunks[size.batches[-1]]
    if not np.isfinite(reference).all():
        raise EmbodiedError("the policy answers NaN on recorded observations; nothing to compare")
    return [
        {
            "batch": batch,
            "episodes": len(recorded),
            "chunks": len(chunk),
            "largest_difference": float(np.abs(chunk - reference).max()),
        }
        for batch, chunk in chunks.items()
    ]


def _outcomes(runs: dict[Any, Any], size: Size) -> list[dict[str, Any]]:
    reference = runs[size.batches[-1], size.workers[0]][0]
    rows = []
    for batch in size.batches:
        episodes = runs[batch, size.workers[0]][0]
        pairs = list(zip(episodes, reference, strict=True))
        differing = [(one, other) for one, other in pairs if _outcome(one) != _outcome(other)]
        rows.append(
            {
                "batch": batch,
                "episodes": len(pairs),
                "successes": sum(episode.success for episode in episodes),
                "agree": len(pairs) - len(differing),
                "equal_to_the_tick": sum(one.outcome() == other.outcome() for one, other in pairs),
                "differing": [
                    {"seed": a.seed, "outcome": _outcome(a), "reference": _outcome(b)}
                    for a, b in differing
                ],
            }
        )
    return rows


def _outcome(episode: EpisodeResult) -> dict[str, Any]:
    return {name: getattr(episode, name) for name in OUTCOME}


def passed(result: dict[str, Any]) -> bool:
    """Whether everything is as invariant as it must be."""
    return (
        all(row["equal"] for row in result["workers"])
        and not any(row["differences"] for row in result["gymnasium"].values())
        and all(row["largest_difference"] <= ACTION_TOLERANCE for row in result["actions"])
        and all(row["agree"] >= AGREEMENT * row["episodes"] for row in result["outcomes"])
    )


def markdown(result: dict[str, Any]) -> str:
    """Returns ``invariance.md``."""
    policy = result["policy"]
    lines = [
        "# The same results however they are run",
        "",
        f"{policy['policy']}, memory {policy['memory']}, weights {policy['sha256'][:16]}, on "
        f"{result['task']} {result['level']} from {result['observation']}, seeds "
        f"{result['seeds'][0]} to {result['seeds'][1]}. {result['machine']}; "
        f"{result['created_utc']}; commit {result['commit']}. "
        f"{'Passed' if result['ok'] else 'FAILED'}.",
        "",
        "## Worker processes: every bit",
        "",
        "SHA-256 of every action, observation, reward and ending, in order.",
        "",
        "| workers | how | batch | episodes | success | SHA-256 | equal |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["workers"]:
        lines.append(
            f"| {row['workers']} | {row['how']} | {row['batch']} | {row['episodes']} | "
            f"{row['successes']} | {row['sha256'][:16]} | {'yes' if row['equal'] else 'NO'} |"
        )
    lines += [
        "",
        "Recorded actions replayed in Gymnasium's vector environments, observations at every "
        "observation tick against the recorded ones:",
        "",
        "| kind | rows | differing |",
        "|---|---|---|",
    ]
    for kind, row in result["gymnasium"].items():
        lines.append(f"| {kind} | {row['rows']} | {'; '.join(row['differences']) or 'none'} |")
    lines += [
        "",
        "## Batch sizes: actions on recorded observations",
        "",
        f"Largest difference of any number of a chunk from the last row's (<= {ACTION_TOLERANCE}).",
        "",
        "| batch | episodes | chunks | largest difference |",
        "|---|---|---|---|",
    ]
    for row in result["actions"]:
        lines.append(
            f"| {row['batch']} | {row['episodes']} | {row['chunks']} | "
            f"{row['largest_difference']:.2g} |"
        )
    lines += [
        "",
        "## Batch sizes: closed loop",
        "",
        f"Outcomes ({', '.join(OUTCOME)}) that agree with the last row's (>= {AGREEMENT:.0%}).",
        "",
        "| batch | episodes | success | agree | equal to the tick | differing |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["outcomes"]:
        differing = "; ".join(
            f"seed {d['seed']}: {_words(d['outcome'])} against {_words(d['reference'])}"
            for d in row["differing"]
        )
        lines.append(
            f"| {row['batch']} | {row['episodes']} | {row['successes']} | {row['agree']} | "
            f"{row['equal_to_the_tick']} | {differing or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def _words(outcome: dict[str, Any]) -> str:
    end = "success" if outcome["success"] else outcome["failure_kind"]
    return f"{end} ({outcome['commit'] or 'no commit'})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/invariance.py", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="run directory, checkpoint directory or claim")
    parser.add_argument("--task", default="", help="one of its tasks; its first by default")
    parser.add_argument("--quick", action="store_true", help="a few episodes")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_args(argv)
    try:
        loaded = load(options.checkpoint)
        described = provenance.describe(loaded)
        result = measure(loaded, QUICK if options.quick else FULL, options.task)
    except EmbodiedError as error:
        print(f"invariance: {error}", file=sys.stderr)
        return error.exit_code
    kept = ("policy", "memory", "sha256", "tasks", "level", "parameters", "package_version")
    result = {
        "format_version": 1,
        "ok": passed(result),
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "policy": {key: described[key] for key in kept},
        **result,
    }
    write_json(options.out / "invariance.json", result)
    write_atomic(options.out / "invariance.md", markdown(result))
    print(f"{'passed' if result['ok'] else 'FAILED'}: see {options.out / 'invariance.md'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
