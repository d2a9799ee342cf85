"""``embodied deploy``: a bundle drives a robot in real time."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path

from embodied.commands.base import Command
from embodied.core.errors import ConfigError


@dataclasses.dataclass
class Options:
    """Keys of ``embodied deploy``.

    Attributes:
      bundle: Bundle directory.
      robot: A robot's description: a JSON file, or the name of one that comes with the package.
      host: Address of the robot's process.
      port: Its port.
      seconds: How long; 0 until interrupted.
      log: File of the run's log; empty for ``logs/<bundle>-<time>.log``.
      seed: Of the policy's noise.
      threads: CPU threads of the policy.
    """

    bundle: str
    robot: str = "panda_simulated"
    host: str = "127.0.0.1"
    port: int = 9100
    seconds: float = 0.0
    log: str = ""
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.seconds < 0 or self.threads < 1 or self.seed < 0:
            raise ConfigError("expected seconds >= 0, threads >= 1 and seed >= 0")


def run(options: Options) -> None:
    """Drives until the time is up or it is interrupted, and tells what happened."""
    from embodied.deploy.drive import drive
    from embodied.deploy.robot import read_robot
    from embodied.serve.runtime import Runtime

    runtime = Runtime.load(options.bundle, threads=options.threads)
    robot = read_robot(options.robot)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    log = Path(options.log or f"logs/{runtime.bundle.path.name}-{stamp}.log")
    print(f"driving {robot.name} at {robot.control_hz:g} Hz; stop with Ctrl-C", flush=True)
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda found, _: stopped.append(found))
    driven = drive(
        runtime, robot, options.host, options.port, log, seed=options.seed,
        seconds=options.seconds or float("inf"), stop=lambda: bool(stopped),
    )  # fmt: skip
    counters = driven.counters
    wins = sum(outcome == "success" for outcome in counters.episodes)
    print(f"episodes {wins} of {len(counters.episodes)}")
    print(
        f"ticks    {counters.ticks:,}, {counters.late_ticks} late, {counters.stale} without a "
        f"fresh frame, arm stopped {counters.stops} times, connected {driven.connections} times"
    )
    print(
        f"policy   {counters.observed} observations, {counters.answers} answers, "
        f"{counters.late_answers} late, {counters.dropped} dropped"
    )
    for what, count in sorted(counters.refused.items()):
        print(f"refused  {what}: {count} ticks")
    if counters.midway:
        print(f"midway   {counters.midway} episodes whose beginning memory did not see")
    if driven.trouble:
        print(f"trouble  {driven.trouble}")
    print(f"made  {log}")


COMMAND = Command(
    run,
    Options,
    positional=("bundle",),
    examples=(
        "deploy bundles/memory_vla-remember_color-k3-rgb",
        "deploy bundles/mine robot=my_arm.json host=192.168.0.7 port=9100",
    ),
)
