"""The encoder of MemoryVLA's README is one, and the README names every option."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path

import pytest
from torch import Tensor, nn

from embodied.nn.encoders import ENCODERS
from embodied.nn.encoders.base import Encoder, EncoderOptions
from policies.memory_vla import config, policy
from policies.memory_vla.config import MemoryVLAConfig
from tests.policies.test_memory_vla import IMAGES, make, make_segment

README = Path(policy.__file__).with_name("README.md")


def test_the_encoder_of_the_readme_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    module = types.ModuleType("readme_encoder")
    module.__dict__.update(
        Tensor=Tensor, nn=nn, Encoder=Encoder, EncoderOptions=EncoderOptions,
        dataclasses=dataclasses,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    monkeypatch.setattr(config, "TRUNKS", (*config.TRUNKS, "patch"))
    monkeypatch.setitem(ENCODERS, "patch", "readme_encoder:PatchEncoder")
    made = make(IMAGES, trunk="patch", encoder={"image_size": 32, "patch": 16})
    segment = make_segment(made)
    out = made.loss(segment, made.initial_state(len(segment.valid)))
    out.loss.backward()
    assert made.trunk.streams == {"perceptual": 8}
    assert made.trunk.compress.expand.weight.grad.abs().sum() > 0


def test_the_readme_names_every_option() -> None:
    text = README.read_text()
    for field in dataclasses.fields(MemoryVLAConfig):
        assert f"`{field.name}`" in text or f"`{field.name}." in text or field.name in (
            "memory", "memory_config", "channels", "blocks",
        ), field.name  # fmt: skip
