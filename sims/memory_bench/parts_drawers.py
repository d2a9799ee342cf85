"""A cabinet of K equal drawers whose handles a hand can take from straight above.

Rows are stepped like a staircase and every handle is a bail: a bar that stands above its
drawer's front. A hand that points down reaches each one with nothing in its way, wrist
straight, so no joint comes near its limit. The drawers slide along the cabinet's own -y.
"""

from __future__ import annotations

import numpy as np

from sims.memory_bench.parts import PARK_POS_M, Part

TRAVEL_M = 0.22
"""How far a drawer slides from closed to fully open."""

PITCH_M = 0.125
"""Distance between neighbouring columns."""

ROW_HEIGHT_M = 0.105
"""Height of a row; leaves room for the lower handles under an open upper drawer."""

ROW_STEP_M = 0.13
"""How far the lower row stands out before the upper one: half a hand's width and more."""

BAR_HEIGHT_M = 0.085
"""Height of a handle's bar above the foot of its row."""

_BAR_FORWARD_M, _BAR_RADIUS_M, _BAR_HALF_M = 0.02, 0.009, 0.031
_WIDTH_HALF_M, _FRONT_HALF_M, _DEPTH_M, _WALL_M = 0.054, 0.029, 0.235, 0.004
_FOOT_M = 0.004

FRONT_RGB = (0.72, 0.52, 0.33)
_SHELL_RGB, _TRAY_RGB, _BAR_RGB = (0.42, 0.27, 0.16), (0.88, 0.78, 0.62), (0.12, 0.12, 0.13)


def layout(drawers: int) -> list[tuple[float, int]]:
    """Returns ``(column offset in pitches, row)`` of each drawer; row 0 is the lower one.

    Two and three drawers stand in one row, four in 2x2, five in 3 + 2, six in two rows of
    three ("2x3").
    """
    rows = {2: (2,), 3: (3,), 4: (2, 2), 5: (3, 2), 6: (3, 3)}
    if drawers not in rows:
        raise ValueError(f"a cabinet has 2 to 6 drawers, got {drawers}")
    return [
        (column - (count - 1) / 2, row)
        for row, count in enumerate(rows[drawers])
        for column in range(count)
    ]


def row_count(drawers: int) -> int:
    """Returns the number of rows of a cabinet with so many drawers."""
    return 1 + max(row for _, row in layout(drawers))


def handle_pos_m(drawers: int, index: int) -> np.ndarray:
    """Returns the closed position of a handle's bar, float64 [3], in the cabinet's frame.

    The frame's origin is on the table, under the face of the top row's drawers, in the middle
    of the columns; opening by q moves the handle by q along -y.
    """
    column, row = layout(drawers)[index]
    step = ROW_STEP_M * (row_count(drawers) - 1 - row)
    return np.array([column * PITCH_M, -step - _BAR_FORWARD_M, row * ROW_HEIGHT_M + BAR_HEIGHT_M])


def joint_name(name: str, index: int) -> str:
    """Returns the name of a drawer's slide joint; its position is how far it is open, in m."""
    return f"{name}_drawer{index}_joint"


def cabinet(name: str, drawers: int) -> Part:
    """The cabinet as a mocap body with one sliding child body a drawer.

    Its drawers touch the robot and free objects, but neither the cabinet nor each other.
    """
    count = row_count(drawers)
    shell = []
    for row in range(count):
        columns = [c for c, r in layout(drawers) if r == row]
        half_x = (len(columns) / 2) * PITCH_M
        front = -ROW_STEP_M * (count - 1 - row)
        back = _DEPTH_M + 0.012
        low = row * ROW_HEIGHT_M
        # The walls reach up to the next row; the top row is as low as its drawers.
        high = low + (ROW_HEIGHT_M if row < count - 1 else 2 * _FRONT_HALF_M + 2 * _FOOT_M)
        edges = [c * PITCH_M - PITCH_M / 2 for c in columns] + [columns[-1] * PITCH_M + PITCH_M / 2]
        roof = low + 2 * _FRONT_HALF_M + 2 * _FOOT_M
        for edge in edges:
            shell.append(
                _box(
                    (edge, (front + back) / 2, (low + roof) / 2),
                    (0.006, (back - front) / 2, (roof - low) / 2),
                    _SHELL_RGB,
                )
            )
        shell.append(
            _box(
                (0, (front + back) / 2, roof),
                (half_x + 0.006, (back - front) / 2, 0.003),
                _SHELL_RGB,
            )
        )
        if row < count - 1:  # a solid base under the next row
            next_front = front + ROW_STEP_M
            shell.append(
                _box(
                    (0, (next_front + back) / 2, (roof + high) / 2),
                    (half_x + 0.006, (back - next_front) / 2, (high - roof) / 2),
                    _SHELL_RGB,
                )
            )
        shell.append(
            _box((0, back, (low + high) / 2), (half_x + 0.006, 0.006, (high - low) / 2), _SHELL_RGB)
        )
    trays = "".join(_drawer(name, drawers, index) for index in range(drawers))
    pos = " ".join(f"{v:g}" for v in PARK_POS_M)
    return Part(
        name,
        "mocap",
        f'<body name="{name}" mocap="true" pos="{pos}">{"".join(shell)}{trays}</body>',
    )


def _drawer(name: str, drawers: int, index: int) -> str:
    column, row = layout(drawers)[index]
    bar = handle_pos_m(drawers, index)
    face = bar[1] + _BAR_FORWARD_M
    foot = row * ROW_HEIGHT_M + _FOOT_M
    middle = _DEPTH_M / 2
    up = BAR_HEIGHT_M - _FOOT_M  # the bar's height in the drawer's frame
    parts = [
        _box(
            (0, 0, _FRONT_HALF_M),
            (_WIDTH_HALF_M, 0.006, _FRONT_HALF_M),
            FRONT_RGB,
            f"{name}_drawer{index}_geom",
        ),
        _box((0, middle, _WALL_M), (_WIDTH_HALF_M - 0.004, middle, _WALL_M), _TRAY_RGB),
        *(
            _box((side * (_WIDTH_HALF_M - 0.008), middle, 0.02), (_WALL_M, middle, 0.02), _TRAY_RGB)
            for side in (-1, 1)
        ),
        _capsule(
            (-_BAR_HALF_M, -_BAR_FORWARD_M, up),
            (_BAR_HALF_M, -_BAR_FORWARD_M, up),
            f"{name}_drawer{index}_bar",
        ),
        *(
            _capsule((side * _BAR_HALF_M, -_BAR_FORWARD_M, up), (side * _BAR_HALF_M, -0.004, 0.045))
            for side in (-1, 1)
        ),
    ]
    return (
        f'<body name="{name}_drawer{index}" pos="{column * PITCH_M:.6g} {face:.6g} {foot:.6g}">'
        f'<joint name="{joint_name(name, index)}" type="slide" axis="0 -1 0"'
        f' range="0 {TRAVEL_M}" limited="true" damping="12" frictionloss="1.5" armature="0.2"/>'
        f"{''.join(parts)}</body>"
    )


# Group 1 is drawn. contype 1 and conaffinity 0: the robot and free objects are stopped, the
# cabinet's own pieces don't see each other.
_COMMON = 'group="1" contype="1" conaffinity="0" material="matte" friction="1 0.01 0.0005"'


def _rgba(rgb: tuple[float, float, float]) -> str:
    return f'rgba="{rgb[0]} {rgb[1]} {rgb[2]} 1"'


def _box(pos, half, rgb, name: str = "") -> str:
    label = f'name="{name}" ' if name else ""
    return (
        f'<geom {label}type="box" pos="{pos[0]:.6g} {pos[1]:.6g} {pos[2]:.6g}" mass="0.05"'
        f' size="{half[0]:.6g} {half[1]:.6g} {half[2]:.6g}" {_COMMON} {_rgba(rgb)}/>'
    )


def _capsule(start, end, name: str = "") -> str:
    label = f'name="{name}" ' if name else ""
    ends = " ".join(f"{v:.6g}" for v in (*start, *end))
    return (
        f'<geom {label}type="capsule" fromto="{ends}" size="{_BAR_RADIUS_M}" mass="0.02"'
        f" {_COMMON} {_rgba(_BAR_RGB)}/>"
    )
