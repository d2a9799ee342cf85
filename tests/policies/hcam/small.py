"""HCAM agents small enough for tests, on observations of every kind."""

from __future__ import annotations

from embodied.core.specs import DISCRETE, EE_DELTA_CHUNK, ArraySpec, Interface
from policies.hcam.config import HCAMConfig
from policies.hcam.policy import HCAM

OBSERVATIONS = {
    "homes_token": ArraySpec((4,), "uint8", "token", 0, 5),
    "instruction_token": ArraySpec((), "int64", "token", 0, 2),
    "cue_code": ArraySpec((2, 3), "float32", "", -1.0, 1.0),
    "agent_image_u8": ArraySpec((12, 12, 3), "uint8", "u8", 0, 255),
}
CHUNKS = {"chunk": 2, "window": 3, "capacity": 2, "top_k": 2, "layers": 2, "heads": 2}


def interface(discrete: bool = True, observations: dict | None = None) -> Interface:
    return Interface(
        observations=OBSERVATIONS if observations is None else observations,
        action_size=5 if discrete else 3,
        control_hz=10.0,
        observe_period_s=0.1,
        max_ticks=32,
        action_kind=DISCRETE if discrete else EE_DELTA_CHUNK,
    )


def make(discrete: bool = True, observations: dict | None = None, **options: object) -> HCAM:
    memory = options.setdefault("memory", "hierarchical_chunks")
    if memory == "hierarchical_chunks":
        options["memory_config"] = {**CHUNKS, **options.get("memory_config", {})}
    config = HCAMConfig(width=8, hidden=16, channels=[4, 4], **options)
    return HCAM(config, interface(discrete, observations))
