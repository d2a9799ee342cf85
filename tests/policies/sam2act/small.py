"""A SAM2Act small enough for tests of behaviour."""

from __future__ import annotations

import torch

from embodied.core.specs import ArraySpec, Interface, camera_specs
from policies.sam2act.augment import AugmentOptions
from policies.sam2act.config import SAM2ActConfig
from policies.sam2act.encoder import EncoderOptions
from policies.sam2act.heads import HeadOptions
from policies.sam2act.policy import SAM2Act
from policies.sam2act.trunk import TrunkOptions
from policies.sam2act.upsample import UpsampleOptions

OBSERVATIONS = {
    "gripper_opening": ArraySpec((1,), "float32", "", 0.0, 1.0),
    "instruction_u8": ArraySpec((160,), "uint8", "", 0, 255),
    **camera_specs("front", 16, depth=True),
    **camera_specs("wrist", 16, depth=True),
}
SMALL_MEMORY = {"capacity": 3, "layers": 1, "feedforward": 32, "dropout": 0.0, "encoder_blocks": 1}
HIERA = {
    "dims": [8, 16, 32],
    "blocks": [1, 1, 1],
    "heads": [1, 1, 2],
    "windows": [8, 4, 4],
    "global_blocks": [],
    "fpn_width": 16,
    "top_down": [1, 2],
    "image_size": 32,
}


def make(interface: Interface | None = None, **options: object) -> SAM2Act:
    """Returns a policy for two cameras of 16 px, with scenes left where they are in training."""
    sizes: dict[str, object] = {
        "view_size": 32,
        "patch": 8,
        "encoder": EncoderOptions(model=HIERA, grid=4, level_widths=[16]),
        "trunk": TrunkOptions(
            width=32, encoder_width=12, patch_width=12, hidden=32, within=1, joint=1, heads=2,
            head_width=16, ffn_ratio=2,
        ),
        "upsample": UpsampleOptions(widths=[16]),
        "heads": HeadOptions(hidden=[32]),
        "augment": AugmentOptions(translation=0.0, yaw_deg=0.0),
    }  # fmt: skip
    config = SAM2ActConfig(**{**sizes, **options})  # type: ignore[arg-type]
    torch.manual_seed(0)
    made_for = interface or Interface(OBSERVATIONS, observe_on="decision", max_ticks=8)
    return SAM2Act(config, made_for)
