"""Ballet-Lite with more dancers and dances than `recall_ballet` has: how far chunks get.

The agents are those of `recall_ballet`, in twice as many rows: the longer an episode, the fewer
questions a step of training has.
"""

from __future__ import annotations

from studies.recall_ballet import FIVE, TASK, chunks, curriculum
from studies.study import Study, Variant

FIRST = ("2_delay2_dances4", "2_delay16_dances4")
FOUR, EIGHT, TWO_AND_FOUR = "4_delay16_dances8", "8_delay48", ("2_delay48", "4_delay48")
LEADS = (5, 10, 15)
"""Empty frames before the first dance, which move all of it within chunks of 16 ticks."""


def _led(lead: int) -> Variant:
    asked = (f"level={FOUR}", f"knobs.lead={lead}")
    what = f"four, {lead} empty frames before it, not trained"
    return Variant(f"four-lead{lead}", what, (), asked, FIVE, "four", float(lead))


STUDY = Study(
    name="recall_levels",
    title="Ballet-Lite: more dancers, more dances",
    about=(
        "Agents with hierarchical chunks (two layers, chunks of 16 ticks, 4 read) learn by PPO, "
        "level after level, each until 95 % of the latest episodes succeed: up to four dancers, "
        "delay 16 and 8 dances in 8.2 million frames; up to eight dancers, delay 48 and 13 dances "
        "in 16.4 million; and two and four dancers, delay 48 and 13 dances in 9.8 million, which "
        "are then asked about eight. One dance begins 31 or 63 frames after the one before, so it "
        "lies in its chunks otherwise than that; frames before the first dance move all of them. "
        "Chance is one in as many as there are dancers."
    ),
    train=(
        "policy=hcam",
        "policy.config.shared_values=false",
        "reinforce.rows=512",
        "reinforce.ticks=64",
        "checkpoint_every=50",
    ),
    evaluate=(f"task={TASK}", "episodes=1000", "seed_start=2000000", "batch=100", "videos=0"),
    variants=(
        Variant(
            "four",
            "four dancers, delay 16, 8 dances",
            (*curriculum(*FIRST, FOUR, most=80), *chunks(16), "steps=250"),
            (f"level={FOUR}",),
            FIVE,
            at=0.0,
        ),
        *(_led(lead) for lead in LEADS),
        Variant(
            "eight",
            "eight dancers, delay 48, 13 dances",
            (*curriculum(*FIRST, FOUR, "4_delay48", EIGHT, most=80), *chunks(32), "steps=500"),
            (f"level={EIGHT}",),
            FIVE,
        ),
        Variant(
            "two-and-four",
            "four dancers, delay 48, 13 dances; two and four were trained",
            (*curriculum(*FIRST, *TWO_AND_FOUR, most=80), *chunks(32), "steps=300"),
            (f"level={TWO_AND_FOUR[-1]}",),
            FIVE,
        ),
        Variant(
            "two-and-four-8",
            "two-and-four, eight dancers, not trained",
            (),
            (f"level={EIGHT}",),
            FIVE,
            "two-and-four",
        ),
    ),
    axis="empty frames before the first dance",
    facts=(
        "parameters",
        "state bytes",
        "frames at chance",
        "frames to the last stage",
        "right chunk read",
    ),
)
