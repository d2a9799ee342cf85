"""What a task says of its entities (the layout is core's), and the instruction's encoding."""

from __future__ import annotations

import dataclasses

import numpy as np

from embodied.core.errors import ConfigError

INSTRUCTION_BYTES = 160


@dataclasses.dataclass(frozen=True)
class Entity:
    """One row of ``entities``.

    Attributes:
      name: Unique name, the key of :meth:`Task.entity_scalars` and :meth:`Task.covered`.
      type: One of :data:`embodied.core.entities.ENTITY_TYPES`.
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
