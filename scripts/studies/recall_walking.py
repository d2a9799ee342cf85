"""Ballet with walking: a small grid of ids, and the official pixels for as long as an hour goes.

A step of the one takes about 5 seconds of a CPU thread, of the other, whose pictures go through
convolutions, 15.
"""

from __future__ import annotations

from studies.facts import LEARNING
from studies.recall_ballet import chunks
from studies.study import Study, Variant

LEVEL = "level=2_delay16"
EASY = ("reinforce.env.knobs.delay=2", "reinforce.env.knobs.dances=4")
HOUR = 240
"""Steps of the pixel agent in an hour of one thread, while it still walks about at random."""


def _grid(name: str, what: str, *options: str, init: str = "") -> Variant:
    train = ("task=recall/ballet_grid", LEVEL, "reinforce.rows=128", *options)
    return Variant(name, what, train, init=init)


STUDY = Study(
    name="recall_walking",
    title="Ballet with walking: grid and pixels",
    about=(
        "Two dancers, delay 16, 13 dances, the official rules: when the dance is named the agent "
        "walks to the dancer it chooses. Agents with hierarchical chunks (two layers, chunks of 16 "
        "ticks, 4 read) learn by PPO, one seed. On the grid 2.5 million frames of four dances with "
        "a delay of 2, then 4.9 million of all. On the official pixels an hour of one CPU thread "
        "(one million frames) and no more: its curve shows what that hour teaches, not what could "
        "be learnt. Chance is 50 %."
    ),
    train=(
        "policy=hcam",
        "policy.config.shared_values=false",
        "reinforce.ticks=64",
        "checkpoint_every=20",
        *chunks(32),
    ),
    evaluate=("episodes=1000", "seed_start=2000000", "batch=100", "videos=0"),
    variants=(
        _grid("grid", "grid of 11 x 11 ids, after grid-start", "steps=600", init="grid-start"),
        _grid("grid-start", "the same, four dances, delay 2", "steps=300", *EASY),
        Variant(
            "pixel",
            "official pixels, an hour of one thread",
            ("task=recall/ballet_pixel", LEVEL, "reinforce.rows=64", f"steps={HOUR}"),
        ),
    ),
    facts=(
        "parameters",
        "state bytes",
        "frames",
        "frames at chance",
        "right chunk read",
        *LEARNING,
    ),
)
