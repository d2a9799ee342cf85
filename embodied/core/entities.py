"""The one layout of the ``entities`` observation, for every task.

``entities`` is float32 [32, F], ``entities_mask`` bool [32]. A row is: type one-hot, position
(m, world), quaternion (xyzw, w >= 0), half size (m), colour (RGB, 0..1), scalar state (0..1:
how far a drawer is open, a button pressed, a lamp lit). Covered or absent rows are zero.
"""

from __future__ import annotations

ENTITIES, ENTITIES_MASK = "entities", "entities_mask"
"""Observation keys."""

MAX_ENTITIES = 32
ENTITY_TYPES = ("lamp", "cube", "patch", "button", "drawer", "container", "marker", "tool")

_TYPES = len(ENTITY_TYPES)
TYPE = slice(0, _TYPES)
POSITION = slice(_TYPES, _TYPES + 3)
QUATERNION = slice(_TYPES + 3, _TYPES + 7)
SIZE = slice(_TYPES + 7, _TYPES + 10)
COLOR = slice(_TYPES + 10, _TYPES + 13)
SCALAR = _TYPES + 13
FEATURES = _TYPES + 14
