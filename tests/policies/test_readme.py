"""The trunk of MemoryVLA's README is a trunk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from embodied.core.specs import ArraySpec
from embodied.core.types import Observation
from embodied.nn.vision import meet_plane, token_pixels
from policies.memory_vla import config, policy
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.model import Perception
from tests.policies.test_memory_vla import IMAGES, make, make_segment

README = Path(policy.__file__).with_name("README.md")


def test_the_trunk_of_the_readme_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {
        "torch": torch, "Tensor": Tensor, "nn": nn, "ArraySpec": ArraySpec,
        "Observation": Observation, "meet_plane": meet_plane, "token_pixels": token_pixels,
        "MemoryVLAConfig": MemoryVLAConfig, "Perception": Perception,
    }  # fmt: skip
    exec(code, names)
    monkeypatch.setattr(config, "TRUNKS", (*config.TRUNKS, "patch"))
    monkeypatch.setitem(policy.TRUNKS, "patch", names["PatchTrunk"])
    made = make(IMAGES, trunk="patch")
    segment = make_segment(made)
    out = made.loss(segment, made.initial_state(len(segment.valid)))
    out.loss.backward()
    assert made.trunk.patch.weight.grad.abs().sum() > 0
    assert made.spec.observations.keys() == {
        "front_image_u8", "front_intrinsics", "front_cam_to_world", "eef_pos_world_m",
        "gripper_opening", "instruction_u8",
    }  # fmt: skip


def test_the_readme_names_every_option() -> None:
    import dataclasses

    text = README.read_text()
    for field in dataclasses.fields(MemoryVLAConfig):
        assert f"`{field.name}`" in text or f"`{field.name}." in text or field.name in (
            "memory", "memory_config", "channels", "blocks",
        ), field.name  # fmt: skip
