"""T-maze, passive: a sign at the start, a long corridor, and a turn to the side it showed.

**Source** of the kind: the passive T-maze of Ni, Ma, Eysenbach, Bacon 2023 (arXiv 2307.03864);
a re-creation in which the agent is carried along the corridor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import paint
from sims.recall.game import P_GAP, Game, Rows, check_knobs, recall_info, token

INFO = recall_info(
    name="t_maze",
    env_id="TMaze",
    entry="t_maze:TMaze",
    summary="see a sign, pass a corridor, turn to the side that the sign showed",
    levels={f"length{length}": {"length": length} for length in (10, 100, 1_000, 10_000)},
    cues=lambda knobs: 2,
    steps=lambda knobs: int(knobs["length"]) + 1,
)


class TMaze(Game):
    """Observations: ``sign_token`` int64 [] (0 none, 1 left, 2 right; in frame 0 alone) and
    ``place_token`` int64 [] (0 start, 1 corridor, 2 junction).

    The junction is reached in frame ``length``; the action there, left or right, decides.
    """

    info = INFO
    action_names = option_names = ("left", "right")
    instruction_words = ("turn to the side of the sign",)

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(self.info, knobs, length=(1, 10**9))
        super().__init__(knobs, rows)
        self.length = int(knobs["length"])

    def specs(self) -> dict[str, ArraySpec]:
        """Sign and place."""
        return {"sign_token": token(3), "place_token": token(3)}

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Shows the sign."""
        self.target[rows] = cues
        self.obs["sign_token"][rows] = 1 + cues
        self.obs["place_token"][rows] = 0

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Moves along the corridor, or turns."""
        choosing = self.where(rows, self.actionable[rows])
        self.phase[rows] = np.maximum(self.phase[rows], P_GAP)
        self.obs["sign_token"][rows] = 0
        place = self.obs["place_token"]
        place[rows] = np.maximum(place[rows], 1)
        arrived = self.where(rows, self.tick[rows] == self.length)
        if arrived.size:
            place[arrived] = 2
            self.open(arrived)
        if choosing.size:
            chosen = actions[choosing]
            self.decide(choosing, chosen, chosen == self.target[choosing], 1.0)

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Turns to the side that is believed in."""
        return belief

    def evidence(self) -> np.ndarray:
        """Frame 0."""
        return np.zeros((self.n, 1, 2), np.int64)

    def picture(self, row: int, size: int) -> np.ndarray:
        """The maze from above, shortened, with the agent on its way."""
        canvas = paint.canvas(size)
        paint.block(canvas, 0.45, 0.05, 0.12, 0.85, paint.PAPER)
        paint.block(canvas, 0.15, 0.78, 0.72, 0.12, paint.PAPER)
        sign = int(self.obs["sign_token"][row])
        if sign:  # the agent faces right: its left is up
            paint.block(canvas, 0.3 if sign == 1 else 0.62, 0.05, 0.1, 0.1, paint.TOLD)
        x, y = 0.1 + 0.74 * min(1.0, self.tick[row] / self.length), 0.51
        if self.commit[row] >= 0:
            y = 0.2 if self.commit[row] == 0 else 0.82
        paint.disc(canvas, y, x, 0.04, paint.INK)
        line = paint.line_height(size)
        paint.write(
            canvas, f"{min(self.tick[row], self.length)} / {self.length}", size - line, line
        )
        return canvas
