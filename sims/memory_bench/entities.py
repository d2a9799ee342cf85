"""What a task says of its entities (the layout is core's), and the instruction's encoding."""

from __future__ import annotations

import dataclasses


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
