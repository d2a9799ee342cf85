"""A bundle drives a robot in real time: ``python scripts/realtime.py BUNDLE [--seconds 600]``.

The simulated robot runs in its own process, the loop in this one. One long run without faults,
then one with each of four: the cameras hang for 2 s, the policy computes a second too long, the
line is cut for 3 s, the robot's process is killed and started again. Reads from the logs what
the loop did, and replays them. Writes ``realtime.json`` and ``realtime.md``; exit code 1 if any
check fails. The long run says something about time only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustness.driving import PLAIN, RUNS, Rig, checked

from embodied import __version__
from embodied.core.errors import EmbodiedError
from embodied.core.files import write_atomic, write_json
from embodied.core.rng import EVAL_SEED_START
from embodied.deploy.robot import read_robot
from embodied.evaluate import provenance
from embodied.evaluate.results import NONE, read_episodes
from embodied.evaluate.stats import mcnemar
from embodied.report.text import interval, percent
from embodied.serve.bundle import read_bundle

TITLES = {
    "plain": "Without a fault",
    "camera_frozen": "The cameras hang for 2 s",
    "policy_stalled": "The policy computes a second too long",
    "line_cut": "The line is cut for 3 s",
    "robot_restarted": "The robot's process is killed and started again",
}
SHOWN = 14
"""Parts of a run's story that the report tells."""


def robot_words(checkpoint: dict[str, Any], task: str) -> list[str]:
    """Returns ``key=value`` of ``embodied robot`` for the environment of a bundle."""
    env, tasks = checkpoint["env"], checkpoint["tasks"]
    task = task or tasks[0]
    levels = dict(zip(tasks, checkpoint.get("levels") or [], strict=False))
    words = [f"task={task}", f"level={levels.get(task, checkpoint['level'])}"]
    words += [f"env.{key}={env[key]}" for key in ("observation", "image_size", "control")]
    return [*words, f"env.visuals={env['visuals']}", f"env.cameras=[{','.join(env['cameras'])}]"]


def against_offline(run: dict[str, Any], episodes: Path) -> dict[str, Any]:
    """Compares a run's outcomes with an evaluation's of the same seeds."""
    known = {e.seed: e.success for e in read_episodes(episodes) if e.intervene == NONE}
    pairs = [
        (outcome == "success", known[EVAL_SEED_START + number])
        for number, outcome in enumerate(run["outcomes"])
        if EVAL_SEED_START + number in known
    ]
    paired = mcnemar([a for a, _ in pairs], [b for _, b in pairs])
    return {
        "episodes": paired.n,
        "only_in_real_time": paired.only_a,
        "only_offline": paired.only_b,
        "p_value": paired.p_value,
    }


def markdown(result: dict[str, Any]) -> str:
    """Returns ``realtime.md``."""
    lines = [
        "# In real time, with and without faults",
        "",
        f"{result['policy']} on {result['task']}, driven at {result['control_hz']:g} Hz against a "
        f"simulated robot in another process. {result['machine']}; {result['created_utc']}; commit "
        f"{result['commit']}. Command: `{result['command']}`. "
        f"{'Passed' if result['ok'] else 'FAILED'}.",
        "",
        "| run | s | ticks | late | answers | late | latency ms p50, p95, p99, max | stops | "
        "episodes | success |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, run in result["runs"].items():
        rate = run["successes"] / run["episodes"] if run["episodes"] else None
        latency = ", ".join(f"{value:g}" for value in run["latency_ms"].values())
        lines.append(
            f"| {name} | {run['seconds']:g} | {run['ticks']:,} | {run['late_ticks']} "
            f"({percent(run['late_share'])}) | {run['answers']} | {run['late_answers']} | "
            f"{latency} | {run['stops']} | {run['episodes']} | {percent(rate)} "
            f"({interval(run['low'], run['high'])}) |"
        )
    memory = result["runs"].get(PLAIN, {}).get("memory_mib")
    if memory:
        shown = ", ".join(f"{memory[i * (len(memory) - 1) // 6]:.0f}" for i in range(7))
        lines += ["", f"Resident memory of the loop's process over the long run, MiB: {shown}."]
    if result["offline"]:
        one = result["offline"]
        lines += [
            "",
            f"Against the offline evaluation of the same {one['episodes']} seeds: "
            f"{one['only_in_real_time']} succeed in real time only, {one['only_offline']} offline "
            f"only (exact McNemar p = {one['p_value']:.2g}).",
        ]
    for name, run in result["runs"].items():
        lines += ["", f"## {TITLES[name]}", ""]
        lines += [f"- {'yes' if ok else 'NO'}: {what}" for what, ok in run["checks"].items()]
        odd = [part for part in run["story"] if part[0] not in ("act", "held", "done")]
        told = [f"{what}: {count} ticks" for what, count, _ in odd[:SHOWN]]
        more = f" and {len(odd) - SHOWN} more" if len(odd) > SHOWN else ""
        lines += ["", f"Beside acting and being held: {'; '.join(told) or 'nothing'}{more}."]
    return "\n".join(lines) + "\n"


def measure(options: argparse.Namespace, logs: Path) -> dict[str, Any]:
    """Runs everything; returns the content of ``realtime.json``."""
    bundle, robot = read_bundle(options.bundle), read_robot(options.robot)
    words = robot_words(bundle.checkpoint, options.task)
    rig, runs = Rig(Path(options.bundle), robot, words, logs), {}
    for name in options.runs or RUNS:
        seconds = options.seconds if name == PLAIN else options.fault_seconds
        print(f"{name}: {seconds:g} s", flush=True)
        run = rig.run(name, seconds)
        runs[name] = {**run, "checks": checked(name, run)}
    offline = None
    if options.compare is not None and PLAIN in runs:
        offline = against_offline(runs[PLAIN], options.compare)
    return {
        "format_version": 1,
        "ok": all(all(run["checks"].values()) for run in runs.values()),
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "machine": provenance.cpu_model(),
        "command": f"python scripts/realtime.py {Path(options.bundle).name} "
        f"--seconds {options.seconds:g} --fault-seconds {options.fault_seconds:g}",
        "policy": f"{bundle.checkpoint['policy']} ({Path(options.bundle).name})",
        "task": words[0].partition("=")[2],
        "control_hz": bundle.spec.control_hz,
        "offline": offline,
        "runs": runs,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/realtime.py", description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("runs", metavar="RUN", nargs="*", help=f"of {', '.join(RUNS)}; all")
    parser.add_argument("--seconds", type=float, default=600.0, help="of the run without a fault")
    parser.add_argument("--fault-seconds", type=float, default=60.0, help="of each other run")
    parser.add_argument("--robot", default="panda_simulated", help="its description")
    parser.add_argument("--task", default="", help="one of the bundle's tasks; its first")
    parser.add_argument("--compare", type=Path, help="episodes.jsonl of an offline evaluation")
    parser.add_argument("--logs", type=Path, help="directory that keeps the runs' logs")
    parser.add_argument("--out", type=Path, default=Path("results/robustness"))
    options = parser.parse_args(argv)
    for name in options.runs:
        if name not in RUNS:
            parser.error(f"unknown run {name!r}; expected some of {', '.join(RUNS)}")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            logs = options.logs or Path(scratch)
            logs.mkdir(parents=True, exist_ok=True)
            result = measure(options, logs)
    except EmbodiedError as error:
        print(f"realtime: {error}", file=sys.stderr)
        return error.exit_code
    write_json(options.out / "realtime.json", result)
    write_atomic(options.out / "realtime.md", markdown(result))
    print(f"{'passed' if result['ok'] else 'FAILED'}: see {options.out / 'realtime.md'}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
