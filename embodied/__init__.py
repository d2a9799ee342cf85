"""Robot policies that remember, the tasks that prove it, and the way to a controller.

``embodied.load(path)`` loads a policy; :func:`embodied.collect.collect`,
:func:`embodied.train.imitation.train` and :func:`embodied.evaluate.api.evaluate` are what the
commands of the same names call. Importing this package imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embodied.train.checkpoint import LoadedPolicy

__version__ = "0.1.0"


def load(path: str | Path, device: str = "cpu") -> LoadedPolicy:
    """Loads a policy from a run, a checkpoint, a bundle or a claim's id.

    Args:
      path: Run (its newest checkpoint), checkpoint, bundle, or an id from
        ``embodied list claims``.
      device: Where the policy shall live, for example ``"cuda"``.

    Returns:
      The policy, its description and where it came from.

    Raises:
      CheckpointError: For anything but a complete, matching checkpoint.
    """
    from embodied.export.exported import load as load_any

    return load_any(path, device)
