"""What a bank keeps of a cue over a long gap in which other things happen.

It learns from ``embodied collect task=remember_color observation=state episodes=1600
label_horizon=8 knobs.gap_min_s=2 knobs.gap_max_s=15 knobs.busy=0.5
out=data/remember_color-busy15-state``: gaps of 2 to 15 s, two balls that fly about, an arm that is
moved, a blinking lamp.
"""

from __future__ import annotations

from studies.study import Study, Variant

GAPS_S = (5, 15, 30, 60)
BANKS = {
    "merge": ("the most similar neighbours merge", ()),
    "counts": ("the same, weighed by their items", ("memory.config.count_weighted=true",)),
    "fifo": ("the oldest slot is dropped", ("memory.config.overflow=fifo",)),
    "retention": ("learned retention", ("memory.config.overflow=retention",)),
    "anchor": ("the first tick is pinned, others merge", ("memory.config.anchor=1",)),
    "history": (
        "full history: the upper bound",
        ("memory=full_history", "memory.config.layers=1", "memory.config.heads=4"),
    ),
}
"""Name -> what happens when 16 slots are full, and the options that make it so."""


def _gap(name: str, what: str, seconds: int) -> Variant:
    knobs = (f"knobs.gap_min_s={seconds}", f"knobs.gap_max_s={seconds}", "knobs.busy=0.5")
    # Two ticks a second and a half of gap, cue and execution around it: 220 slots hold 60 s.
    room = ("capacity=220",) if name == "history" else ()
    label = f"{name}-{seconds}s"
    return Variant(label, f"{what}, gap of {seconds} s", (), (*knobs, *room), (0,), name, seconds)


STUDY = Study(
    name="busy_gaps",
    title="Busy gaps: what keeps the cue",
    about=(
        "RememberColor (three colours) from the simulator's state. Trained with busy gaps of 2 to "
        "15 s, tested at fixed lengths up to 60 s. All banks have the 16 slots of 0.4 s each that "
        "overflow after 6.4 s, and so equal bytes; full history holds everything."
    ),
    train=(
        "task=remember_color",
        "observation=state",
        "preset=state",
        "steps=600",
        "checkpoint_every=200",
        "data=[data/remember_color-busy15-state]",
    ),
    evaluate=("episodes=300", "seed_start=1900000", "videos=0"),
    variants=(
        *(Variant(name, what, options) for name, (what, options) in BANKS.items()),
        *(_gap(name, what, s) for name, (what, _) in BANKS.items() for s in GAPS_S),
    ),
    axis="seconds of gap",
)
