"""Passive visual match in 2-D: see a colour, pick apples for a while, walk to the door like it.

**Source** of the kind: Hung et al. 2019 (arXiv 1810.06721) in the grid form of later work: a
7 x 11 room, a 5 x 5 view, 15 frames of colour, a gap with apples, 15 frames at three doors. A
re-creation; where cue, apples and doors stand is ours.

Shape letters: n rows, k some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws, paint
from sims.recall.game import P_CUE, P_EXECUTE, P_GAP, Game, Rows, check_knobs, recall_info, token

HEIGHT, WIDTH, RADIUS = 7, 11, 2
CUE_STEPS, CHOICE_STEPS = 15, 15
FLOOR, WALL, AGENT, APPLE, COLOUR = range(5)
COLOURS = ("red", "green", "blue")
APPLES, RESPAWN_STEPS, MATCH_REWARD = 10, 20, 10.0

_MOVES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
_START, _CHOICE_START = (3, 5), (5, 5)
_PATCH = (2, 5)
_DOORS = np.array([(1, 3), (1, 5), (1, 7)])
_ROOM = np.full((HEIGHT, WIDTH), WALL, np.uint8)
_ROOM[1:-1, 1:-1] = FLOOR
_FREE = np.argwhere(_ROOM == FLOOR)
_FREE = _FREE[(_FREE != _START).any(1)]
"""Where apples may stand."""


def _level(gap: int) -> dict[str, int]:
    return {"gap": gap, "apple_reward": 10}


INFO = recall_info(
    name="visual_match",
    env_id="VisualMatch",
    entry="visual_match:VisualMatch",
    summary="see a colour, pick apples, then walk to the door that has the colour",
    levels={f"gap{gap}": _level(gap) for gap in (30, 90, 250, 750)},
    cues=lambda knobs: len(COLOURS),
    steps=lambda knobs: CUE_STEPS + int(knobs["gap"]) + CHOICE_STEPS,
)


class VisualMatch(Game):
    """Observation: ``view_token`` uint8 [5, 5] around the agent (0 floor or outside, 1 wall, 2
    agent, 3 apple, 4 to 6 colours).

    The agent is held while it sees the colour. In the gap it walks and eats; apples come back
    after 20 steps and are all worth the same, drawn from 1..``apple_reward`` for the episode.
    Then it stands before the doors and has 15 steps; the first door entered decides, and the
    right one is worth 10. Actions: up, right, down, left.

    State: pos [n, 2]; apples [n, 10, 2] cells; back_at [n, 10] ticks; worth [n]; door_of
    [n, 3] door of each colour.
    """

    info = INFO
    action_names = ("up", "right", "down", "left")
    option_names = COLOURS
    instruction_words = ("enter the door that has the color shown first",)

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(self.info, knobs, gap=(1, 10**8), apple_reward=(0, 10**6))
        super().__init__(knobs, rows)
        self.go = CUE_STEPS + int(knobs["gap"])
        self.pos = self.keep("pos", (2,))
        self.apples = self.keep("apples", (APPLES, 2))
        self.back_at, self.worth = self.keep("back_at", (APPLES,)), self.keep("worth")
        self.door_of = self.keep("door_of", (len(COLOURS),))

    def specs(self) -> dict[str, ArraySpec]:
        """The view."""
        side = 2 * RADIUS + 1
        return {"view_token": token(COLOUR + len(COLOURS), side, side, dtype="uint8")}

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws apples, their worth and the doors, and shows the colour."""
        cells = draws.permutations(seeds, "visual/apples", len(_FREE))[:, :APPLES]
        self.apples[rows], self.back_at[rows] = _FREE[cells], 0
        most = int(self.knobs["apple_reward"])
        drawn = draws.integers(seeds, "visual/worth", max(1, most), 1)[:, 0]
        self.worth[rows] = min(1, most) * (1 + drawn)
        self.door_of[rows] = draws.permutations(seeds, "visual/doors", len(COLOURS))
        self.target[rows], self.pos[rows] = cues, _START
        self._view(rows)

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Holds, picks apples or chooses a door, by the frame."""
        walking = self.where(rows, self.actionable[rows])
        if walking.size:
            self._walk(walking, actions[walking])
        every = self.index if isinstance(rows, slice) else rows
        tick = self.tick[every]
        self._eat(every[(self.phase[every] == P_GAP) & (tick < self.go)])
        loose = every[tick == CUE_STEPS]
        self.phase[loose] = P_GAP
        # The last action of the gap would lead into a room that is gone.
        self.actionable[every[(tick >= CUE_STEPS) & (tick < self.go)]] = True
        self.actionable[every[tick == self.go - 1]] = False
        arrived = every[tick == self.go]
        if arrived.size:
            self.pos[arrived] = _CHOICE_START
            self.open(arrived)
        late = every[(tick >= self.go + CHOICE_STEPS) & ~self.terminated[every]]
        if late.size:
            self.time_out(late)
        self._view(every)

    def _walk(self, rows: np.ndarray, actions: np.ndarray) -> None:
        there = self.pos[rows] + _MOVES[actions]
        free = _ROOM[there[:, 0], there[:, 1]] == FLOOR
        self.pos[rows[free]] = there[free]
        at_door = (self.pos[rows, None] == _DOORS).all(-1) & (self.phase[rows] == P_EXECUTE)[
            :, None
        ]
        row, door = np.nonzero(at_door)
        rows = rows[row]
        colour = (self.door_of[rows] == door[:, None]).argmax(1)
        self.decide(rows, colour, colour == self.cue[rows], MATCH_REWARD)

    def _eat(self, rows: np.ndarray) -> None:
        here = (self.apples[rows] == self.pos[rows, None]).all(-1)
        row, apple = np.nonzero(here & (self.back_at[rows] <= self.tick[rows, None]))
        rows = rows[row]
        self.reward[rows] += self.worth[rows]
        self.back_at[rows, apple] = self.tick[rows] + RESPAWN_STEPS

    def _view(self, rows: np.ndarray) -> None:
        pad = 2 * RADIUS
        world = np.zeros((len(rows), HEIGHT + pad, WIDTH + pad), np.uint8)
        room = world[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
        room[:] = _ROOM
        phase, k = self.phase[rows], np.arange(len(rows))
        seen = k[phase == P_CUE]
        room[seen, _PATCH[0], _PATCH[1]] = COLOUR + self.cue[rows[seen]]
        row, apple = np.nonzero(
            (self.back_at[rows] <= self.tick[rows, None]) & (phase == P_GAP)[:, None]
        )
        room[row, *self.apples[rows[row], apple].T] = APPLE
        seen = k[phase == P_EXECUTE]
        for colour in range(len(COLOURS)):
            door = _DOORS[self.door_of[rows[seen], colour]]
            room[seen, door[:, 0], door[:, 1]] = COLOUR + colour
        y, x = self.pos[rows].T
        room[k, y, x] = AGENT
        side = np.arange(2 * RADIUS + 1)
        ys, xs = y[:, None, None] + side[:, None], x[:, None, None] + side
        self.obs["view_token"][rows] = world[k[:, None, None], ys, xs]

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Goes under the door of the colour that is believed in, then up to it."""
        goal = _DOORS[self.door_of[self.index, belief]][:, 1]
        x = self.pos[:, 1]
        return np.where(x < goal, 1, np.where(x > goal, 3, 0))

    def evidence(self) -> np.ndarray:
        """The frames in which the colour is seen."""
        return np.tile(np.array([[0, CUE_STEPS - 1]]), (self.n, 1, 1))

    def picture(self, row: int, size: int) -> np.ndarray:
        """The view, with the time under it."""
        palette = np.array(
            [(16, 18, 22), paint.MUTED, paint.INK, (150, 210, 90), *paint.HUES[[0, 2, 1]]]
        )
        canvas = paint.canvas(size)
        line = paint.line_height(size)
        image = palette.astype(np.uint8)[self.obs["view_token"][row]]
        paint.place(canvas, image, 0, 0, size, size - line)
        paint.write(canvas, f"{self.tick[row]} / {self.go}", size - line, line)
        return canvas
