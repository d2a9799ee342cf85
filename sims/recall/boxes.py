"""Hidden objects: things pop out of boxes, one at a time; later one of them is asked for.

**Source** of the kind: the object permanence tasks of Lampinen et al. 2021 (arXiv 2105.14039),
whose environment was not released. A re-creation from their description, without vision and
walking: the agent watches from its place and at the end names a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws, paint
from sims.recall.ballet.facts import DIRECTIONS
from sims.recall.game import P_CUE, P_EXECUTE, P_GAP, Game, Rows, check_knobs, recall_info, token

PLACES = 8
OBJECTS = ("ball", "book", "cup", "duck", "hat", "key", "lamp", "pen",
           "ring", "rope", "shoe", "sock", "spoon", "star", "toy", "vase")  # fmt: skip
CLOSED = 1
PASSING_STEPS = 4
"""Frames that a passing object stays."""


def _level(boxes: int, delay: int, busy: int = 0) -> dict[str, int]:
    return {"boxes": boxes, "reveal": 4, "delay": delay, "busy": busy}


def _choice_frame(knobs: Mapping[str, Any]) -> int:
    return int(knobs["boxes"]) * (int(knobs["reveal"]) + int(knobs["delay"]))


INFO = recall_info(
    name="boxes",
    env_id="Boxes",
    entry="boxes:Boxes",
    summary="see objects pop out of boxes and hide, then go to the box of the one that is named",
    levels={
        "2_delay4": _level(2, 4),
        "4_delay4": _level(4, 4),
        "4_delay16": _level(4, 16),
        "8_delay16": _level(8, 16),
        "4_delay16_busy": _level(4, 16, 1),
        "8_delay64_busy": _level(8, 64, 1),
    },
    cues=lambda knobs: int(knobs["boxes"]),
    steps=lambda knobs: _choice_frame(knobs) + 1,
)


class Boxes(Game):
    """Observations: ``places_token`` uint8 [8] (0 nothing, 1 closed box, else 2 + object that
    looks out of it), ``passing_token`` uint8 [] (0 none, else 1 + object that passes by; knob
    ``busy``), ``instruction_token`` int64 [] (0 watch, else 1 + object to find).

    Each box opens for ``reveal`` frames and stays closed for ``delay``; passing objects are
    in no box. The action after the instruction, a place, decides. The cue says in which box,
    counted in the order of opening, the asked object is; others hand the objects round.

    State: place_of [n, boxes]; object_of [n, boxes]; asked [n]; spare [n, 16 - boxes].
    """

    info = INFO
    action_names = option_names = DIRECTIONS
    instruction_words = ("watch", *(f"find the {name}" for name in OBJECTS))

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(
            self.info, knobs, boxes=(2, PLACES), reveal=(1, 10**6), delay=(1, 10**8), busy=(0, 1)
        )
        super().__init__(knobs, rows)
        self.boxes, self.reveal = int(knobs["boxes"]), int(knobs["reveal"])
        self.period, self.choice_frame = self.reveal + int(knobs["delay"]), _choice_frame(knobs)
        self.place_of = self.keep("place_of", (self.boxes,))
        self.object_of = self.keep("object_of", (self.boxes,))
        self.asked = self.keep("asked")
        self.spare = self.keep("spare", (len(OBJECTS) - self.boxes,))

    def specs(self) -> dict[str, ArraySpec]:
        """Eight places, who passes by, and the instruction."""
        return {
            "places_token": token(2 + len(OBJECTS), PLACES, dtype="uint8"),
            "passing_token": token(1 + len(OBJECTS), dtype="uint8"),
            "instruction_token": token(len(self.instruction_words)),
        }

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws places and objects and opens the first box."""
        m = self.boxes
        places = draws.permutations(seeds, "boxes/places", PLACES)[:, :m]
        objects = draws.permutations(seeds, "boxes/objects", len(OBJECTS))
        turn = (np.arange(m) - cues[:, None]) % m
        self.place_of[rows] = places
        self.object_of[rows] = np.take_along_axis(objects[:, :m], turn, 1)
        self.asked[rows], self.spare[rows] = objects[:, 0], objects[:, m:]
        self.target[rows] = places[np.arange(len(rows)), cues]
        self.obs["instruction_token"][rows] = 0
        self._show(rows)

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Opens and closes boxes, or decides."""
        choosing = self.where(rows, self.actionable[rows])
        self._show(self.index if isinstance(rows, slice) else rows)
        arrived = self.where(rows, self.tick[rows] == self.choice_frame)
        if arrived.size:
            self.obs["instruction_token"][arrived] = 1 + self.asked[arrived]
            self.open(arrived)
        if choosing.size:
            chosen = actions[choosing]
            self.decide(choosing, chosen, chosen == self.target[choosing], 1.0)

    def _show(self, rows: np.ndarray) -> None:
        tick = self.tick[rows]
        box, since = np.divmod(tick, self.period)
        over = tick >= self.choice_frame
        is_open = ~over & (since < self.reveal)
        places = self.obs["places_token"]
        places[rows] = 0
        places[rows[:, None], self.place_of[rows]] = CLOSED
        shown, box = rows[is_open], box[is_open]
        places[shown, self.place_of[shown, box]] = 2 + self.object_of[shown, box]
        self.phase[rows] = np.where(over, P_EXECUTE, np.where(is_open, P_CUE, P_GAP))
        if self.knobs["busy"]:
            turn = tick // PASSING_STEPS
            which = draws.integers(self.seed[rows], "boxes/passing", self.spare.shape[1], 1, turn)[
                :, 0
            ]
            passes = ~over & ~is_open
            self.obs["passing_token"][rows] = np.where(passes, 1 + self.spare[rows, which], 0)

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Goes to the place of the box that is believed in."""
        return self.place_of[self.index, belief]

    def evidence(self) -> np.ndarray:
        """The frames in which the asked object looks out of its box."""
        first = self.cue * self.period
        return np.stack((first, first + self.reveal - 1), -1)[:, None]

    def picture(self, row: int, size: int) -> np.ndarray:
        """A ring of boxes; objects are coloured discs with their names."""
        canvas = paint.canvas(size)
        line = paint.line_height(size)
        name = ""
        for place, content in enumerate(self.obs["places_token"][row].tolist()):
            angle = place * np.pi / 4
            y, x = 0.46 - 0.34 * np.cos(angle), 0.5 + 0.34 * np.sin(angle)
            if not content:
                continue
            chosen = self.commit[row] == place
            paint.block(
                canvas, y - 0.06, x - 0.07, 0.12, 0.14, paint.TOLD if chosen else paint.MUTED
            )
            if content > CLOSED:
                name = OBJECTS[content - 2]
                paint.disc(canvas, y - 0.07, x, 0.05, tuple(paint.HUES[(content - 2) % 8]))
        passing = int(self.obs["passing_token"][row])
        if passing:
            name = f"{OBJECTS[passing - 1]} passes by"
            paint.disc(canvas, 0.46, 0.5, 0.05, tuple(paint.HUES[(passing - 1) % 8]))
        words = self.instruction_words[self.obs["instruction_token"][row]]
        paint.write(canvas, name or words, size - line, line)
        return canvas
