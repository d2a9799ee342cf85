"""An untrained policy as if it had been loaded from a checkpoint."""

from __future__ import annotations

from pathlib import Path

from embodied.config import to_plain
from embodied.core.policy import Policy
from embodied.train.checkpoint import LoadedPolicy, PolicyMeta


def as_loaded(policy: Policy, name: str) -> LoadedPolicy:
    meta = PolicyMeta(
        policy=name,
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=policy.interface.to_json(),
        tasks=["remember_color"],
        level="easy",
        env={},
        train={"seed": 0},
        package_version="0",
    )
    return LoadedPolicy(policy.eval(), meta, Path("nowhere"))
