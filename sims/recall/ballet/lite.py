"""Ballet-Lite: the eight homes as eight numbers, and one action that names the right one."""

from __future__ import annotations

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall.ballet import facts, scenery
from sims.recall.ballet.stage import MAX_DANCERS, BalletGame, Knobs, choice_frame
from sims.recall.game import Rows, recall_info, token

DISPLACEMENTS = 9


def _level(dancers: int, delay: int, dances: int = len(facts.DANCES)) -> dict[str, int]:
    return {"dancers": dancers, "delay": delay, "dances": dances, "lead": 0}


INFO = recall_info(
    name="ballet_lite",
    env_id="BalletLite",
    entry="ballet.lite:BalletLite",
    summary="watch dances, then point to the dancer of the one that is named",
    levels={
        "2_delay2_dances4": _level(2, 2, 4),
        "2_delay16_dances4": _level(2, 16, 4),
        "2_delay48_dances4": _level(2, 48, 4),
        "4_delay16_dances8": _level(4, 16, 8),
        **{f"{n}_delay{delay}": _level(n, delay) for delay in (16, 48) for n in (2, 4, 8)},
    },
    cues=lambda knobs: int(knobs["dancers"]),
    steps=lambda knobs: choice_frame(knobs) + 1,
)


class BalletLite(BalletGame):
    """No image and no walking; what has to be remembered is the same.

    Observations: ``homes_token`` uint8 [8], for the home in each direction 0 (nobody's) or
    1 + displacement code of its dancer; ``instruction_token`` int64 [] (0 "watch", else 1 +
    dance). The action after the instruction, a direction, decides. With a smaller pool the
    first ``dances`` of the list dance.
    """

    info = INFO

    def __init__(self, knobs: Knobs, rows: int) -> None:
        super().__init__(knobs, rows)
        self._homes = self.obs["homes_token"].reshape(-1)  # a view
        self._first = self.index * MAX_DANCERS

    def specs(self) -> dict[str, ArraySpec]:
        """Eight homes and the instruction."""
        return {
            "homes_token": token(1 + DISPLACEMENTS, MAX_DANCERS, dtype="uint8"),
            "instruction_token": token(len(self.instruction_words)),
        }

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Shows all dancers at home but the first, which has moved."""
        super().begin(rows, seeds, cues)
        shown = self.obs["homes_token"]
        shown[rows] = 0
        shown[rows[:, None], self.home_of[rows]] = 1 + 4
        shown[rows, self.home_now[rows]] = 1 + self.code[rows]

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Decides where it was time to choose; shows the dancer on stage."""
        choosing = self.where(rows, self.actionable[rows])
        self.dance(rows)
        self._homes[self._first[rows] + self.home_now[rows]] = self.code[rows] + 1
        if choosing.size:
            chosen = actions[choosing]
            self.decide(choosing, chosen, chosen == self.target[choosing], 1.0)

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Points to the home of the dancer that is believed to be right."""
        return self.believed_home(belief)

    def picture(self, row: int, size: int) -> np.ndarray:
        """The room from above, with a sprite of its own for each home."""
        looks = np.arange(MAX_DANCERS)
        shown = self.obs["homes_token"][row]
        there = np.flatnonzero(shown)
        offsets = np.stack(np.divmod(shown[there].astype(np.int64) - 1, 3), 1) - 1
        return scenery.poster(
            facts.HOMES[there] + offsets,
            looks[there],
            self.instruction_words[self.obs["instruction_token"][row]],
            size,
        )
