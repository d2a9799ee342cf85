"""SAM2Act and SAM2Act+ with several memories under the policy contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.core.policy import Policy
from tests.contracts.policy import PolicyCase, PolicyContract
from tests.policies.sam2act.small import SMALL_MEMORY, make


def keyframes(
    policy: Policy, batch: int, ticks: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    pose = rng.standard_normal((batch, ticks, 9)).astype(np.float32)
    pose[..., :3] = policy.config.scene_center_m + rng.uniform(-0.3, 0.3, (batch, ticks, 3))
    pose[..., 3:7] /= np.linalg.norm(pose[..., 3:7], axis=-1, keepdims=True)
    return {
        "keyframe": torch.from_numpy(pose),
        "keyframe_valid": torch.from_numpy(rng.random((batch, ticks)) < 0.8),
    }


def case(name: str, **options: object) -> PolicyCase:
    return PolicyCase(
        name,
        lambda: make(**options),
        remembers=options.get("memory", "none") != "none",
        extras=keyframes,
    )


LAYERS = {"width": 16, "heads": 2, "layers": 1, "ffn_ratio": 1, "capacity": 4}
CHUNKS = {"chunk": 2, "window": 2, "top_k": 1}  # so that some are finished and read
CASES = [
    case("none"),
    case("time", time_feature=True),
    case("time-fine", time_feature=True, learn="fine"),
    case("spatial", memory="spatial", memory_config=SMALL_MEMORY),
    case("plus", memory="spatial", memory_config=SMALL_MEMORY, learn="memory"),
    case("bank", memory="perceptual_cognitive"),
    case("gru", memory="gru"),
    case("recurrent-tokens", memory="recurrent_tokens"),
    case("full-history", memory="full_history"),
    case("lstm", memory="lstm"),
    case("transformer-xl", memory="transformer_xl", memory_config=LAYERS),
    case("gated", memory="gated_transformer_xl", memory_config=LAYERS),
    case("chunks", memory="hierarchical_chunks", memory_config={**LAYERS, **CHUNKS}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSAM2Act(PolicyContract):
    pass
