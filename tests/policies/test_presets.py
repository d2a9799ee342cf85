"""Presets with pretrained weights: what they tell one to fetch is what their encoders load."""

from __future__ import annotations

import fnmatch
import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from embodied.commands.compose import compose
from embodied.config import Raw, from_plain
from embodied.core.specs import Interface
from embodied.nn.encoders import ENCODERS
from embodied.nn.encoders.weights import COMMIT, FETCHED
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA
from policies.sam2act import encoder as sam2act
from tests.policies.test_memory_vla import IMAGES

PRESETS = Path(__file__).parents[2] / "configs" / "preset"
FILES = {
    "openvla/openvla-7b": [
        "config.json", "model-00001-of-00003.safetensors", "tokenizer.json", "tokenizer.model",
    ],
    "HuggingFaceTB/SmolVLM-256M-Instruct": [
        "config.json", "model.safetensors", "tokenizer.json", "merges.txt",
    ],
}  # fmt: skip
"""Repository -> some of its files that an encoder reads."""


def commands() -> dict[str, list[str]]:
    """Returns preset -> words of the command in its comments that fetches weights."""
    found = {}
    for path in sorted(PRESETS.glob("*.yaml")):
        comments = re.findall(r"^#[ ]{0,5}(.*)$", path.read_text(), re.MULTILINE)
        text = "\n".join(comments).replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line.startswith("hf download ")]
        if lines:
            (line,) = lines
            found[path.stem] = shlex.split(line)[2:]
    return found


def options(words: list[str]) -> dict[str, list[str]]:
    """Returns the values of each option of a command."""
    given: dict[str, list[str]] = {}
    for name, value in zip(words[1::2], words[2::2], strict=True):
        assert name.startswith("--"), f"{name} would be taken for a file, and options be ignored"
        given.setdefault(name, []).append(value)
    return given


def composed(preset: str, **more: str) -> dict[str, Any]:
    data, _ = compose("train", {"preset": Raw(preset), **{k: Raw(v) for k, v in more.items()}})
    return data["policy"]["config"]


def test_every_preset_with_weights_says_how_to_fetch_them() -> None:
    naming = {path.stem for path in PRESETS.glob("*.yaml") if "weights: " in path.read_text()}
    assert naming == commands().keys() == {"paper_7b", "smolvlm", "sam2act_paper"}


@pytest.mark.parametrize("preset", ["paper_7b", "smolvlm"])
def test_what_is_fetched_is_what_the_encoder_loads(preset: str) -> None:
    words = commands()[preset]
    repository, given = words[0], options(words)
    config = composed(preset)
    module, name = ENCODERS[config["trunk"]].split(":")
    assert repository == getattr(importlib.import_module(module), name).EXAMPLE
    assert given["--local-dir"] == [config["encoder"]["weights"]]
    (revision,) = given["--revision"]
    assert COMMIT.fullmatch(revision)
    # Nothing pickled and no code.
    assert set(given["--include"]) <= set(FETCHED)
    for file in FILES[repository]:
        assert any(fnmatch.fnmatch(file, pattern) for pattern in given["--include"]), file


def test_what_is_fetched_for_sam2act_is_what_its_encoder_loads() -> None:
    words = commands()["sam2act_paper"]
    config = composed("sam2act_paper", policy="sam2act")
    assert words[0] == sam2act.EXAMPLE
    assert options(words)["--local-dir"] == [config["encoder"]["weights"]]


@pytest.mark.parametrize(
    ("changed", "bytes_of_weights", "learning"),
    [
        ({}, 4 * 8.20e9, 8.20e9),
        ({"learn": "lora", "dtype": "bfloat16"}, 2 * 7.37e9 + 4 * 0.86e9, 0.86e9),
    ],
    ids=["full", "lora"],
)
def test_the_estimate_of_memory_counts_the_weights_of_the_paper(
    changed: dict[str, str], bytes_of_weights: float, learning: float
) -> None:
    """As the table in the policy's README."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from embodied.nn.encoders.prismatic import PAPER

    data, _ = compose("train", {"preset": Raw("paper_7b")})
    assert (data["precision"], data["optim"]["ema"]) == ("bf16", 0.0)
    assert data["batch_episodes"] * data["order_ticks"] == 32
    options = data["policy"]["config"]
    # Sizes instead of weights; layers are not run.
    encoder = {**options["encoder"], "weights": "", "model": PAPER, "checkpointing": False}
    options |= {"encoder": {**encoder, "resize": True, **changed}}
    options |= {"memory": data["memory"]["name"], "memory_config": data["memory"]["config"]}
    with torch.device("meta"):
        policy = MemoryVLA(from_plain(MemoryVLAConfig, options), Interface(IMAGES, max_ticks=16))
    parameters = list(policy.parameters())
    found = sum(p.numel() * p.element_size() for p in parameters)
    assert found == pytest.approx(bytes_of_weights, rel=0.005)
    assert sum(p.numel() for p in parameters if p.requires_grad) == pytest.approx(
        learning, rel=0.005
    )
