"""Small policies of each kind, and observations for them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from embodied.core.policy import Policy
from embodied.export.bundle import write_bundle
from embodied.nn.action_head import ActionHeadConfig
from embodied.nn.dit import DiTConfig
from tests.contracts.policy import random_array
from tests.policies.hcam import small as hcam
from tests.policies.loaded import as_loaded
from tests.policies.sam2act import small as sam2act
from tests.policies.test_memory_vla import ENTITIES
from tests.policies.test_memory_vla import make as make_vla

TICKS, FEW_TICKS = 30, 12
HEAD = ActionHeadConfig("ddim", DiTConfig(depth=1, hidden=16, heads=2), steps=4)
VLA = {"head": HEAD, "horizon": 8}  # as many actions as ticks of a period


def noisy(policy: Policy) -> Policy:
    """Weights at which nothing is zero."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy.eval()


def seen(policy: Policy, ticks: int = TICKS) -> list[dict[str, np.ndarray]]:
    """Observations within the bounds of their specs."""
    rng = np.random.default_rng(0)
    specs = policy.spec.observations
    return [{k: random_array(s, (1,), rng).numpy() for k, s in specs.items()} for _ in range(ticks)]


def _vla(**options: object) -> Policy:
    return make_vla(ENTITIES, trunk="entities", **VLA, **options)


POLICIES = {
    "hcam": ("hcam", lambda: hcam.make()),
    "lstm": ("hcam", lambda: hcam.make(discrete=False, memory="lstm")),
    "memory_vla": ("memory_vla", _vla),
}
"""Name -> policy's name and how to build it; quick to export."""
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
        for memory in ("full_history", "gru", "transformer_xl", "hierarchical_chunks")
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
