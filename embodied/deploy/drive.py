"""A run: bundle, robot, line, loop and log put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from embodied.config import from_plain, to_plain
from embodied.deploy.journal import Journal
from embodied.deploy.link import RobotLink
from embodied.deploy.loop import ControlLoop, Counters
from embodied.deploy.robot import RobotConfig
from embodied.deploy.worker import Worker
from embodied.evaluate.executors.config import ExecutorConfig
from embodied.serve.runtime import Runtime


@dataclasses.dataclass
class Driven:
    """What a run came to.

    Attributes:
      counters: What happened.
      connections: How often the robot was connected.
      trouble: What was wrong with the last message that was; "" if none was.
    """

    counters: Counters
    connections: int
    trouble: str


def drive(
    runtime: Runtime,
    robot: RobotConfig,
    host: str,
    port: int,
    log: Path,
    *,
    seed: int = 0,
    seconds: float = float("inf"),
    stop: Callable[[], bool] = lambda: False,
) -> Driven:
    """Drives a robot until the time is up or `stop` says so; however it ends, the arm is stopped.

    Args:
      runtime: Of one row.
      robot: The robot's description.
      host: Address of its process.
      port: Its port.
      log: File of the run's log, to be made.
      seed: Of the policy's noise.
      seconds: How long.
      stop: Asked at every control tick.

    Raises:
      SpecMismatch: If the policy does not fit the robot.
      DataError: If the log can't be made.
    """
    robot.check(runtime.spec, str(runtime.bundle.path))
    executor = from_plain(ExecutorConfig, runtime.bundle.executor, where="manifest:executor")
    setting = {"robot": to_plain(robot), "executor": to_plain(executor), "seed": seed}
    journal = Journal(log, runtime, setting)
    worker = Worker(runtime, journal.ask)
    link = RobotLink(host, port)
    try:
        loop = ControlLoop(runtime, robot, link, worker, executor, seed, journal=journal.tick)
        loop.run(seconds, stop)
    finally:
        link.close()
        worker.close()
        journal.close()
    return Driven(loop.counters, link.connections, link.trouble)
