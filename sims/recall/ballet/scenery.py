"""Pictures of Ballet for human eyes."""

from __future__ import annotations

import numpy as np

from sims.recall import paint
from sims.recall.ballet import facts

_SPRITES = np.stack([facts.SPRITES[k % 15, k % 19] for k in range(15)])


def room_image(walls: np.ndarray | None = None, agent: bool = True) -> np.ndarray:
    """Returns uint8 [99, 99, 3] without dancers; `walls` bool [11, 11], by default the room's."""
    if walls is None:
        walls = np.zeros((facts.ROOM, facts.ROOM), bool)
        walls[[0, -1]] = walls[:, [0, -1]] = True
    grey = np.where(walls, facts.WALL_GREY, 0).astype(np.uint8)
    if agent:
        grey[facts.CENTRE, facts.CENTRE] = 255
    return np.repeat(paint.grown(grey, facts.CELL_PX)[..., None], 3, -1)


def poster(
    cells: np.ndarray, looks: np.ndarray, words: str, size: int, room: np.ndarray | None = None
) -> np.ndarray:
    """Returns uint8 [size, size, 3]: dancers in cells [k, 2] with looks [k], words under it."""
    image = room_image() if room is None else room
    for (y, x), look in zip(cells * facts.CELL_PX, looks, strict=True):
        image[y : y + facts.CELL_PX, x : x + facts.CELL_PX] = _SPRITES[look]
    return framed(image, words, size)


def framed(image: np.ndarray, words: str, size: int) -> np.ndarray:
    """Returns `image` scaled to fit above a line of `words`, uint8 [size, size, 3]."""
    canvas = paint.canvas(size)
    line = paint.line_height(size)
    paint.place(canvas, image, 0, 0, size, size - line)
    paint.write(canvas, words, size - line, line)
    return canvas
