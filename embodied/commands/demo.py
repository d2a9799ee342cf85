"""``embodied demo``: from nothing to a verified video of an arm that remembers."""

from __future__ import annotations

from pathlib import Path

from embodied.commands.base import Command, finish
from embodied.commands.compose import options as config_options
from embodied.core.errors import unknown_name
from embodied.demo import DemoConfig


def run(options: DemoConfig) -> None:
    """Runs the demo and prints what it shows, and what it doesn't."""
    if options.preset not in config_options("preset"):
        raise unknown_name("preset", options.preset, config_options("preset"))
    from embodied.commands.evaluate import summary
    from embodied.core.files import read_json
    from embodied.demo import demo, findings

    result = demo(options)
    results = read_json(result / "results.json")
    print("\n" + summary(results) + "\n")
    for text, shown in findings(results):
        print(f"{'shown    ' if shown else 'NOT shown'}  {text}")
    print(f"\nreport     {result / 'report.html'}")
    print(f"videos     {result / 'videos'}/  (the expert: {options.out}/expert.mp4)\n")
    finish(Path(options.out), "embodied play put_block_back")


COMMAND = Command(
    run,
    DemoConfig,
    resumes=True,
    examples=(
        "demo",
        "demo --pretrained",
        "demo out=demo-small demonstrations=500 episodes=50",
    ),
)
