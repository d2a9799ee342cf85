"""Room, directions, dances, shapes and colours of Ballet, as the released environment has them.

**Source**: Lampinen et al. 2021 and its released environment. Cells are (row, column), rows
grow downward.
"""

from __future__ import annotations

import numpy as np

ROOM = 11
"""Cells a side, border walls included."""
CENTRE = 5
HOME_DISTANCE = 3
CELL_PX = 9
WALL_GREY = 40

DIRECTIONS = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
DELTAS = np.array([(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)])
"""Direction -> (row, column) step."""
HOMES = CENTRE + HOME_DISTANCE * DELTAS
"""Direction -> cell of the home that lies there, seen from where the agent starts."""

_LEFT_RIGHT = str.maketrans("EW", "WE")
_CIRCLE = "N E S S W W N N E E S S W W N E"
_DANCES = {
    "circle_cw": _CIRCLE,
    "circle_ccw": _CIRCLE.translate(_LEFT_RIGHT),
    "up_and_down": "N S S N " * 4,
    "left_and_right": "E W W E " * 4,
    "diagonal_uldr": "NW SE SE NW " * 4,
    "diagonal_urdl": "NE SW SW NE " * 4,
    "plus_cw": "N S E W S N W E " * 2,
    "plus_ccw": "N S W E S N E W " * 2,
    "times_cw": "NE SW SE NW SW NE NW SE " * 2,
    "times_ccw": "NW SE SW NE SE NW NE SW " * 2,
    "zee": "NE W W E E SW NE SW SW E E W W NE SW NE",
    "chevron_down": "NW S SE NE N SW NE SW NE S SW NW N SE NW SE",
    "chevron_up": "SE N NW SW S NE SW NE SW N NE SE S NW SE NW",
}
DANCES = tuple(_DANCES)
MOVES = 16
MOVES_OF = np.array([[DIRECTIONS.index(m) for m in moves.split()] for moves in _DANCES.values()])
"""int64 [13, 16]: direction of each move of each dance."""
OFFSETS_OF = np.cumsum(DELTAS[MOVES_OF], axis=1)
"""int64 [13, 16, 2]: where the dancer is after each move, seen from its home; within -1..1."""

PERIOD_WITHOUT_DELAY = MOVES - 1
"""Dancer i + 1 moves first this many frames, and the delay, after dancer i did."""

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "purple": (128, 0, 128),
    "orange": (255, 165, 0),
    "yellow": (255, 255, 0),
    "brown": (128, 64, 0),
    "pink": (255, 64, 255),
    "cyan": (0, 255, 255),
    "dark_green": (0, 100, 0),
    "dark_red": (100, 0, 0),
    "dark_blue": (0, 0, 100),
    "olive": (100, 100, 0),
    "teal": (0, 100, 100),
    "lavender": (215, 200, 255),
    "peach": (255, 210, 170),
    "rose": (255, 205, 230),
    "light_green": (200, 255, 200),
    "light_yellow": (255, 255, 200),
}


def _shapes() -> dict[str, np.ndarray]:
    i, j = np.mgrid[:CELL_PX, :CELL_PX]
    r2 = (i - 4) ** 2 + (j - 4) ** 2

    def middle(k: np.ndarray) -> np.ndarray:
        return (k >= 3) & (k <= 5)

    sides = (j <= 2) | (j >= 6)
    plus = middle(i) | middle(j)
    ex = (abs(i - j) <= 1) | (abs(8 - i - j) <= 1)
    edge = np.minimum(np.minimum(i, j), np.minimum(8 - i, 8 - j))
    return {
        "triangle": i >= 2 * abs(4 - j),
        "empty_square": edge < 2,
        "plus": plus,
        "inverse_plus": ~plus,
        "ex": ex,
        "inverse_ex": ~ex,
        "circle": r2 <= 16,
        "empty_circle": abs(r2 - 16) < 6,
        "tee": middle(j) | (i <= 2),
        "upside_down_tee": middle(j) | (i >= 6),
        "h": sides | middle(i),
        "u": sides | (i >= 6),
        "upside_down_u": sides | (i <= 2),
        "vertical_stripes": j % 2 == 0,
        "horizontal_stripes": i % 2 == 0,
    }


SHAPES = _shapes()
"""Shape name -> bool [9, 9]."""
SPRITES = (
    np.stack(list(SHAPES.values()))[:, None, :, :, None]
    * np.array(list(COLOURS.values()))[None, :, None, None, :]
).astype(np.uint8)
"""uint8 [15 shapes, 19 colours, 9, 9, 3]."""
