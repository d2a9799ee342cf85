"""Ballet written a second time, as plainly as possible: one episode, one cell after the other.

The reference for the fast one, and its rival in speed. It shares no table with it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

STEPS = {"N": (-1, 0), "NE": (-1, 1), "E": (0, 1), "SE": (1, 1),
         "S": (1, 0), "SW": (1, -1), "W": (0, -1), "NW": (-1, -1)}  # fmt: skip
_MOVES = {
    "circle_cw": "N E S S W W N N E E S S W W N E",
    "circle_ccw": "N W S S E E N N W W S S E E N W",
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
DANCES = {name: moves.split() for name, moves in _MOVES.items()}
COLOURS = {
    "red": "ff0000", "green": "00ff00", "blue": "0000ff", "purple": "800080",
    "orange": "ffa500", "yellow": "ffff00", "brown": "804000", "pink": "ff40ff",
    "cyan": "00ffff", "dark_green": "006400", "dark_red": "640000", "dark_blue": "000064",
    "olive": "646400", "teal": "006464", "lavender": "d7c8ff", "peach": "ffd2aa",
    "rose": "ffcde6", "light_green": "c8ffc8", "light_yellow": "ffffc8",
}  # fmt: skip


def in_shape(name: str, i: int, j: int) -> bool:
    """Whether pixel (i, j) of a 9 x 9 cell belongs to a shape."""
    r2 = (i - 4) ** 2 + (j - 4) ** 2
    row, col, side = i in (3, 4, 5), j in (3, 4, 5), j in (0, 1, 2, 6, 7, 8)
    ex = abs(i - j) <= 1 or abs(8 - i - j) <= 1
    return {
        "triangle": i >= 2 * abs(4 - j),
        "empty_square": i in (0, 1, 7, 8) or j in (0, 1, 7, 8),
        "plus": row or col,
        "inverse_plus": not (row or col),
        "ex": ex,
        "inverse_ex": not ex,
        "circle": r2 <= 16,
        "empty_circle": 10 < r2 < 22,
        "tee": col or i < 3,
        "upside_down_tee": col or i > 5,
        "h": side or row,
        "u": side or i > 5,
        "upside_down_u": side or i < 3,
        "vertical_stripes": j in (0, 2, 4, 6, 8),
        "horizontal_stripes": i in (0, 2, 4, 6, 8),
    }[name]


@dataclasses.dataclass
class Dancer:
    home: tuple[int, int]
    dance: str
    shape: str
    colour: str


class NaiveBallet:
    """One episode; `frame` is float [99, 99, 3] in [0, 1]."""

    def __init__(self, dancers: list[Dancer], target: int, delay: int, max_steps: int) -> None:
        self.dancers, self.target, self.max_steps = dancers, target, max_steps
        self.period, self.time, self.agent = 15 + delay, 0, (5, 5)
        self.choice = len(dancers) * self.period
        self.at = [d.home for d in dancers]
        self.reward, self.over = 0.0, False
        self._dance()

    @property
    def instruction(self) -> str:
        return "watch" if self.time < self.choice else self.dancers[self.target].dance

    def _dance(self) -> None:
        for k, dancer in enumerate(self.dancers):
            move = self.time - k * self.period
            if 0 <= move < 16:
                step = STEPS[DANCES[dancer.dance][move]]
                self.at[k] = (self.at[k][0] + step[0], self.at[k][1] + step[1])

    def step(self, action: int) -> None:
        chooses = self.time >= self.choice
        self.time += 1
        self._dance()
        if chooses:
            step = list(STEPS.values())[action]
            there = (self.agent[0] + step[0], self.agent[1] + step[1])
            if 1 <= there[0] <= 9 and 1 <= there[1] <= 9:
                self.agent = there
            if self.agent in self.at:
                self.over = True
                self.reward = float(self.at.index(self.agent) == self.target)
        if self.time >= self.max_steps:
            self.over = True

    def cell(self, row: int, col: int) -> str:
        """What one sees in a cell of the room."""
        if (row, col) in self.at:
            return f"dancer {self.at.index((row, col))}"
        if (row, col) == self.agent:
            return "agent"
        inside = 0 <= row <= 10 and 0 <= col <= 10
        return "wall" if inside and (row in (0, 10) or col in (0, 10)) else "floor"

    def cells(self) -> list[list[str]]:
        """The view, 11 x 11, around the agent."""
        top, left = self.agent[0] - 5, self.agent[1] - 5
        return [[self.cell(top + i, left + j) for j in range(11)] for i in range(11)]

    def frame(self) -> np.ndarray:
        image = np.zeros((99, 99, 3))
        for i, line in enumerate(self.cells()):
            for j, what in enumerate(line):
                image[9 * i : 9 * i + 9, 9 * j : 9 * j + 9] = self.sprite(what)
        return image

    def sprite(self, what: str) -> np.ndarray:
        if what in ("floor", "wall", "agent"):
            return np.full((9, 9, 3), {"floor": 0.0, "wall": 40 / 255, "agent": 1.0}[what])
        dancer = self.dancers[int(what.split()[1])]
        if not hasattr(dancer, "drawn"):
            rgb = [int(COLOURS[dancer.colour][k : k + 2], 16) / 255 for k in (0, 2, 4)]
            shape = [[in_shape(dancer.shape, i, j) for j in range(9)] for i in range(9)]
            dancer.drawn = np.array(shape)[..., None] * np.array(rgb)
        return dancer.drawn
