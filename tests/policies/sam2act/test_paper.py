"""What the commands of the published size build: every size that the authors' code has.

On the meta device, so nothing is allocated and nothing is fetched.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from embodied.commands.compose import compose
from embodied.config import Raw, from_plain
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.memory.spatial import SpatialConfig
from embodied.registry import policy_class, policy_config_class
from policies.sam2act import policy as policy_module
from policies.sam2act.policy import SAM2Act

README = Path(policy_module.__file__).with_name("README.md")
PRESET = "preset=sam2act_paper"
CAMERAS = ("front", "left_shoulder", "right_shoulder", "wrist")
OBSERVATIONS = {
    "gripper_opening": ArraySpec((1,), "float32", "", 0.0, 1.0),
    "instruction_u8": ArraySpec((160,), "uint8", "", 0, 255),
}
for camera in CAMERAS:
    OBSERVATIONS |= camera_specs(camera, 128, depth=True)


def commands() -> list[dict[str, Any]]:
    """Returns what the README's commands of the published size compose, in order."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line)
        if PRESET not in words or "train" not in words:
            continue
        pairs = dict(word.split("=", 1) for word in words[2:])
        data, values = compose("train", {key: Raw(value) for key, value in pairs.items()})
        found.append({**data, **values})
    return found


def build(data: dict[str, Any]) -> SAM2Act:
    """Builds what a command describes, without its weights."""
    memory = {"memory": data["memory"]["name"], "memory_config": data["memory"]["config"]}
    plain = {**data["policy"]["config"], **memory}
    plain["encoder"] = {**plain["encoder"], "weights": ""}
    name = data["policy"]["name"]
    config = from_plain(policy_config_class(name), plain, where="policy.config")
    with torch.device("meta"):
        return policy_class(name)(config, Interface(OBSERVATIONS, observe_on="decision"))


def millions(*parts: nn.Module) -> float:
    return sum(p.numel() for part in parts for p in part.parameters()) / 1e6


def test_both_stages_have_the_published_sizes() -> None:
    pytest.importorskip("transformers")
    first, second = commands()
    assert first["policy"]["name"] == "sam2act" and first["memory"]["name"] == "none"
    assert second["policy"]["name"] == "sam2act_plus" and str(second["init"]) == str(first["out"])
    for policy in (build(first), build(second)):
        assert millions(policy.encoder.base) == pytest.approx(69.1, abs=0.05)
        assert policy.encoder.channels == {64: 32, 32: 64, 16: 256}
        for branch in (policy.coarse, policy.fine):
            # The published 33.6 M are the layers; what goes in and out of them is another 0.4 M.
            trunk = branch.trunk
            assert millions(trunk.within, trunk.joint) == pytest.approx(33.6, abs=0.05)
            assert len(trunk.within) == len(trunk.joint) == 4
            assert millions(trunk) == pytest.approx(34.0, abs=0.1)
            assert millions(branch.upsampler) == pytest.approx(1.75, abs=0.005)
            assert trunk.position.shape == (3, 256, 128)
            assert trunk.joint[0].dropout == 0.1
            assert trunk.within[0].query.weight.shape == (512, 512)
            assert branch.upsampler.sides == [32, 64] and branch.upsampler.resized
        assert policy.coarse.heads is None
        assert millions(policy.fine.heads) == pytest.approx(0.95, abs=0.005)
        assert policy.config.view_size == 224 and policy.config.time_feature
    (bank,) = policy.memory.banks.values()
    assert millions(bank.encoder) == pytest.approx(0.49, abs=0.005)
    assert millions(policy.memory) == pytest.approx(2.57 + 0.49, abs=0.01)


def test_the_memory_of_the_second_stage_is_the_published_one() -> None:
    """A policy's choice of memory goes before a preset's, so the command names it."""
    _, second = commands()
    assert second["memory"] == {"name": "spatial", "config": {}}
    published = SpatialConfig()
    assert (published.layers, published.feedforward, published.dropout) == (4, 2048, 0.1)
    assert published.locality == 0
    alone, _ = compose("train", {"policy": Raw("sam2act_plus"), "preset": Raw("sam2act_paper")})
    assert alone["memory"]["config"]["layers"] == 2
