"""What a keyframe policy saw, meant and remembered, a row of pictures a decision.

For policies whose `inspect` gives ``view.image`` uint8 [V, S, S, 3], ``view.heatmap`` [V, S, S]
(probabilities) and ``view.pixel`` [V, 2] (column, row of the answer). Where memory explains its
reads, the decisions that it read follow with their own heatmaps and the share of each. numpy only;
pillow draws.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embodied.evaluate.video import BACKGROUND, MUTED, PHASE_COLOURS, TEXT, font

IMAGE, HEAT, PIXEL = "view.image", "view.heatmap", "view.pixel"
VIEW, PAST, MARGIN, HEAD, LEFT = 128, 64, 6, 58, 84
"""Pixels of a view, of a remembered one, between them, of the title and of a row's label."""
SURE = 20.0
"""Times an even spread that a heatmap's peak must reach to be drawn in full."""
HEAT_RGB = np.array([255.0, 60.0, 20.0])
SHARE_RGB = (255, 190, 60)


def heated(image_u8: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Returns a view [S, S, 3] with its heatmap laid over it; one that says nothing is faint."""
    peak = max(float(heatmap.max()), 1e-12)
    sure = min(1.0, peak * heatmap.size / SURE)
    strength = (heatmap / peak).astype(np.float64)[..., None] * 0.8 * sure
    mixed = image_u8 * (1.0 - strength) + HEAT_RGB * strength
    return mixed.round().astype(np.uint8)


def draw(
    arrays: Mapping[str, np.ndarray],
    streams: list[str],
    title: str,
    shares: Callable[[Mapping[str, np.ndarray], str], np.ndarray],
) -> bytes:
    """Returns a PNG with a row for each decision.

    Args:
      arrays: Those of the episode's file; see `embodied.evaluate.inspection`.
      streams: Streams that memory explained, in the order of the views; may be empty.
      title: Title.
      shares: (arrays, stream) -> float [T, T], how much of what tick t read came from tick s.
    """
    from PIL import Image, ImageDraw

    pictures = [[heated(i, h) for i, h in zip(*pair, strict=True)]
                for pair in zip(arrays[IMAGE], arrays[HEAT], strict=True)]  # fmt: skip
    read = [shares(arrays, stream) for stream in streams]
    ticks, views = len(pictures), len(pictures[0])
    past = max((int((share > 0).sum(axis=1).max()) for share in read), default=0)
    wide = LEFT + views * (VIEW + MARGIN) + past * (PAST + MARGIN) + 2 * MARGIN
    tall = VIEW + MARGIN
    canvas = Image.new("RGB", (wide, HEAD + ticks * tall), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill=TEXT, font=font(16))
    said = "views with heatmaps, the cross is the answer"
    if past:
        said += "; then what memory read (first view above second), the bar is its share"
    pen.text((MARGIN, MARGIN + 24), said, fill=MUTED, font=font(11))
    for t, row in enumerate(pictures):
        top = HEAD + t * tall
        phase = str(arrays["phase"][t])
        fill = PHASE_COLOURS.get(phase, MUTED)
        pen.rectangle((MARGIN, top, MARGIN + 5, top + VIEW - 1), fill=fill)
        clock = f"{arrays['time_s'][t]:.1f} s"
        for line, text in enumerate((f"#{t}", clock, phase)):
            pen.text((MARGIN + 12, top + 4 + 16 * line), text, fill=MUTED, font=font(11))
        for v, picture in enumerate(row):
            corner = LEFT + v * (VIEW + MARGIN), top
            canvas.paste(_resized(picture, VIEW), corner)
            _cross(pen, corner, arrays[PIXEL][t, v] * (VIEW / picture.shape[0]))
        _draw_past(canvas, pen, t, [share[t] for share in read], pictures, top)
    packed = io.BytesIO()
    canvas.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _draw_past(
    canvas: Any,
    pen: Any,
    t: int,
    shares: list[np.ndarray],
    pictures: list[list[np.ndarray]],
    top: int,
) -> None:
    """Draws the decisions that memory holds at decision t, the oldest first."""
    if not shares:
        return
    mean = np.mean(shares, axis=0)
    left = LEFT + len(pictures[0]) * (VIEW + MARGIN) + MARGIN
    for place, s in enumerate(np.flatnonzero(np.max(shares, axis=0) > 0)):
        x = left + place * (PAST + MARGIN)
        # Two of the views, one above the other, fit into a row.
        for number, picture in enumerate(pictures[s][:2]):
            canvas.paste(_resized(picture, PAST), (x, top + number * PAST))
        pen.rectangle((x, top + VIEW - 5, x + round((PAST - 1) * float(mean[s])), top + VIEW - 1),
                      fill=SHARE_RGB)  # fmt: skip
        pen.text((x + 2, top), f"#{s}", fill=TEXT, font=font(11))


def _cross(pen: Any, corner: tuple[int, int], at: np.ndarray) -> None:
    x, y = corner[0] + float(at[0]), corner[1] + float(at[1])
    for ends in ((x - 6, y, x + 6, y), (x, y - 6, x, y + 6)):
        pen.line(ends, fill=(255, 255, 255), width=1)


def _resized(picture: np.ndarray, size: int) -> Any:
    from PIL import Image

    return Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
