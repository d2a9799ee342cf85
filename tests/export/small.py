"""Small policies of each kind, and observations for them."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch

from embodied.core.policy import Policy
from embodied.core.text import INSTRUCTION, encode_instruction
from embodied.export.bundle import write_bundle
from embodied.nn.action_head import ActionHeadConfig
from embodied.nn.dit import DiTConfig
from policies.memory_vla.model import CAM_TO_WORLD, INTRINSICS
from policies.memory_vla.policy import MemoryVLA
from tests.contracts.segments import random_array
from tests.nn.tiny_vlms import INSTRUCTIONS, KINDS, MODELS
from tests.policies.hcam import small as hcam
from tests.policies.loaded import as_loaded
from tests.policies.sam2act import small as sam2act
from tests.policies.test_memory_vla import ENTITIES
from tests.policies.test_memory_vla import make as make_vla

TICKS, FEW_TICKS = 30, 12
LOOKS_DOWN = {
    INTRINSICS: np.array([[32, 0, 16], [0, 32, 16], [0, 0, 1]], np.float32),
    CAM_TO_WORLD: np.array(
        [[1, 0, 0, 0.1], [0, -1, 0, 0.2], [0, 0, -1, 0.8], [0, 0, 0, 1]], np.float32
    ),
}
"""What calibrated cameras of 32 px tell, 0.8 m above the table."""
HEAD = ActionHeadConfig("ddim", DiTConfig(depth=1, hidden=16, heads=2), steps=4)
VLA = {"head": HEAD, "horizon": 8}  # as many actions as ticks of a period


def noisy(policy: Policy) -> Policy:
    """Weights at which nothing is zero."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy.eval()


def seen(policy: Policy, ticks: int = TICKS) -> list[dict[str, np.ndarray]]:
    """Observations within the bounds of their specs; instructions are text.

    MemoryVLA looks down on a table: where rays of cameras anywhere meet it, rounding is all.
    """
    rng = np.random.default_rng(0)
    specs = policy.spec.observations
    rows = []
    for tick in range(ticks):
        row = {key: random_array(spec, (1,), rng).numpy() for key, spec in specs.items()}
        if INSTRUCTION in row:
            row[INSTRUCTION] = encode_instruction(INSTRUCTIONS[tick % 2])[None]
        if isinstance(policy, MemoryVLA):
            row |= {key: view[None] for key in row for end, view in LOOKS_DOWN.items()
                    if key.endswith(end)}  # fmt: skip
        rows.append(row)
    return rows


def _vla(**options: object) -> Policy:
    return make_vla(ENTITIES, trunk="entities", **VLA, **options)


def _seeing(trunk: str, encoder: dict[str, object], **options: object) -> Policy:
    return make_vla(trunk=trunk, encoder=encoder, **{**VLA, **options})


def _reading(kind: str) -> Policy:
    encoder = {"model": copy.deepcopy(MODELS[kind]), "image_size": 32, "text_tokens": 100}
    options: dict[str, object] = {}
    if kind == "smolvlm":  # as its preset
        encoder |= {"learn": "lora", "dtype": "bfloat16"}
    if kind == "prismatic":  # as published
        guided = {"temperature": 1.0, "guidance": 1.5, "condition_dropout": 0.1}
        options = {
            "grounding": False, "condition": "cognitive", "goal_loss": 0.0, "proprio": [],
            "cognitive_width": 48, "head": dataclasses.replace(HEAD, **guided),
        }  # fmt: skip
    return _seeing(kind.split()[0], encoder, **options)


POLICIES = {
    "hcam": ("hcam", lambda: hcam.make()),
    "lstm": ("hcam", lambda: hcam.make(discrete=False, memory="lstm")),
    "memory_vla": ("memory_vla", _vla),
}
"""Name -> policy's name and how to build it; quick to export."""
READING = {kind.replace(" ", "_"): kind for kind in KINDS}
"""Trunk that reads its instruction as tokens -> what it is called among the tiny models."""
MORE = {
    **{
        f"hcam-{memory}": ("hcam", functools.partial(hcam.make, discrete, memory=memory))
        for discrete, memory in (
            (True, "gru"),
            (False, "hierarchical_chunks"),
            (True, "transformer_xl"),
            (False, "gated_transformer_xl"),
            (True, "none"),
        )
    },
    **{
        f"memory_vla-{memory}": ("memory_vla", functools.partial(_vla, memory=memory))
        for memory in (
            "full_history",
            "gru",
            "recurrent_tokens",
            "transformer_xl",
            "hierarchical_chunks",
        )
    },
    # 32 px cameras, so that pictures are resized in the graph.
    "memory_vla-tiny": (
        "memory_vla",
        lambda: _seeing("tiny", {"image_size": 16, "width": 32, "heads": 2, "resize": True}),
    ),
    "memory_vla-pretrained_conv": (
        "memory_vla",
        lambda: _seeing("pretrained_conv", {"image_size": 64, "pretrained": False, "resize": True}),
    ),
    **{
        f"memory_vla-{name}": ("memory_vla", functools.partial(_reading, kind))
        for name, kind in READING.items()
    },
    "sam2act": ("sam2act", sam2act.make),
    "sam2act_plus": (
        "sam2act_plus",
        functools.partial(
            sam2act.make, memory="spatial", memory_config=sam2act.SMALL_MEMORY, time_feature=True
        ),
    ),
}
"""All other kinds, of which some take a minute."""
FORMATS = {"lstm": "both"}
BATCHES = {"hcam": (1, 3)}


def make_bundle(name: str, out: Path) -> tuple[Policy, Path]:
    """Exports one of `POLICIES` or `MORE`; returns it and its bundle."""
    torch.manual_seed(0)
    kind, build = {**POLICIES, **MORE}[name]
    policy = noisy(build())
    shown = seen(policy, TICKS if name in POLICIES else FEW_TICKS)
    options = {"batches": BATCHES.get(name, (1,)), "format": FORMATS.get(name, "onnx")}
    return policy, write_bundle(as_loaded(policy, kind), shown, out, **options)
