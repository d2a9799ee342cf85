"""MemoryVLA with each memory, store and trunk under the policy contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied.core.entities import FEATURES, MAX_ENTITIES
from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec, Interface, camera_specs
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA
from tests.contracts.policy import PolicyCase, PolicyContract

VECTORS = {
    "eef_pos_world_m": ArraySpec((3,), "float32", "m"),
    "gripper_opening": ArraySpec((1,), "float32"),
    "instruction_u8": ArraySpec((160,), "uint8"),
}
IMAGES = {**VECTORS, **camera_specs("front", 32)}
ENTITIES = {
    **VECTORS,
    "entities": ArraySpec((MAX_ENTITIES, FEATURES), "float32"),
    "entities_mask": ArraySpec((MAX_ENTITIES,), "bool"),
}


def goals(policy: Policy, batch: int, ticks: int, rng: np.random.Generator) -> dict[str, Tensor]:
    goal = rng.standard_normal((batch, ticks, 3)).astype(np.float32)
    return {
        "goal_pos_world_m": torch.from_numpy(goal),
        "goal_valid": torch.from_numpy(rng.random((batch, ticks)) < 0.7),
    }


def case(name: str, **options: object) -> PolicyCase:
    observations = ENTITIES if options.get("trunk") == "entities" else IMAGES

    def build() -> Policy:
        config = MemoryVLAConfig(width=32, readout_queries=2, horizon=4, **options)
        return MemoryVLA(config, Interface(observations, max_ticks=8))

    return PolicyCase(name, build, remembers=options.get("memory") != "none", extras=goals)


TINY = {
    "image_size": 32, "patch": 16, "width": 16, "heads": 2, "vision_depth": 1, "language_depth": 1,
}  # fmt: skip

CASES = [
    case("bank"),
    case("bank-tiny", trunk="tiny", encoder=TINY),
    case(
        "bank-published",
        trunk="tiny",
        encoder=TINY,
        grounding=False,
        condition="cognitive",
        goal_loss=0.0,
        proprio=[],
        cognitive_width=24,
        store="fused",
    ),
    case("bank-entities", trunk="entities", hand_token=True),
    case("bank-fused", store="fused"),
    case("gru", memory="gru"),
    case("recurrent-tokens", memory="recurrent_tokens"),
    case("lstm", memory="lstm"),
    case("transformer-xl", memory="gated_transformer_xl", memory_config={"width": 16}),
    case(
        "hierarchical-chunks",
        memory="hierarchical_chunks",
        memory_config={"width": 16, "chunk": 2, "window": 3, "capacity": 4, "top_k": 2},
    ),
    case("full-history", memory="full_history"),
    case("none", memory="none"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestMemoryVLA(PolicyContract):
    pass
