"""What each choice of SAM2Act+ is worth: PutBlockBack from RGB-D, short runs.

It learns from ``embodied collect task=put_block_back observation=rgbd cameras=front,overhead,wrist
image_size=128 observe_on=decision episodes=200``. All second stages start from one first stage
(`base`), but for the two whose choice is made in the first stage already, and learn from the
outputs of it that are kept under ``cache/features``.
"""

from __future__ import annotations

from studies.study import Study, Variant

FIRST = ("policy=sam2act", "steps=800")
TIME = "policy.config.time_feature=true"
PER_TICK = "policy.config.augment.per_tick=true"
FROZEN = "policy.config.encoder.projections=frozen"


def second(name: str, what: str, *options: str, init: str = "base") -> Variant:
    """Returns a second stage on top of a first one."""
    return Variant(name, what, ("policy=sam2act_plus", "steps=500", *options), init=init)


def window(slots: int) -> Variant:
    """Returns a second stage that remembers fewer decisions."""
    what = f"window of the last {slots} decisions" if slots > 1 else "window of the last decision"
    return second(f"window-{slots}", what, f"memory.config.capacity={slots}")


STUDY = Study(
    name="sam2act_ablations",
    title="SAM2Act+: what each choice is worth",
    about=(
        "PutBlockBack (four places): the block's first place is seen at the first decision and "
        "needed ten decisions later. First stages of 800 steps of two demonstrations, second "
        "stages of 500 on top; everything but the named choice is as in `plus`. First stages are "
        "SAM2Act without memory. Short runs show what is learnt soon, not what could be learnt. "
        "The last column says after how many steps the coarse point was within 1.5 cm on average "
        "over the demonstrations being learnt from; a stage starts 2.5 cm off, since it can't know "
        "where the block belongs."
    ),
    facts=("steps to 1.5 cm",),
    train=("task=put_block_back", "preset=sam2act_small", "checkpoint_every=100"),
    evaluate=("episodes=150", "seed_start=1900000", "intervene=none,swapped", "videos=0"),
    variants=(
        second("plus", "window of the last 12 decisions, all as in this package"),
        window(9),
        window(4),
        window(2),
        window(1),
        second(
            "anchor-2",
            "the first decision pinned, and the last 2",
            "memory.config.anchor=1",
            "memory.config.capacity=3",
        ),
        second("even", "attention starts even (published)", "memory.config.locality=0"),
        second("per-tick", "each step of a sequence moved on its own (published)", PER_TICK),
        second("true-marks", "true heatmaps stored in training", "policy.config.marks=labels"),
        second("time", "count of keyframes told (published)", TIME, init="base-time"),
        second(
            "frozen",
            "levels' projections random and frozen in the first stage (published)",
            init="base-frozen",
        ),
        second(
            "published", "the three published choices at once",
            TIME, PER_TICK, init="base-published",
        ),
        Variant("base", "the first stage: no memory", FIRST),
        Variant("base-time", "the same, count of keyframes told", (*FIRST, TIME)),
        Variant("base-frozen", "the same, levels' projections frozen", (*FIRST, FROZEN)),
        Variant("base-published", "the same with both", (*FIRST, TIME, FROZEN)),
    ),
)  # fmt: skip
