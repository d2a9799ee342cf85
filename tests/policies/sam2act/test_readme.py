"""The README of SAM2Act names every option, and its presets compose."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from embodied.commands.compose import compose
from embodied.config import from_plain
from embodied.core.specs import Interface
from embodied.memory import MEMORIES
from policies.sam2act import policy
from policies.sam2act.config import SAM2ActConfig, SAM2ActPlusConfig
from tests.policies.sam2act.small import OBSERVATIONS

README = Path(policy.__file__).with_name("README.md")


def test_the_readme_names_every_option() -> None:
    text = README.read_text()
    for field in dataclasses.fields(SAM2ActConfig):
        named = f"`{field.name}`" in text or f"`{field.name}.KEY`" in text
        assert named or field.name in ("memory", "memory_config"), field.name


@pytest.mark.parametrize("preset", ["sam2act_small", "sam2act_paper"])
@pytest.mark.parametrize("name", ["sam2act", "sam2act_plus"])
def test_presets_fill_the_configuration(preset: str, name: str) -> None:
    data, _ = compose("train", {"policy": name, "preset": preset})
    memory = {"memory": data["memory"]["name"], "memory_config": data["memory"]["config"]}
    schema = SAM2ActPlusConfig if name == "sam2act_plus" else SAM2ActConfig
    config = from_plain(schema, {**data["policy"]["config"], **memory}, where="policy.config")
    assert config.memory == ("spatial" if name == "sam2act_plus" else "none")
    assert config.branch().grid == config.encoder.grid


@pytest.mark.parametrize("name", MEMORIES)
def test_any_memory_stands_between_trunk_and_upsampler(name: str) -> None:
    """As the README says of ``policy=sam2act memory=NAME``; what it then does is the contract's."""
    data, _ = compose("train", {"policy": "sam2act", "memory": name})
    memory = {"memory": data["memory"]["name"], "memory_config": data["memory"]["config"]}
    config = from_plain(
        SAM2ActConfig, {**data["policy"]["config"], **memory}, where="policy.config"
    )
    assert config.memory == name and config.learn == "all"
    built = policy.SAM2Act(config, Interface(OBSERVATIONS, observe_on="decision"))
    assert (sum(p.numel() for p in built.memory.parameters()) > 0) == (name != "none")
