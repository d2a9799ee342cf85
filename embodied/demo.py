"""Memory at work within minutes: collect, train with and without memory, compare, report.

Every stage leaves a directory and is skipped when it is there already, so an interrupted demo
carries on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embodied import doctor
from embodied.collect import collect
from embodied.config import from_plain, load_yaml, save_yaml
from embodied.core.errors import ConfigError, EmbodiedError
from embodied.core.task import EnvConfig
from embodied.evaluate.summary import ABLE_COMMIT_RATE

TASK, LEVEL = "remember_color", "easy"
MEMORIES = {"memory": "perceptual_cognitive", "twin": "none"}
"""Folder of the run -> the memory it trains; everything else is equal."""
CLAIM = "memory_vla-remember_color-k3-rgb"
CONFIG_FILE = "demo.yaml"
EXPERT_EPISODES = 3
LABEL_HORIZON = 8
"""As many actions as the policy answers; each costs a simulated step."""
POLL_S = 0.5
MEMORY_SUCCESS, SWAP_FOLLOWED = 0.95, 0.90


@dataclasses.dataclass
class DemoConfig:
    """How large a demo.

    Attributes:
      out: Directory that holds everything the demo makes.
      demonstrations: Expert episodes to learn from.
      episodes: Fresh episodes of each policy.
      preset: Training preset of both policies.
      seed: Training seed of both policies.
      workers: Simulator processes; null for one a core.
      pretrained: Evaluate the shipped checkpoints instead of training.
    """

    out: str = "demo"
    demonstrations: int = 3000
    episodes: int = 150
    preset: str = "demo"
    seed: int = 0
    workers: int | None = None
    pretrained: bool = False

    def __post_init__(self) -> None:
        if self.demonstrations < 1 or self.episodes < 1:
            raise ConfigError(
                "expected demonstrations >= 1 and episodes >= 1, got "
                f"{self.demonstrations} and {self.episodes}"
            )


def demo(config: DemoConfig) -> Path:
    """Runs the demo, or what is left of it.

    Returns:
      The evaluation directory, which holds the report and the videos.

    Raises:
      ConfigError: If `out` holds something else, or a demo of other settings.
      EmbodiedError: If this machine can't run it, or a stage fails.
    """
    out = Path(config.out)
    sources = pretrained() if config.pretrained else {name: str(out / name) for name in MEMORIES}
    _claim_directory(out, config)
    stage = _Stages(3 if config.pretrained else 5)

    stage("is this machine fit?")
    _check_machine()

    stage("watching the expert, who sees the simulator's state")
    _watch_expert(out / "expert.mp4")

    if not config.pretrained:
        stage(f"collecting {config.demonstrations} demonstrations from camera images")
        data = out / "data"
        collect(
            TASK,
            LEVEL,
            EnvConfig(),
            episodes=config.demonstrations,
            out=data,
            num_workers=config.workers,
            label_horizon=LABEL_HORIZON,
        )
        stage("training two equal policies side by side, one with memory, one without")
        train_side_by_side(config, data, out)

    stage(f"{config.episodes} fresh episodes each, then once more with swapped memories")
    result = out / "evaluation"
    if result.exists():
        print(f"  kept from before: {result}")
        return result
    from embodied.evaluate.api import evaluate

    return evaluate(
        sources["memory"],
        twin=sources["twin"],
        episodes=config.episodes,
        intervene=["none", "swapped"],
        out=str(result),
    )


def pretrained() -> dict[str, str]:
    """Returns role -> claim id of the shipped network and its twin.

    Raises:
      EmbodiedError: If they are not in ``results/``, as in an installed wheel.
    """
    from embodied.claims import index

    rows = {row["id"]: row for row in index.read_index()}
    twin = rows.get(CLAIM, {}).get("twin")
    if not twin:
        raise EmbodiedError(
            f"the claim {CLAIM!r} and its twin are not in {index.results_root()}; shipped "
            "checkpoints come with a clone. Leave out --pretrained to train your own"
        )
    return {"memory": CLAIM, "twin": twin}


def findings(results: dict[str, Any]) -> list[tuple[str, bool]]:
    """Returns what the demo is about, each with whether these results show it.

    Args:
      results: Content of ``results.json``.
    """
    rows = {(row["role"], row["intervene"]): row for row in results["rows"]}
    main, twin = rows["policy", "none"], rows["twin", "none"]
    swap = rows["policy", "swapped"]
    followed = swap["swap_followed"]
    return [
        (
            f"with memory {main['successes']} of {main['n']} succeed (>= {MEMORY_SUCCESS:.0%})",
            main["success"] >= MEMORY_SUCCESS,
        ),
        (
            f"without, {twin['successes']} of {twin['n']}: the interval {_interval(twin)} holds "
            f"the ceiling {twin['ceiling']:.1%} and lies below {_interval(main)}",
            twin["low"] <= twin["ceiling"] <= twin["high"] < main["low"],
        ),
        (
            f"the policy without memory is able: it chooses in {twin['commit_rate']:.1%} of "
            f"episodes (>= {ABLE_COMMIT_RATE:.0%})",
            twin["commit_rate"] >= ABLE_COMMIT_RATE,
        ),
        (
            f"memory decides: given that of another episode, {swap['followed']} of "
            f"{swap['swapped']} do what that one saw (>= {SWAP_FOLLOWED:.0%})",
            followed is not None and followed >= SWAP_FOLLOWED,
        ),
    ]


def _interval(row: dict[str, Any]) -> str:
    return f"{row['low']:.1%} .. {row['high']:.1%}"


class _Stages:
    """Prints numbered headings with the time since the start."""

    def __init__(self, count: int) -> None:
        self.count, self.number, self.began = count, 0, time.monotonic()

    def __call__(self, title: str) -> None:
        self.number += 1
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        print(f"\n[{self.number}/{self.count}  {minutes}:{seconds:02d}]  {title}", flush=True)


def _claim_directory(out: Path, config: DemoConfig) -> None:
    file = out / CONFIG_FILE
    if file.exists():
        stored = from_plain(DemoConfig, load_yaml(file), source=str(file))
        if dataclasses.replace(stored, out=config.out, workers=config.workers) != config:
            raise ConfigError(
                f"{out} holds a demo of other settings: {stored}; choose another out= or "
                "remove the directory"
            )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} exists and is no demo; choose another out=")
    else:
        out.mkdir(parents=True, exist_ok=True)
        save_yaml(file, config)


def _check_machine() -> None:
    checks = doctor.examine(quick=True)
    for check in checks:
        if check.status in (doctor.WARN, doctor.FAIL):
            print(f"  {check.status} {check.name}: {check.found}. {check.advice}")
    if not doctor.fit(checks):
        raise EmbodiedError("this machine is not fit; see the lines above and `embodied doctor`")
    print(f"  yes: {doctor.cores()} cores, Python {sys.version.split()[0]}")


def _watch_expert(video: Path) -> None:
    if video.exists():
        print(f"  kept from before: {video}")
        return
    from embodied.play import play_expert

    played = play_expert(TASK, LEVEL, EnvConfig(), range(EXPERT_EPISODES), video)
    wins = sum(success for _, _, success, _ in played.outcomes)
    print(f"  {wins} of {len(played.outcomes)} right; the video: {video}")


# ---- two trainings in processes of their own --------------------------------------------


def train_side_by_side(config: DemoConfig, data: Path, out: Path) -> None:
    """Trains every entry of `MEMORIES`, one thread each, and shows their progress.

    Raises:
      EmbodiedError: If one fails; the others are stopped, with a checkpoint written.
    """
    processes = {}
    with contextlib.ExitStack() as stack:
        for name, memory in MEMORIES.items():
            run = out / name
            if _finished(run):
                print(f"  kept from before: {run}")
                continue
            words = _train_words(config, data, run, memory)
            processes[name] = stack.enter_context(_child(words, out / f"{name}.log"))
        _follow(processes, out)


def _train_words(config: DemoConfig, data: Path, run: Path, memory: str) -> list[str]:
    if (run / "config.yaml").exists():
        return ["train", "--resume", f"out={run}"]
    return [
        "train",
        f"task={TASK}",
        f"level={LEVEL}",
        f"preset={config.preset}",
        f"memory={memory}",
        f"data={data}",
        f"seed={config.seed}",
        f"out={run}",
    ]


def _finished(run: Path) -> bool:
    from embodied.train.checkpoint import checkpoints

    found = checkpoints(run)
    return bool(found) and int(found[-1].name) >= _steps(run)


def _steps(run: Path) -> int:
    return int(load_yaml(run / "config.yaml")["steps"])


@contextlib.contextmanager
def _child(words: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `embodied` with `words`, its output in `log`; asks it to stop on the way out."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "embodied.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # Ctrl-C in the terminal is answered here, once.
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # the trainer writes a checkpoint and stops
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _follow(processes: dict[str, subprocess.Popen[bytes]], out: Path) -> None:
    """Shows a bar for each process until all have ended."""
    from tqdm import tqdm

    from embodied.train.logger import read_metrics

    bars: dict[str, Any] = {
        name: tqdm(desc=f"  {name:<7}", unit="step", position=i, leave=True)
        for i, name in enumerate(processes)
    }
    # A log file gets a line now and then, a terminal a moving bar.
    pause_s = POLL_S if sys.stderr.isatty() else 15.0
    running, shown_s = dict(processes), 0.0
    try:
        while running:
            time.sleep(POLL_S)
            ended = [name for name, process in running.items() if process.poll() is not None]
            if ended or time.monotonic() - shown_s >= pause_s:
                shown_s = time.monotonic()
                for name in running:
                    _show_progress(bars[name], out / name, read_metrics)
            for name in ended:
                if running.pop(name).returncode != 0 or not _finished(out / name):
                    raise EmbodiedError(_failure(name, out / f"{name}.log"))
    finally:
        for bar in bars.values():
            bar.close()


def _show_progress(bar: Any, run: Path, read_metrics: Any) -> None:
    rows = read_metrics(run)
    if not rows:
        return
    if bar.total is None and (run / "config.yaml").exists():
        bar.reset(total=_steps(run))
    last = rows[-1]
    bar.n = last["step"] + 1
    if last.get("goal_error_m") is not None:
        bar.set_postfix_str(f"goal error {100 * last['goal_error_m']:.1f} cm", refresh=False)
    bar.refresh()


def _failure(name: str, log: Path) -> str:
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
    last = lines[-1].removeprefix("embodied: ") if lines else "no output"
    return f"training {name} failed: {last} (all of its output: {log})"
