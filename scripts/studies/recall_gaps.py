"""Match-Lite: how long after it was shown a value is still found among chunks.

One agent learns by PPO with gaps of 32 and 250 steps of noise; then the same weights are asked
after ever longer ones, with as many chunks as the episode has. A million steps of 20 episodes
hold 8 GB of memory.
"""

from __future__ import annotations

from studies.study import Study, Variant

TASK, CHUNK = "recall/match_lite", 16


def _after(name: str, gap: int, episodes: int, batch: int) -> Variant:
    """Returns the same agent asked after `gap` steps, which its training never saw."""
    evaluate = (
        f"knobs.length={gap}",
        f"capacity={gap // CHUNK + 2}",
        f"episodes={episodes}",
        f"batch={batch}",
    )
    return Variant(
        f"gap-{name}", f"{gap:,} steps, not trained", (), evaluate, like="gap-250", at=float(gap)
    )


STUDY = Study(
    name="recall_gaps",
    title="Match-Lite: gaps far beyond training",
    about=(
        "A value is shown in the first of many steps of noise and asked for in the last. An agent "
        "with hierarchical chunks (one layer, chunks of 16 ticks, 4 read) learns by PPO on gaps of "
        "32 and 250 steps, 1.6 million frames; longer ones it never saw. It keeps every chunk, so "
        "its memory grows with the episode. One training seed. Chance is 25 %."
    ),
    train=(
        "policy=hcam",
        f"task=[{TASK},{TASK}]",
        "levels=[4_gap32,4_gap250]",
        "stages=[{steps: 60, weights: [1, 0], until: 0.95}, {steps: 1, weights: [1, 3]}]",
        "reinforce.rows=256",
        "reinforce.ticks=64",
        "steps=100",
        "policy.config.width=32",
        "policy.config.read_when=instruction_token",
        "memory.config.layers=1",
        f"memory.config.chunk={CHUNK}",
        f"memory.config.window={CHUNK}",
        "memory.config.capacity=16",
        "memory.config.time_encoding=false",
    ),
    evaluate=(f"task={TASK}", "level=4_gap250", "seed_start=2000000", "videos=0"),
    variants=(
        Variant("gap-250", "250 steps, as trained", (), ("episodes=1000", "batch=100"), at=250.0),
        _after("1e4", 10_000, 1_000, 250),
        _after("1e5", 100_000, 100, 100),
        _after("1e6", 1_000_000, 20, 20),
    ),
    axis="steps between cue and question",
    facts=("parameters", "state bytes", "frames at chance", "right chunk read"),
)
