"""MJCF parts: one builder function a part, each returns a :class:`Part` to put into a scene.

Movable parts come in two kinds. ``mocap`` bodies are teleported and never pushed: they cost
no degree of freedom, so twelve candidate cubes are as fast as one. ``free`` bodies are real
rigid objects with a free joint. Both start parked (see :data:`PARK_POS_M`) until a task places
them. Sizes are half sizes in metres, as in MJCF; heights are above the table top unless a
name says `world`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

TABLE_TOP_M = 0.8
"""World height of the table top."""

TABLE_HALF_M = (0.33, 0.42)
"""Half extents of the table in world x and y; its centre is the world origin."""

PARK_POS_M = np.array([400.0, 0.0, 0.0])
"""Where absent objects are kept: beyond every camera's far plane (50 m)."""

LAMP_POS_M = (-0.20, -0.34, TABLE_TOP_M + 0.09)
"""World position of the lamp's bulb."""

LAMP_RADIUS_M = 0.03

# Twelve cube colours, well separated from each other, from the lamp's greys and pastels, from
# the grey table and from the white robot. Order matters: nothing; names are for humans.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.05, 0.05),
    "green": (0.05, 0.55, 0.10),
    "blue": (0.08, 0.15, 0.85),
    "yellow": (0.95, 0.90, 0.05),
    "magenta": (0.95, 0.10, 0.85),
    "cyan": (0.05, 0.85, 0.90),
    "orange": (1.00, 0.50, 0.02),
    "purple": (0.40, 0.08, 0.60),
    "brown": (0.40, 0.20, 0.05),
    "pink": (1.00, 0.55, 0.65),
    "lime": (0.45, 0.95, 0.10),
    "navy": (0.02, 0.05, 0.28),
}

NEUTRAL_RGB = (0.5, 0.5, 0.5)
"""What a parked object is painted, so that a hidden cue leaves no trace in the model."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A named piece of MJCF.

    Attributes:
      name: Name of its root body.
      kind: ``"mocap"``, ``"free"`` or ``"fixed"``.
      world: MJCF of the body, appended to the world body.
      contact: MJCF of exclusions, appended to the contact section.
    """

    name: str
    kind: str
    world: str
    contact: str = ""


def _vec(values) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)


def _body_open(name: str, kind: str, mass_gravcomp: bool = True) -> str:
    """Returns the opening of a parked body; parked free bodies are weightless until placed."""
    if kind == "mocap":
        return f'<body name="{name}" mocap="true" pos="{_vec(PARK_POS_M)}">'
    if kind == "free":
        gravity = ' gravcomp="1"' if mass_gravcomp else ""
        return (
            f'<body name="{name}" pos="{_vec(PARK_POS_M)}"{gravity}>'
            f'<freejoint name="{name}_joint"/>'
        )
    raise ValueError(f"a movable part is 'mocap' or 'free', got {kind!r}")


def phase_lamp(name: str = "lamp") -> Part:
    """The lamp that shows the phase: a glowing ball on a post at the table's edge.

    Its bulb is the geom ``<name>_bulb``; a second small bulb that mirrors it sits on the
    robot's hand (see :mod:`sims.memory_bench.robot`), for the wrist camera.
    """
    x, y, z = LAMP_POS_M
    post = (z - TABLE_TOP_M) / 2
    return Part(
        name,
        "fixed",
        f'<body name="{name}" pos="{_vec((x, y, z))}">'
        f'<geom name="{name}_post" type="cylinder" size="0.008 {post:.6g}" pos="0 0 {-post:.6g}"'
        ' rgba="0.25 0.25 0.25 1" group="1"/>'
        f'<geom name="{name}_bulb" type="sphere" size="{LAMP_RADIUS_M}" material="glow"'
        ' rgba="1 1 1 1" group="1"/>'
        "</body>",
    )


def cube(name: str, half_m: float = 0.025, kind: str = "mocap", mass_kg: float = 0.08) -> Part:
    """A paintable cube; its geom is ``<name>_geom``."""
    return box(name, (half_m, half_m, half_m), kind, mass_kg)


def box(
    name: str,
    half_m: tuple[float, float, float],
    kind: str = "mocap",
    mass_kg: float = 0.08,
) -> Part:
    """A paintable box; its geom is ``<name>_geom``. Free boxes are easy to grasp firmly."""
    return Part(
        name,
        kind,
        _body_open(name, kind)
        + f'<geom name="{name}_geom" type="box" size="{_vec(half_m)}" group="1" material="matte"'
        f' rgba="{_vec(NEUTRAL_RGB)} 1" mass="{mass_kg:.6g}" condim="4"'
        ' friction="1.2 0.01 0.0005" solref="0.01 1"/></body>',
    )


def ball(name: str, radius_m: float = 0.02, kind: str = "mocap", mass_kg: float = 0.05) -> Part:
    """A paintable ball that touches nothing; its geom is ``<name>_geom``."""
    return Part(
        name,
        kind,
        _body_open(name, kind)
        + f'<geom name="{name}_geom" type="sphere" size="{radius_m:.6g}" group="1"'
        f' material="matte" rgba="{_vec(NEUTRAL_RGB)} 1" mass="{mass_kg:.6g}"'
        ' contype="0" conaffinity="0"/></body>',
    )


def cylinder(name: str, radius_m: float, half_height_m: float) -> Part:
    """A paintable upright cylinder to be touched; its geom is ``<name>_geom``."""
    return Part(
        name,
        "mocap",
        _body_open(name, "mocap")
        + f'<geom name="{name}_geom" type="cylinder" size="{_vec((radius_m, half_height_m))}"'
        f' group="1" material="matte" rgba="{_vec(NEUTRAL_RGB)} 1" friction="1.2 0.01 0.0005"'
        ' solref="0.01 1"/></body>',
    )


def solid(name: str, kind: str, size: tuple[float, ...]) -> Part:
    """A paintable shape that touches nothing; its geom is ``<name>_geom``.

    Args:
      name: Name of the part.
      kind: MJCF type of the geom: ``sphere``, ``cylinder`` or ``box``.
      size: Its sizes as MJCF has them, in metres.
    """
    return Part(
        name,
        "mocap",
        _body_open(name, "mocap") + f'<geom name="{name}_geom" type="{kind}" size="{_vec(size)}"'
        f' group="1" material="matte" rgba="{_vec(NEUTRAL_RGB)} 1"'
        ' contype="0" conaffinity="0"/></body>',
    )


def screen(name: str, half_m: tuple[float, float, float]) -> Part:
    """A paintable opaque box that touches nothing; its geom is ``<name>_geom``."""
    return solid(name, "box", half_m)


def patch(name: str, half_m: float = 0.045, thickness_m: float = 0.001) -> Part:
    """A flat paintable square on the table that touches nothing; its geom is ``<name>_geom``."""
    return screen(name, (half_m, half_m, thickness_m))
