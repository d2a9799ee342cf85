"""The one layout of ``state`` observations for all tasks, and the instruction's encoding."""

from __future__ import annotations

import dataclasses

import numpy as np

from embodied.core.errors import ConfigError

INSTRUCTION_BYTES = 160

ENTITY_TYPES = (
    "lamp", "block", "patch", "button", "drawer", "cup", "ball", "shape",
    "dish", "slider", "marker", "peg", "box", "screen", "pad", "distractor",
)  # fmt: skip
"""One layout for all tasks: the one-hot part of an entity row."""
MAX_ENTITIES = 32
ENTITY_FIELDS = {
    "type": slice(0, 16),
    "pos_world_m": slice(16, 19),
    "quat_xyzw": slice(19, 23),
    "half_size_m": slice(23, 26),
    "rgb": slice(26, 29),
    "scalar": slice(29, 30),
}
"""Columns of an ``entities`` row; colours in 0..1, `scalar` is the part's own state in 0..1."""
ENTITY_SIZE = 30


@dataclasses.dataclass(frozen=True)
class Entity:
    """One row of ``entities``.

    Attributes:
      name: Unique name, the key of :meth:`Task.entity_scalars` and :meth:`Task.covered`.
      type: One of :data:`ENTITY_TYPES`.
      part: The part it belongs to; the row is masked while the part is parked.
      body: MJCF body whose pose is shown; the part's root body if empty.
      geom: MJCF geom whose size and colour are shown; ``<body>_geom`` if empty.
    """

    name: str
    type: str
    part: str
    body: str = ""
    geom: str = ""


LAMP_ENTITY = Entity("lamp", "lamp", "lamp", geom="lamp_bulb")


def encode_instruction(text: str) -> np.ndarray:
    """Returns `text` as UTF-8 bytes, zero padded to uint8 [160].

    Raises:
      ConfigError: If it is longer than 160 bytes.
    """
    data = text.encode()
    if len(data) > INSTRUCTION_BYTES:
        raise ConfigError(
            f"an instruction has at most {INSTRUCTION_BYTES} bytes, got {len(data)}: {text!r}"
        )
    return np.frombuffer(data.ljust(INSTRUCTION_BYTES, b"\0"), np.uint8).copy()
