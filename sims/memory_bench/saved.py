"""Saved simulator states: whether one is of the environment that is to take it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embodied.core.errors import ConfigError


def check_fits(own: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
    """Refuses a saved state that lacks a name of `own`, or holds it in another shape.

    Raises:
      ConfigError: Naming the first that differs.
    """
    for name, value in own.items():
        shape = np.shape(state[name]) if name in state else "none"
        if shape != np.shape(value):
            raise ConfigError(
                f"simulator state: expected {name} of shape {np.shape(value)}, got {shape}; "
                "restore it into the environment that saved it"
            )
