"""The encoder of MemoryVLA's README is one, and the README names every option."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.nn.encoders import ENCODERS
from embodied.nn.encoders.base import Encoder, EncoderOptions
from embodied.nn.encoders.vlm import Seen, VisionLanguage
from policies.memory_vla import config, policy
from policies.memory_vla.config import MemoryVLAConfig
from tests.nn.tiny_vlms import TEXT, VISION
from tests.policies.test_memory_vla import IMAGES, make, make_segment

README = Path(policy.__file__).with_name("README.md")


def add_encoder(
    monkeypatch: pytest.MonkeyPatch, trunk: str, name: str, names: dict[str, Any]
) -> None:
    """Makes the class of that name in the README an encoder."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if f"class {name}(" in block]
    module = types.ModuleType(f"readme_{trunk}")
    module.__dict__.update(Tensor=Tensor, **names)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    monkeypatch.setattr(config, "TRUNKS", (*config.TRUNKS, trunk))
    monkeypatch.setitem(ENCODERS, trunk, f"{module.__name__}:{name}")


def test_the_encoder_of_the_readme_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"nn": nn, "Encoder": Encoder, "EncoderOptions": EncoderOptions}
    add_encoder(monkeypatch, "patch", "PatchEncoder", {**names, "dataclasses": dataclasses})
    made = make(IMAGES, trunk="patch", encoder={"image_size": 32, "patch": 16})
    segment = make_segment(made)
    out = made.loss(segment, made.initial_state(len(segment.valid)))
    out.loss.backward()
    assert made.trunk.streams == {"perceptual": 8}
    assert made.trunk.compress.expand.weight.grad.abs().sum() > 0


def test_the_vision_language_model_of_the_readme_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    names = {"VisionLanguage": VisionLanguage, "Seen": Seen, "ConfigError": ConfigError, "Any": Any}
    add_encoder(monkeypatch, "llava", "Llava", names)
    clip = {"model_type": "clip_vision_model", "projection_dim": 32, **VISION, "patch_size": 8}
    model = {
        "vision_config": clip,
        "text_config": {"model_type": "llama", **TEXT},
        "image_token_index": 270,
    }
    encoder = {"image_size": 32, "text_tokens": 100, "model": model, "learn": "lora"}
    made = make(IMAGES, trunk="llava", encoder=encoder)
    assert made.trunk.streams == {"perceptual": 2 * 16}
    assert made.trunk.encoder.cognitive == TEXT["hidden_size"]
    segment = make_segment(made)
    words = torch.tensor(list(b"put the block back"), dtype=torch.uint8)
    segment.obs["instruction_u8"].zero_()[..., : len(words)] = words
    made.train().loss(segment, made.initial_state(len(segment.valid))).loss.backward()
    adapters = {n: p for n, p in made.trunk.encoder.named_parameters() if "lora_B" in n}
    reached = [name for name, p in adapters.items() if p.grad is not None and p.grad.any()]
    assert any("vision_tower" in name for name in reached)
    assert any("language_model" in name for name in reached)
    with pytest.raises(ConfigError, match="image_size=16 must be 32"):
        make(IMAGES, trunk="llava", encoder={**encoder, "image_size": 16, "resize": True})


def test_the_readme_names_every_option() -> None:
    text = README.read_text()
    for field in dataclasses.fields(MemoryVLAConfig):
        assert f"`{field.name}`" in text or f"`{field.name}." in text or field.name in (
            "memory", "memory_config", "channels", "blocks",
        ), field.name  # fmt: skip
