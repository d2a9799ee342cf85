"""Untrained checkpoints as the trainer would write them."""

from __future__ import annotations

from pathlib import Path

import torch

from embodied import registry
from embodied.config import to_plain
from embodied.core.specs import Interface
from embodied.core.task import EnvConfig
from embodied.train import checkpoint

STATE = EnvConfig(observation="state")


def memory_vla(memory, specs, **options):
    """Returns a small random MemoryVLA."""
    config_class = registry.policy_config_class("memory_vla")
    config = config_class(width=32, readout_queries=2, memory=memory, **options)
    interface = Interface(specs, max_ticks=32)
    return registry.policy_class("memory_vla")(config, interface).eval()


def untrained(
    run: Path, memory: str, seed: int = 7, data_seeds=(0, 1999), also=None, **options
) -> Path:
    """Writes a run directory with one checkpoint for RememberColor from `state`.

    `also` offers it further observations, which the task does not give.
    """
    vector = registry.make_vec("remember_color", "easy", STATE, 1)
    specs = {**vector.observation_specs, **(also or {})}
    vector.close()
    torch.manual_seed(seed)
    policy = memory_vla(memory, specs, trunk="entities", **options)
    meta = checkpoint.PolicyMeta(
        policy="memory_vla",
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=policy.interface.to_json(),
        tasks=["remember_color"],
        level="easy",
        env=to_plain(STATE),
        train={"seed": seed, "data_seeds": list(data_seeds)},
        package_version="0",
    )
    checkpoint.write_policy(run / "checkpoints" / "00000001", meta, policy.state_dict())
    (run / "config.yaml").write_text("seed: 7\n")
    return run
