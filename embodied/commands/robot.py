"""``embodied robot``: a simulated robot in a process of its own, in real time."""

from __future__ import annotations

import dataclasses

from embodied.commands.base import Command
from embodied.deploy.simulated import SimulatedConfig, SimulatedRobot


@dataclasses.dataclass
class Options(SimulatedConfig):
    """Keys of ``embodied robot``."""


def run(options: Options) -> None:
    """Plays until interrupted, or until its episodes are over."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(SimulatedConfig)}

    def ready(port: int) -> None:
        print(
            f"{options.task} ({options.level}) at {options.host}:{port}, in real time", flush=True
        )
        spoken = f" robot={options.speaks}" if options.speaks else ""
        print(f"next  embodied deploy BUNDLE{spoken} host={options.host} port={port}", flush=True)

    robot = SimulatedRobot(SimulatedConfig(**fields), ready)
    try:
        robot.run()
    except KeyboardInterrupt:
        robot.stop()
    wins = sum(outcome == "success" for outcome in robot.outcomes)
    print(f"{wins} of {len(robot.outcomes)} episodes, {robot.late_ticks} ticks late")


COMMAND = Command(
    run,
    Options,
    examples=(
        "robot task=remember_color",
        "robot task=put_block_back env.cameras=[front,wrist] episodes=20",
        "robot task=remember_color arm=ur5e speaks=ur5e_simulated",
    ),
)
