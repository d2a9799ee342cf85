"""What larger views buy SAM2Act: Stack from RGB-D, where nothing has to be remembered.

It learns from ``embodied collect task=stack observation=rgbd cameras=front,overhead,wrist
image_size=128 observe_on=decision episodes=200``, and is asked about the keyframes of the same
command with ``episodes=40 seed_start=700000 out=data/stack-easy-rgbd-held``.
"""

from __future__ import annotations

from studies.study import Study, Variant

PLAIN = ("policy=sam2act", "policy.config.time_feature=true", "steps=1000")
PATCH = 8
"""Pixels along a token's side, whatever the view."""


def views(side: int) -> Variant:
    """Returns SAM2Act from views of so many pixels."""
    sizes = (
        f"policy.config.view_size={side}",
        f"policy.config.encoder.image_size={2 * side}",
        f"policy.config.encoder.grid={side // PATCH}",
    )
    return Variant(f"views-{side}", f"views of {side} px", (*PLAIN, *sizes))


STUDY = Study(
    name="sam2act_views",
    title="SAM2Act: what larger views buy",
    about=(
        "Stack (one block is set on another), 1,000 steps of two demonstrations, without memory; "
        "pictures of the cameras are 128 px whatever the views. A pixel of the fine branch is a "
        "quarter of one of the scene box: 3.5 mm at 64 px, 2.3 mm at 96. How far keyframes are off "
        "is measured on 40 demonstrations that no run learns from."
    ),
    train=("task=stack", "preset=sam2act_small", "checkpoint_every=100"),
    evaluate=("episodes=150", "seed_start=1900000", "videos=0"),
    variants=(views(64), views(96)),
    held_out=("data/stack-easy-rgbd-held",),
    facts=("parameters", "keyframe off, median", "keyframe off, 95 %"),
)
