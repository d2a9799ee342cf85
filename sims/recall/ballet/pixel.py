"""Ballet with the official pixels: 99 x 99, the agent in the middle."""

from __future__ import annotations

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws
from sims.recall.ballet import facts, scenery
from sims.recall.ballet.stage import Knobs
from sims.recall.ballet.walking import WalkingBallet, room_views, walking_info
from sims.recall.game import token

IMAGE_PX = facts.ROOM * facts.CELL_PX
WHITE = 255
_Y, _X = np.divmod(np.arange(facts.ROOM**2), facts.ROOM)

INFO = walking_info(
    "ballet_pixel",
    "BalletPixel",
    "ballet.pixel:BalletPixel",
    "watch dances, then walk to the dancer of the one that is named (official pixels)",
)


def _paint(views: np.ndarray) -> np.ndarray:
    """Returns uint8 [121, 99, 99, 3] of grey views [121, 11, 11]."""
    grown = views.repeat(facts.CELL_PX, 1).repeat(facts.CELL_PX, 2)
    return np.repeat(grown[..., None], 3, -1)


class BalletPixel(WalkingBallet):
    """Observations: ``agent_image_u8`` uint8 [99, 99, 3] and ``instruction_token`` int64 [].

    The official image is ``agent_image_u8 / 255``, exactly. Shape and colour of a dancer are
    drawn for each episode and carry no information. Only cells that change are drawn.

    State beside the base's: look_of [n, d] number of each dancer's sprite.
    """

    info = INFO

    def __init__(self, knobs: Knobs, rows: int) -> None:
        super().__init__(knobs, rows)
        self.look_of = self.keep("look_of", (self.dancers,))
        self._views = _paint(room_views(facts.WALL_GREY, WHITE))
        self._sprites = facts.SPRITES.reshape(-1, facts.CELL_PX, 3 * facts.CELL_PX)
        # [n, cell row, cell column, pixel row, pixel column and channel], a view of the frames.
        self._cells = (
            self.obs["agent_image_u8"]
            .reshape(rows, facts.ROOM, facts.CELL_PX, facts.ROOM, 3 * facts.CELL_PX)
            .transpose(0, 1, 3, 2, 4)
        )

    def specs(self) -> dict[str, ArraySpec]:
        """The image and the instruction."""
        return {
            "agent_image_u8": ArraySpec((IMAGE_PX, IMAGE_PX, 3), "uint8", "u8", 0, 255),
            "instruction_token": token(len(self.instruction_words)),
        }

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws looks, then as all."""
        colours, shapes = len(facts.COLOURS), len(facts.SHAPES)
        bits = draws.words(seeds, "ballet/looks", colours + shapes)
        colour, shape = draws.shuffled(bits[:, :colours]), draws.shuffled(bits[:, colours:])
        self.look_of[rows] = (shape * colours + colour[:, :shapes])[:, : self.dancers]
        super().begin(rows, seeds, cues)

    def draw_room(self, rows: np.ndarray) -> None:
        frames = self.obs["agent_image_u8"]
        for row, pos in zip(rows.tolist(), self.pos[rows].tolist(), strict=True):
            frames[row] = self._views[pos]  # one block of memory: faster than an index array

    def draw_dancers(self, rows: np.ndarray, dancers: np.ndarray, cells: np.ndarray) -> None:
        looks = self.look_of[rows, dancers]
        self._cells[rows, _Y[cells], _X[cells]] = self._sprites[looks]

    def clear(self, rows: np.ndarray, cells: np.ndarray) -> None:
        self._cells[rows, _Y[cells], _X[cells]] = 0

    def picture(self, row: int, size: int) -> np.ndarray:
        """The image as the agent gets it, with the instruction under it."""
        words = self.instruction_words[self.obs["instruction_token"][row]]
        return scenery.framed(self.obs["agent_image_u8"][row], words, size)
