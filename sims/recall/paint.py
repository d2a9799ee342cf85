"""Small pictures with numpy alone: blocks, discs, lines, glyphs of codes, and a tiny font."""

from __future__ import annotations

import numpy as np

from sims.recall.draws import CODE_SIZE

BACKGROUND, PAPER, INK, MUTED = (24, 26, 30), (52, 56, 64), (236, 238, 240), (150, 156, 164)
GOOD, TOLD = (92, 190, 110), (238, 183, 60)
HUES = np.array(
    [(230, 80, 70), (80, 160, 240), (95, 200, 110), (240, 190, 60), (180, 110, 230),
     (70, 210, 210), (240, 140, 60), (240, 120, 180)]
)  # fmt: skip
"""Colours of ids, in turn."""

_FONT_ROWS = 5
_FONT = {
    "a": "010101111101101", "b": "110101110101110", "c": "011100100100011",
    "d": "110101101101110", "e": "111100110100111", "f": "111100110100100",
    "g": "011100101101011", "h": "101101111101101", "i": "111010010010111",
    "j": "001001001101010", "k": "101101110101101", "l": "100100100100111",
    "m": "1000111011101011000110001", "n": "10011101101110011001", "o": "010101101101010",
    "p": "110101110100100", "q": "010101101110011", "r": "110101110101101",
    "s": "011100010001110", "t": "111010010010010", "u": "101101101101111",
    "v": "101101101101010", "w": "1000110001101011010101010", "x": "101101010101101",
    "y": "101101010010010", "z": "111001010100111", "0": "111101101101111",
    "1": "010110010010111", "2": "110001010100111", "3": "110001010001110",
    "4": "101101111001001", "5": "111100110001110", "6": "011100111101111",
    "7": "111001010010010", "8": "111101111101111", "9": "111101111001110",
    "_": "000000000000111", "-": "000000111000000", ":": "000010000010000",
    "/": "001001010100100", "?": "110001010000010", ",": "000000000010100",
    ".": "000000000000010",
}  # fmt: skip
"""Letter -> five rows of dots."""


def canvas(size: int) -> np.ndarray:
    """Returns an empty picture, uint8 [size, size, 3]."""
    return np.full((size, size, 3), BACKGROUND, np.uint8)


def grown(image: np.ndarray, factor: int) -> np.ndarray:
    """Returns [factor H, factor W, ...] with every element repeated."""
    return image.repeat(factor, 0).repeat(factor, 1)


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns `image` with the nearest pixels, [height, width, ...]."""
    rows = np.arange(height) * image.shape[0] // height
    cols = np.arange(width) * image.shape[1] // width
    return image[rows][:, cols]


def place(into: np.ndarray, image: np.ndarray, y: int, x: int, width: int, height: int) -> None:
    """Puts `image`, scaled to fit and centred, into a box of a picture."""
    factor = min(height / image.shape[0], width / image.shape[1])
    size = [max(1, int(side * factor)) for side in image.shape[:2]]
    y, x = y + (height - size[0]) // 2, x + (width - size[1]) // 2
    into[y : y + size[0], x : x + size[1]] = scaled(image, *size)


def line_height(size: int) -> int:
    """Returns the pixels that a line of words needs in a picture of `size`."""
    return max(_FONT_ROWS + 2, size // 12)


def write(into: np.ndarray, words: str, y: int, height: int, colour: tuple = INK) -> None:
    """Writes `words`, centred and as large as fits, into a line that begins at pixel row y."""
    if not words:
        return
    columns = []
    for letter in words.lower():
        shape = [dot == "1" for dot in _FONT.get(letter, "0" * 3 * _FONT_ROWS)]
        columns += [np.reshape(shape, (_FONT_ROWS, -1)), np.zeros((_FONT_ROWS, 1), bool)]
    dots = np.concatenate(columns[:-1], 1)
    factor = min((height - 2) // _FONT_ROWS, into.shape[1] // dots.shape[1])
    if factor < 1:
        return
    dots = grown(dots, factor)
    y, x = y + (height - dots.shape[0]) // 2, (into.shape[1] - dots.shape[1]) // 2
    into[y : y + dots.shape[0], x : x + dots.shape[1]][dots] = colour


def block(into: np.ndarray, y: float, x: float, height: float, width: float, colour: tuple) -> None:
    """Fills a rectangle given in fractions of the picture's side."""
    side = into.shape[0]
    top, left = round(y * side), round(x * side)
    into[top : round((y + height) * side), left : round((x + width) * side)] = colour


def disc(into: np.ndarray, y: float, x: float, radius: float, colour: tuple) -> None:
    """Fills a disc given in fractions of the picture's side."""
    line(into, np.array((y, x)), np.array((y, x)), colour, 2 * radius)


def line(
    into: np.ndarray, start: np.ndarray, end: np.ndarray, colour: tuple, width: float = 0.008
) -> None:
    """Draws a straight line between two (y, x), in fractions of the picture's side."""
    side = into.shape[0]
    start, way = side * start, side * (end - start)
    half = max(0.7, width * side / 2)
    low = np.maximum(np.minimum(start, start + way) - half, 0).astype(int)
    high = (np.maximum(start, start + way) + half).astype(int) + 1
    box = into[low[0] : high[0], low[1] : high[1]]
    points = np.stack(np.mgrid[: box.shape[0], : box.shape[1]], -1) + low - start
    along = np.clip(points @ way / max(way @ way, 1e-9), 0, 1)
    box[((points - along[..., None] * way) ** 2).sum(-1) <= half**2] = colour


def glyph(code: np.ndarray) -> np.ndarray:
    """Returns uint8 [8, 4, 3]: the signs of a code as dots, in a colour that it chooses."""
    bits = code > 0
    hue = HUES[int(bits[:3] @ (1, 2, 4))]
    dots = bits.reshape(CODE_SIZE // 4, 4)[..., None]
    return np.where(dots, hue, PAPER if code.any() else BACKGROUND).astype(np.uint8)
