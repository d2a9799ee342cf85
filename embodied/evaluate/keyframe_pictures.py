"""What a keyframe policy saw, meant and remembered, a row of pictures a decision.

For policies whose `inspect` gives ``view.image`` uint8 [V, S, S, 3], ``view.heatmap`` [V, S, S]
(probabilities) and ``view.pixel`` [V, 2] (column, row of the answer). Where memory explains its
reads, the decisions that it read follow with their own heatmaps, their ages and the share of each.
As one picture, a row a decision, and as a film beside the episode's. numpy only; pillow draws.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from embodied.evaluate.video import (
    BACKGROUND,
    MUTED,
    PHASE_COLOURS,
    TEXT,
    Recording,
    font,
    with_strip,
)

Report = Mapping[str, np.ndarray]
Shares = Callable[[Report, str], np.ndarray]

IMAGE, HEAT, PIXEL = "view.image", "view.heatmap", "view.pixel"
VIEW, PAST, MARGIN, HEAD, LEFT = 192, 64, 6, 58, 84
"""Pixels of a view, of a remembered one, between them, of the title and of a row's label. Three
remembered views, one above the other, are as high as a view."""
LINE = 20
"""Pixels of a line of text above a panel's pictures."""
SOON_S = 1e-3
"""A frame of the film is as late as a decision if it is at most so much earlier."""
REMEMBERED = "what memory read: its views one above the other, age, the bar is its share"
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


@dataclasses.dataclass
class Story:
    """An episode's decisions, ready to be drawn.

    Attributes:
      views: uint8 [T, V, S, S, 3], heatmaps laid over them.
      pixels: [T, V, 2], column and row of the answer in each view.
      time_s: [T].
      phases: [T].
      shares: For each stream that memory explained, [T, T]: how much of what decision t read came
        from decision s.
    """

    views: np.ndarray
    pixels: np.ndarray
    time_s: np.ndarray
    phases: list[str]
    shares: np.ndarray

    @classmethod
    def of(cls, arrays: Report, streams: list[str], shares: Shares) -> Story:
        """Reads the arrays of an episode's file; see `draw`."""
        pairs = zip(arrays[IMAGE], arrays[HEAT], strict=True)
        views = [[heated(i, h) for i, h in zip(*pair, strict=True)] for pair in pairs]
        return cls(
            np.asarray(views),
            arrays[PIXEL],
            arrays["time_s"],
            [str(phase) for phase in arrays["phase"]],
            np.asarray([shares(arrays, stream) for stream in streams]),
        )

    def read(self, t: int) -> np.ndarray:
        """Returns the decisions that decision t read, the oldest first."""
        if not len(self.shares):
            return np.zeros(0, int)
        return np.flatnonzero(self.shares[:, t].max(axis=0) > 0)

    @property
    def most(self) -> int:
        """The most decisions that one has read."""
        return max(len(self.read(t)) for t in range(len(self.views)))


def draw(arrays: Report, streams: list[str], title: str, shares: Shares) -> bytes:
    """Returns a PNG with a row for each decision.

    Args:
      arrays: Those of the episode's file; see `embodied.evaluate.inspection`.
      streams: Streams that memory explained, in the order of the views; may be empty.
      title: Title.
      shares: (arrays, stream) -> float [T, T], how much of what tick t read came from tick s.
    """
    from PIL import Image, ImageDraw

    story = Story.of(arrays, streams, shares)
    ticks, views = story.views.shape[:2]
    past, beside = story.most, LEFT + views * (VIEW + MARGIN) + MARGIN
    tall = VIEW + MARGIN
    size = (beside + past * (PAST + MARGIN) + MARGIN, HEAD + ticks * tall)
    canvas = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill=TEXT, font=font(16))
    said = "views with heatmaps, the cross is the answer"
    if past:
        said += f"; then {REMEMBERED}"
    pen.text((MARGIN, MARGIN + 24), said, fill=MUTED, font=font(11))
    for t, phase in enumerate(story.phases):
        top = HEAD + t * tall
        fill = PHASE_COLOURS.get(phase, MUTED)
        pen.rectangle((MARGIN, top, MARGIN + 5, top + VIEW - 1), fill=fill)
        for line, text in enumerate((f"#{t}", f"{story.time_s[t]:.1f} s", phase)):
            pen.text((MARGIN + 12, top + 4 + 16 * line), text, fill=MUTED, font=font(11))
        _draw_views(canvas, pen, story, t, (LEFT, top))
        _draw_past(canvas, pen, story, t, (beside, top), max(past, 1))
    packed = io.BytesIO()
    canvas.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def film(
    arrays: Report, streams: list[str], shares: Shares, recording: Recording
) -> Iterator[np.ndarray]:
    """Yields the frames of a recording, each beside the decision that is being carried out.

    Args:
      arrays: As in `draw`.
      streams: As in `draw`.
      shares: As in `draw`.
      recording: Of the same episode.
    """
    story = Story.of(arrays, streams, shares)
    panels: dict[int, np.ndarray] = {}
    for frame, caption in zip(recording.frames, recording.captions, strict=True):
        t = max(0, int(np.searchsorted(story.time_s, caption.time_s + SOON_S, side="right")) - 1)
        if t not in panels:
            panels[t] = _panel(story, t)
        parts = [with_strip(frame, caption), panels[t]]
        height = max(len(part) for part in parts)
        canvas = np.full((height, sum(part.shape[1] for part in parts), 3), BACKGROUND, np.uint8)
        left = 0
        for part in parts:
            canvas[: len(part), left : left + part.shape[1]] = part
            left += part.shape[1]
        yield canvas


def _panel(story: Story, t: int) -> np.ndarray:
    """Draws one decision and below it what it read, as large whatever that was; even-sized."""
    from PIL import Image, ImageDraw

    wide = MARGIN + story.views.shape[1] * (VIEW + MARGIN)
    columns = (wide - MARGIN) // (PAST + MARGIN)
    lines = -(-story.most // columns)
    below = 2 * LINE + VIEW + 2 * MARGIN
    size = (wide + wide % 2, below + lines * (VIEW + MARGIN))
    canvas = Image.new("RGB", size, BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    phase = story.phases[t]
    said = f"decision #{t} at {story.time_s[t]:.1f} s, {phase}"
    pen.text((MARGIN, 2), said, fill=PHASE_COLOURS.get(phase, MUTED), font=font(12))
    _draw_views(canvas, pen, story, t, (MARGIN, LINE))
    if story.most:
        pen.text((MARGIN, LINE + VIEW + 2), REMEMBERED, fill=MUTED, font=font(10))
    _draw_past(canvas, pen, story, t, (MARGIN, below), columns)
    return np.asarray(canvas)


def _draw_views(canvas: Any, pen: Any, story: Story, t: int, corner: tuple[int, int]) -> None:
    """Draws the views of decision t from `corner` on, its answer marked in each."""
    for v, picture in enumerate(story.views[t]):
        at = corner[0] + v * (VIEW + MARGIN), corner[1]
        canvas.paste(_resized(picture, VIEW), at)
        # An answer outside of a view is drawn at its edge.
        place = np.clip(story.pixels[t, v] * (VIEW / len(picture)), 0, VIEW - 1)
        _cross(pen, at, place)


def _draw_past(
    canvas: Any, pen: Any, story: Story, t: int, corner: tuple[int, int], columns: int
) -> None:
    """Draws the decisions that decision t read, so many in a line: age and share of each."""
    for place, s in enumerate(story.read(t)):
        line, column = divmod(place, columns)
        x, top = corner[0] + column * (PAST + MARGIN), corner[1] + line * (VIEW + MARGIN)
        for number, picture in enumerate(story.views[s][: VIEW // PAST]):
            canvas.paste(_resized(picture, PAST), (x, top + number * PAST))
        share = float(story.shares[:, t, s].mean())
        right = x + round((PAST - 1) * min(share, 1.0))
        pen.rectangle((x, top + VIEW - 5, right, top + VIEW - 1), fill=SHARE_RGB)
        age = f"{story.time_s[t] - story.time_s[s]:.1f} s"
        for height, text in ((0, f"#{s}"), (PAST, age)):
            pen.text((x + 2, top + height), text, fill=TEXT, font=font(11))


def _cross(pen: Any, corner: tuple[int, int], at: np.ndarray) -> None:
    x, y = corner[0] + float(at[0]), corner[1] + float(at[1])
    for ends in ((x - 6, y, x + 6, y), (x, y - 6, x, y + 6)):
        pen.line(ends, fill=(255, 255, 255), width=1)


def _resized(picture: np.ndarray, size: int) -> Any:
    from PIL import Image

    return Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
