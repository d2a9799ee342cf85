"""Small policies of each kind, and observations for them."""

from __future__ import annotations

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
from tests.policies.test_memory_vla import ENTITIES
from tests.policies.test_memory_vla import make as make_vla

TICKS = 30
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
FORMATS = {"lstm": "both"}
BATCHES = {"hcam": (1, 3)}


def make_bundle(name: str, out: Path) -> tuple[Policy, Path]:
    """Exports one of the `POLICIES`; returns it and its bundle."""
    torch.manual_seed(0)
    kind, build = POLICIES[name]
    policy = noisy(build())
    options = {"batches": BATCHES.get(name, (1,)), "format": FORMATS.get(name, "onnx")}
    return policy, write_bundle(as_loaded(policy, kind), seen(policy), out, **options)
