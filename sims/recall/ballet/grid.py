"""Ballet-Grid: the official room as a small grid of ids around the agent, walking kept."""

from __future__ import annotations

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall.ballet import facts, scenery
from sims.recall.ballet.stage import Knobs
from sims.recall.ballet.walking import WalkingBallet, room_views, walking_info
from sims.recall.game import token

FLOOR, WALL, AGENT, DANCER = range(4)

INFO = walking_info(
    "ballet_grid",
    "BalletGrid",
    "ballet.grid:BalletGrid",
    "watch dances, then walk to the dancer of the one that is named (small grid)",
)
_VIEWS = room_views(WALL, AGENT)


class BalletGrid(WalkingBallet):
    """Observations: ``view_token`` uint8 [11, 11] and ``instruction_token`` int64 [].

    Ids: 0 floor or outside, 1 wall, 2 agent (the middle), 3 dancer. Dancers look alike; the
    official looks differ and carry no information either.
    """

    info = INFO

    def __init__(self, knobs: Knobs, rows: int) -> None:
        super().__init__(knobs, rows)
        self._cells = self.obs["view_token"].reshape(rows, -1)  # a view

    def specs(self) -> dict[str, ArraySpec]:
        """The view and the instruction."""
        return {
            "view_token": token(4, facts.ROOM, facts.ROOM, dtype="uint8"),
            "instruction_token": token(len(self.instruction_words)),
        }

    def draw_room(self, rows: np.ndarray) -> None:
        self.obs["view_token"][rows] = _VIEWS[self.pos[rows]]

    def draw_dancers(self, rows: np.ndarray, dancers: np.ndarray, cells: np.ndarray) -> None:
        self._cells[rows, cells] = DANCER

    def clear(self, rows: np.ndarray, cells: np.ndarray) -> None:
        self._cells[rows, cells] = FLOOR

    def picture(self, row: int, size: int) -> np.ndarray:
        """The view, with one sprite for all dancers."""
        view = self.obs["view_token"][row]
        cells = np.argwhere(view == DANCER)
        words = self.instruction_words[self.obs["instruction_token"][row]]
        room = scenery.room_image(view == WALL, view[facts.CENTRE, facts.CENTRE] == AGENT)
        return scenery.poster(cells, np.full(len(cells), 6), words, size, room)
