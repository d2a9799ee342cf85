"""Robot policies that remember, the tasks that prove it, and the way to a controller.

``embodied.load(path)`` loads a policy; ``embodied.collect.collect``,
``embodied.train.imitation.train`` and ``embodied.evaluate.evaluate`` are what the commands of
the same names call. Importing this package imports none of them.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embodied.train.checkpoint import LoadedPolicy

__version__ = "0.1.0"

_MODULES = ("collect", "data", "evaluate", "registry", "train")


def load(path: str | Path, device: str = "cpu") -> LoadedPolicy:
    """Loads a policy from a run directory, a checkpoint directory or a claim's id.

    Args:
      path: Run (its newest checkpoint), checkpoint, or an id from ``embodied list claims``.
      device: Where the policy shall live, for example ``"cuda"``.

    Returns:
      The policy, its description and where it came from.

    Raises:
      CheckpointError: For anything but a complete, matching checkpoint.
    """
    from embodied.train.checkpoint import load as load_checkpoint

    return load_checkpoint(path, device)


def __getattr__(name: str) -> Any:
    """Makes ``embodied.evaluate`` and its kin reachable without importing them beforehand."""
    if name in _MODULES:
        return importlib.import_module(f"embodied.{name}")
    raise AttributeError(f"module 'embodied' has no attribute {name!r}")
