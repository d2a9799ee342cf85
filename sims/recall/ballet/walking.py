"""Ballet with walking: the agent goes to the dancer it chooses. The view is drawn by others.

Shape letters: n rows, k some of them, d dancers.
"""

from __future__ import annotations

import abc

import numpy as np

from embodied.core.errors import ConfigError
from sims.recall.ballet import facts
from sims.recall.ballet.stage import AT_HOME, BalletGame, Knobs, choice_frame
from sims.recall.game import RecallInfo, Rows, check_knobs, recall_info

_MOVES = facts.DELTAS @ (facts.ROOM, 1)
"""Direction -> step in flat cells."""
_ROW, _COL = np.divmod(np.arange(facts.ROOM**2), facts.ROOM)
IS_WALL = (_ROW % (facts.ROOM - 1) == 0) | (_COL % (facts.ROOM - 1) == 0)
_START = facts.CENTRE * facts.ROOM + facts.CENTRE
_HOMES = facts.HOMES @ (facts.ROOM, 1)
"""Direction -> flat cell."""
_OFFSETS = (np.stack(np.divmod(np.arange(9), 3), 1) - 1) @ (facts.ROOM, 1)
"""Displacement code -> step in flat cells."""


def _seen_homes() -> np.ndarray:
    at = np.stack((_ROW, _COL), 1)
    cells = facts.HOMES - at[:, None] + facts.CENTRE
    seen = ((cells >= 0) & (cells < facts.ROOM)).all(-1)
    return np.where(seen, cells @ (facts.ROOM, 1), -1)


_SEEN_HOMES = _seen_homes()
"""Agent's flat cell, direction -> flat cell of the view in which that home is, or -1."""

SHORT_LIMIT, LONG_LIMIT = 320, 1024
"""Steps of an episode at most: the first with the delay of 16, the second with that of 48."""


def _levels() -> dict[str, dict[str, int]]:
    return {
        f"{n}_delay{delay}": {
            "dancers": n,
            "delay": delay,
            "dances": len(facts.DANCES),
            "lead": 0,
            "max_steps": SHORT_LIMIT if delay == 16 else LONG_LIMIT,
        }
        for delay in (16, 48)
        for n in (2, 4, 8)
    }


def walking_info(name: str, env_id: str, entry: str, summary: str) -> RecallInfo:
    """Returns the row of a Ballet task with walking."""
    return recall_info(
        name=name,
        env_id=env_id,
        entry=entry,
        summary=summary,
        levels=_levels(),
        cues=lambda knobs: int(knobs["dancers"]),
        steps=lambda knobs: int(knobs["max_steps"]),
    )


class WalkingBallet(BalletGame):
    """The official rules: walls stop, entering a dancer's cell decides, time runs out.

    The agent stands in the middle of its view of 11 x 11 cells; cells outside the room look
    like floor. A dancer hides the agent that stands on it.

    State beside the base's: pos [n] flat cell of the agent; owner [n, 121] home direction of
    the dancer at home in each cell, or -1.
    """

    def __init__(self, knobs: Knobs, rows: int) -> None:
        check_knobs(self.info, knobs, max_steps=(1, 10**9))
        super().__init__(knobs, rows)
        if knobs["max_steps"] < self.choice_frame + facts.HOME_DISTANCE:
            raise ConfigError(
                f"knob max_steps of {self.info.name}: {knobs['max_steps']} steps end before a "
                f"choice can be made, which is possible from frame {choice_frame(knobs)} on and "
                f"takes {facts.HOME_DISTANCE} steps; set max_steps >= "
                f"{choice_frame(knobs) + facts.HOME_DISTANCE}"
            )
        self.max_steps = int(knobs["max_steps"])
        self.pos = self.keep("pos", fill=_START)
        self.owner = self.keep("owner", (facts.ROOM**2,), np.int8, -1)

    @abc.abstractmethod
    def draw_room(self, rows: np.ndarray) -> None:
        """Draws walls, floor and agent of the views of `rows` [k]."""

    @abc.abstractmethod
    def draw_dancers(self, rows: np.ndarray, dancers: np.ndarray, cells: np.ndarray) -> None:
        """Draws dancers [k] into flat cells [k] of the views of `rows` [k]."""

    @abc.abstractmethod
    def clear(self, rows: np.ndarray, cells: np.ndarray) -> None:
        """Makes flat cells [k] of the views of `rows` [k] floor."""

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Puts the agent into the middle and draws the whole view."""
        super().begin(rows, seeds, cues)
        self.pos[rows] = _START
        self.owner[rows] = -1
        self.owner[rows[:, None], _HOMES[self.home_of[rows]]] = self.home_of[rows]
        self._draw(rows)
        self._follow(rows[self.code[rows] != AT_HOME], AT_HOME)

    def _draw(self, rows: np.ndarray) -> None:
        """Draws the views of `rows` [k] from nothing, all dancers at home."""
        self.draw_room(rows)
        cells = _SEEN_HOMES[self.pos[rows, None], self.home_of[rows]]
        at, dancer = (cells >= 0).nonzero()
        self.draw_dancers(rows[at], dancer, cells[at, dancer])

    def redraw(self) -> None:
        """Draws all views again."""
        self._draw(self.index)
        dancing = self.index[self.code != AT_HOME]
        self._follow(dancing, AT_HOME)

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Walks where actions count, dances elsewhere."""
        walking = self.where(rows, self.actionable[rows])
        before = self.code[rows].copy() if isinstance(rows, slice) else self.code[rows]
        self.dance(rows)
        changed = before != self.code[rows]
        self._follow(self.where(rows, changed), before[changed])
        if walking.size:
            self._walk(walking, actions[walking])
        late = self.where(rows, (self.tick[rows] >= self.max_steps) & ~self.terminated[rows])
        if late.size:
            self.time_out(late)

    def _follow(self, rows: np.ndarray, before: np.ndarray | int) -> None:
        """Moves the dancers on stage in the views, whose agents stand in the room's middle."""
        home = _HOMES[self.home_now[rows]]
        self.clear(rows, home + _OFFSETS[before])
        self.draw_dancers(rows, self.who[rows], home + _OFFSETS[self.code[rows]])

    def _walk(self, rows: np.ndarray, actions: np.ndarray) -> None:
        here = self.pos[rows]
        there = here + _MOVES[actions]
        there = np.where(IS_WALL[there], here, there)
        moved = there != here
        rows, there = rows[moved], there[moved]
        self.pos[rows] = there
        self._draw(rows)
        met = self.owner[rows, there]
        rows, met = rows[met >= 0], met[met >= 0]
        self.decide(rows, met, met == self.target[rows], 1.0)

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Walks straight: homes lie three steps away in each direction."""
        return self.believed_home(belief)


def room_views(wall: int, agent: int) -> np.ndarray:
    """Returns uint8 [121, 11, 11]: what is seen from each cell, without dancers.

    A view holds `wall`, `agent` in its middle, and 0 for floor and what is outside.
    """
    side = facts.ROOM
    world = np.pad(wall * IS_WALL.reshape(side, side).astype(np.uint8), facts.CENTRE)
    views = np.lib.stride_tricks.sliding_window_view(world, (side, side))
    views = views.reshape(side**2, side, side).copy()
    views[:, facts.CENTRE, facts.CENTRE] = agent
    return views
