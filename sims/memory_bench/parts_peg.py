"""A peg with two ends of different colours, the ghost of a hand, and a socket open at both ends."""

from __future__ import annotations

import numpy as np

from sims.memory_bench.parts import NEUTRAL_RGB, PALETTE, PARK_POS_M, Part

PEG_HALF_M = (0.06, 0.016, 0.02)
"""Half sizes of a peg, which lies along its own x: 3.2 cm between fingers that open 8 cm."""

END_RGB = (PALETTE["cyan"], PALETTE["magenta"])
"""Colours of the ends at -x and +x of the peg."""

PEG_RGB, SOCKET_RGB, HAND_RGB = (0.72, 0.52, 0.33), (0.20, 0.20, 0.24), (0.30, 0.30, 0.32)

WALL_M = 0.045
"""Height of the socket's walls."""

DEPTH_M = 0.055
"""How deep each of its two mouths is, from the opening to the wall in the middle."""

_CAP_HALF_M = (0.0145, 0.0165, 0.0205)
_CAP_OVER_M = 0.0005  # a cap stands out a little on every side, or the bar would show through
_WALL_HALF_M = 0.004
_THIN_M = 0.001


def _numbers(values) -> str:
    return " ".join(f"{float(v):.6g}" for v in values)


def end_name(name: str, end: int) -> str:
    """Returns the name of the body of one of a peg's ends, 0 or 1."""
    return f"{name}_end{end}"


def mouth_name(name: str, side: int) -> str:
    """Returns the name of the body of one of a socket's mouths: 0 opens along +y, 1 along -y."""
    return f"{name}_mouth{side}"


def peg(name: str, ghost: bool = False) -> Part:
    """A bar with a cap in another colour at each end; its ends are bodies of their own.

    Args:
      name: Name of the part.
      ghost: Whether it is only shown: moved by nobody and touching nothing.
    """
    look = 'group="1" material="matte"'
    touch = (
        'contype="0" conaffinity="0"'
        if ghost
        else 'mass="0.08" condim="4" friction="1.2 0.01 0.0005" solref="0.01 1"'
    )
    cap_x, weightless = (
        PEG_HALF_M[0] - _CAP_HALF_M[0] + _CAP_OVER_M,
        "" if ghost else 'gravcomp="1"',
    )
    caps = "".join(
        f'<body name="{end_name(name, end)}" pos="{sign * cap_x:.6g} 0 0" {weightless}>'
        f'<geom name="{end_name(name, end)}_geom" type="box" size="{_numbers(_CAP_HALF_M)}" {look}'
        f' mass="0.001" contype="0" conaffinity="0" rgba="{_numbers(rgb)} 1"/></body>'
        for end, (sign, rgb) in enumerate(zip((-1, 1), END_RGB, strict=True))
    )
    kind = 'mocap="true"' if ghost else 'gravcomp="1"'
    joint = "" if ghost else f'<freejoint name="{name}_joint"/>'
    return Part(
        name,
        "mocap" if ghost else "free",
        f'<body name="{name}" {kind} pos="{_numbers(PARK_POS_M)}">{joint}'
        f'<geom name="{name}_geom" type="box" size="{_numbers(PEG_HALF_M)}" {look} {touch}'
        f' rgba="{_numbers(PEG_RGB)} 1"/>{caps}</body>',
    )


def ghost_hand(name: str) -> Part:
    """Two fingers and a palm that touch nothing, around a peg's middle; fingers open along y."""
    look = f'group="1" material="matte" contype="0" conaffinity="0" rgba="{_numbers(HAND_RGB)} 1"'
    fingers = "".join(
        f'<geom type="box" pos="0 {sign * 0.025} 0.035" size="0.012 0.008 0.04" {look}/>'
        for sign in (-1, 1)
    )
    return Part(
        name,
        "mocap",
        f'<body name="{name}" mocap="true" pos="{_numbers(PARK_POS_M)}">{fingers}'
        f'<geom name="{name}_geom" type="box" pos="0 0 0.09" size="0.025 0.06 0.018" {look}/>'
        "</body>",
    )


def socket(name: str, inner_half_m: float) -> Part:
    """An open channel along y with a wall across its middle: two mouths, back to back.

    It is open from above too, and each mouth has a paintable floor, ``<mouth>_geom``.

    Args:
      name: Name of the part.
      inner_half_m: Half the channel's width, in metres.
    """
    solid = f'group="1" material="matte" friction="0.6 0.01 0.0005" rgba="{_numbers(SOCKET_RGB)} 1"'
    half = WALL_M / 2
    walls = "".join(
        f'<geom type="box" pos="{sign * (inner_half_m + _WALL_HALF_M):.6g} 0 {half}"'
        f' size="{_WALL_HALF_M} {DEPTH_M + _WALL_HALF_M:.6g} {half}" {solid}/>'
        for sign in (-1, 1)
    )
    size = (inner_half_m, DEPTH_M / 2, _THIN_M)
    floors = "".join(
        f'<body name="{mouth_name(name, side)}"'
        f' pos="0 {sign * (_WALL_HALF_M + DEPTH_M / 2):.6g} {_THIN_M}">'
        f'<geom name="{mouth_name(name, side)}_geom" type="box" size="{_numbers(size)}" group="1"'
        f' material="matte" contype="0" conaffinity="0" rgba="{_numbers(NEUTRAL_RGB)} 1"/></body>'
        for side, sign in enumerate((1, -1))
    )
    return Part(
        name,
        "mocap",
        f'<body name="{name}" mocap="true" pos="{_numbers(PARK_POS_M)}">{walls}'
        f'<geom name="{name}_geom" type="box" pos="0 0 {half}"'
        f' size="{inner_half_m:.6g} {_WALL_HALF_M} {half}" {solid}/>{floors}</body>',
    )


def tips(pos_world_m: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Returns where a peg's two ends reach to, float64 [2, 3], from its pose [3] and [3, 3]."""
    reach = PEG_HALF_M[0] * rotation[:, 0]
    return pos_world_m + np.stack((-reach, reach))
