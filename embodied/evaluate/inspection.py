"""Looking into memory: what each tick read, what fused with what, as arrays and as one picture.

A policy's `inspect` explains a tick; a `MemoryInspector` collects it over chosen episodes of a
run and writes, for each, ``STEM.npz`` and, where there is something to draw, ``STEM.png``. Nothing
here changes what the policy does. numpy only; pillow draws.

Arrays of the ``.npz`` (T observation ticks, stream S of the memory with N tokens, M slots):

- ``time_s`` float32 [T], ``phase`` str [T], ``KEY_image_u8`` uint8 [T, H, W, 3] for each camera;
- ``frame_u8`` uint8 [T, h, w, 3] of the video, and ``caption`` str [T], the cue in words;
- ``action`` float16 [T, K, A], what the policy answered; NaN where it was not asked;
- ``S.attention`` float16 [T, layers, N, M], ``S.items`` float32 [T, M] items in each slot,
  ``S.age_s`` float32 [T, M], ``S.live`` bool [T, M], as in the memory's own `inspect`;
- ``S.slot_of_tick`` int16 [T, T]: entry (t, s) is the slot that held tick s when tick t read, -1
  where none did (s not yet stored, dropped, or not this episode's, after a swap);
- ``S.gate`` float16 [T, N], the present's weight in the fusion;
- whatever else the policy explains, float16; of a keyframe policy the views that it saw, their
  heatmaps and its answers, see `embodied.evaluate.keyframe_pictures`.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.files import write_atomic
from embodied.evaluate import keyframe_pictures
from embodied.evaluate.video import (
    BACKGROUND,
    CONTROL_HZ,
    MUTED,
    PHASE_COLOURS,
    TEXT,
    Recording,
    font,
    with_hold,
    write_frames,
)

ATTENTION, ITEMS, LIVE, GATE, WEIGHT = ".attention", ".items", ".live", ".gate", "goal.weight"
AGE = ".age_s"
ACTION, FRAME, CAPTION = "action", "frame_u8", "caption"
SMALLER = 2
"""Frames of the video are kept at this fraction of their size."""
SAME_TIME_S = 1e-3
"""Times of two ticks are further apart than this, stored ones nearer to their own."""
IMAGE = "_image_u8"
MAP, CELLS = 960, (20, 48)
"""Pixels that a map shall be wide, and the least and most that one of its cells may be."""
HEAD, LABEL, MARGIN = 84, 140, 8
"""Pixels of the title, of what is left of a map, and of the space around all."""

Report = Mapping[str, np.ndarray]


@dataclasses.dataclass
class Inspection:
    """What was explained of one episode.

    Attributes:
      time_s: Episode time of each observation tick.
      phase: Its phase.
      images: The policy's images at each tick, by key.
      reports: The policy's explanation of each tick, without the batch dimension.
      actions: What it answered at each tick, [K, A]; None where it was not asked.
      over: Whether the episode has ended.
    """

    time_s: list[float] = dataclasses.field(default_factory=list)
    phase: list[str] = dataclasses.field(default_factory=list)
    images: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    reports: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    actions: list[np.ndarray | None] = dataclasses.field(default_factory=list)
    over: bool = False

    def streams(self) -> list[str]:
        """Returns the streams of the memory that were explained, in order."""
        return [k.removesuffix(ATTENTION) for k in self.reports[0] if k.endswith(ATTENTION)]

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays of the file; see the module docstring."""
        out = {
            "time_s": np.asarray(self.time_s, np.float32),
            "phase": np.asarray(self.phase),
            **{key: np.stack([tick[key] for tick in self.images]) for key in self.images[0]},
            ACTION: self.chunks(),
        }
        for key in self.reports[0]:
            array = np.stack([report[key] for report in self.reports])
            exact = array.dtype.kind != "f" or key.endswith((ITEMS, ".age_s"))
            out[key] = array if exact else array.astype(np.float16)
        for name in self.streams():
            live = [report[name + LIVE] for report in self.reports]
            items = [r[name + ITEMS][kept] for r, kept in zip(self.reports, live, strict=True)]
            if name + AGE not in self.reports[0]:  # a memory may not know when a tick was
                out[f"{name}.slot_of_tick"] = slots_of_ticks(items)
                continue
            ages = [r[name + AGE][kept] for r, kept in zip(self.reports, live, strict=True)]
            out[f"{name}.slot_of_tick"] = slots_of_ticks(items, self.time_s, ages)
        return out

    def chunks(self) -> np.ndarray:
        """Returns float16 [T, K, A], NaN at ticks without an answer; K and A are 0 without any."""
        asked = [action for action in self.actions if action is not None]
        shape = asked[0].shape if asked else (0, 0)
        none = np.full(shape, np.nan)
        return np.stack([none if a is None else a for a in self.actions]).astype(np.float16)


def slots_of_ticks(
    items: Iterable[np.ndarray],
    time_s: Sequence[float] = (),
    ages_s: Iterable[np.ndarray] = (),
) -> np.ndarray:
    """Works out which slot held which tick from how many items the slots held, and how old ones.

    Args:
      items: For each tick, before it is stored, the number of items in each slot in use.
      time_s: Time of each tick; without it a slot that is dropped is taken to be the oldest.
      ages_s: For each tick, the age of each slot in use.

    Returns:
      int16 [T, T]; see the module docstring. From a tick whose counts follow from no append,
      merge of neighbours or drop of the oldest (another memory was put in), earlier ticks are
      in no slot.
    """
    counts = [np.rint(np.asarray(row)).astype(int).tolist() for row in items]
    stored = [now - np.asarray(age) for now, age in zip(time_s, ages_s, strict=True)]
    out = np.full((len(counts), len(counts)), -1, np.int16)
    slots: list[list[int]] = []
    for t, held in enumerate(counts):
        if t:
            slots = _after_a_write(slots, t - 1, counts[t - 1], held)
        if stored and slots and max(held) == 1 and len(slots) == len(held) and all(slots):
            # Nothing is merged: a slot is the tick of its time, whichever slot was dropped.
            nearest = np.abs(np.asarray(time_s[:t])[None] - stored[t][:, None])
            if nearest.min(axis=1).max(initial=0.0) < SAME_TIME_S:
                slots = [[int(tick)] for tick in nearest.argmin(axis=1)]
        for slot, ticks in enumerate(slots):
            out[t, ticks] = slot
    return out


def _after_a_write(
    slots: list[list[int]], tick: int, before: list[int], held: list[int]
) -> list[list[int]]:
    """Returns the ticks in each slot once `tick` was stored: `before` items became `held`."""
    appended, grown = [*before, 1], [*slots, [tick]]
    if held == appended:
        return grown
    if held == appended[1:]:
        return grown[1:]
    for i in range(len(appended) - 1):
        if held == [*appended[:i], appended[i] + appended[i + 1], *appended[i + 2 :]]:
            return [*grown[:i], grown[i] + grown[i + 1], *grown[i + 2 :]]
    return [[] for _ in held]


class MemoryInspector:
    """Collects explanations of chosen episodes of a run; see `runner.run`.

    Args:
      indices: Indices into the run's seeds.
    """

    def __init__(self, indices: Iterable[int]) -> None:
        self.inspections = {int(i): Inspection() for i in indices}

    def wants(self, index: int) -> bool:
        """Whether episode `index` is looked into and not over."""
        found = self.inspections.get(index)
        return found is not None and not found.over

    def tick(self, index: int, time_s: float, phase: str, images: Report, report: Report) -> None:
        """Takes what explains one observation tick of an episode, without batch dimension."""
        inspection = self.inspections[index]
        inspection.time_s.append(time_s)
        inspection.phase.append(phase)
        inspection.images.append({k: np.array(v) for k, v in images.items()})
        inspection.reports.append({k: np.array(v) for k, v in report.items()})

    def explain(
        self,
        rows: Iterable[tuple[int, int]],
        infos: Mapping[str, Any],
        observation: Report,
        report: Mapping[str, Any],
    ) -> None:
        """Takes a tick of several episodes.

        Args:
          rows: Rows of the batch, each with its episode's index.
          infos: Name -> one value a row.
          observation: What the policy saw, [B, ...].
          report: The policy's explanation, tensors [B, ...].
        """
        arrays = {
            key: (value.float() if value.is_floating_point() else value).cpu().numpy()
            for key, value in report.items()
        }
        images = {key: value for key, value in observation.items() if key.endswith(IMAGE)}
        for row, index in rows:
            self.tick(
                index,
                float(infos["time_s"][row]),
                str(infos["phase"][row]),
                {key: value[row] for key, value in images.items()},
                {key: value[row] for key, value in arrays.items()},
            )

    def answered(
        self, rows: Iterable[tuple[int, int]], acting: np.ndarray, chunks: np.ndarray
    ) -> None:
        """Takes what the policy answered at the tick explained last.

        Args:
          rows: As in `explain`.
          acting: bool [B], rows that were asked for an action.
          chunks: float [B, K, A]; of no row if none was asked.
        """
        for row, index in rows:
            action = np.array(chunks[row]) if acting[row] else None
            self.inspections[index].actions.append(action)

    def finish(self, index: int) -> None:
        """The episode is over."""
        self.inspections[index].over = True


def write_inspection(
    directory: Path, stem: str, inspection: Inspection, recording: Recording
) -> list[Path]:
    """Writes ``STEM.npz`` and, if anything was explained, ``STEM.png``; returns what was written.

    Of a keyframe policy also ``STEM.mp4``: the episode beside its decisions.

    Args:
      directory: Made if it is not there.
      stem: Name of the files, and title of the picture.
      inspection: Of one episode.
      recording: Of the same episode.
    """
    arrays = {**inspection.arrays(), **seen(inspection.time_s, recording)}
    file, picture = directory / f"{stem}.npz", directory / f"{stem}.png"
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomic(file, packed.getvalue())
    streams = inspection.streams()
    if keyframe_pictures.HEAT in arrays:
        write_atomic(picture, keyframe_pictures.draw(arrays, streams, stem, attention_to_ticks))
        frames = keyframe_pictures.film(arrays, streams, attention_to_ticks, recording)
        fps = CONTROL_HZ / recording.stride
        film = write_frames(directory / f"{stem}.mp4", with_hold(frames, round(fps)), fps)
        return [file, picture, film]
    if not streams:
        return [file]
    write_atomic(picture, draw(arrays, streams, stem))
    return [file, picture]


def seen(time_s: Sequence[float], recording: Recording) -> dict[str, np.ndarray]:
    """Returns for each tick the video's frame of that time, or the one before, and its caption."""
    clock = np.asarray([caption.time_s for caption in recording.captions])
    picks = np.searchsorted(clock, np.asarray(time_s) + SAME_TIME_S, side="right") - 1
    picks = np.maximum(picks, 0)
    small = [recording.frames[i][::SMALLER, ::SMALLER] for i in picks]
    return {
        FRAME: np.stack(small),
        CAPTION: np.asarray([recording.captions[i].cue for i in picks]),
    }


def attention_to_ticks(arrays: Mapping[str, np.ndarray], stream: str) -> np.ndarray:
    """Returns float [T, T]: how much of what tick t read came from tick s.

    The mean over layers and over the stream's tokens; where the policy says which tokens it
    means (``goal.weight``), they count by that. A slot's share is split among its ticks.
    """
    share = attention_to_slots(arrays, stream)
    slot = arrays[f"{stream}.slot_of_tick"]
    held = np.stack([np.bincount(row[row >= 0], minlength=share.shape[1]) for row in slot])
    each = share / np.maximum(held, 1)
    rows = np.arange(len(slot))[:, None]
    return np.where(slot >= 0, each[rows, np.maximum(slot, 0)], 0.0)


def attention_to_slots(arrays: Mapping[str, np.ndarray], stream: str) -> np.ndarray:
    """Returns float [T, M]: how much of what tick t read came from slot m."""
    attention = arrays[stream + ATTENTION].astype(np.float64).mean(axis=1)  # [T, N, M]
    weight = _token_weight(arrays, stream, attention.shape[1])
    return np.einsum("tn,tnm->tm", weight, attention)


def _token_weight(arrays: Mapping[str, np.ndarray], stream: str, tokens: int) -> np.ndarray:
    """Returns float [T, N], rows summing to one: how much each token of the stream counts."""
    ticks = len(arrays["time_s"])
    even = np.full((ticks, tokens), 1.0 / tokens)
    if WEIGHT not in arrays or tokens == 1:
        return even
    names = [key.removesuffix(GATE) for key in arrays if key.endswith(GATE)]
    start = sum(arrays[name + GATE].shape[1] for name in names[: names.index(stream)])
    weight = arrays[WEIGHT][:, start : start + tokens].astype(np.float64)
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 1e-6, weight / np.maximum(total, 1e-6), even)


# ---- picture ----------------------------------------------------------------------------


def draw(arrays: Mapping[str, np.ndarray], streams: list[str], title: str) -> bytes:
    """Returns a PNG: for each stream a map of which tick (across) read which earlier one (down).

    Thumbnails show what was seen at both. Brighter is more; a line beside the lower ones joins
    ticks that share a slot at the end. The bar above is the phase, those below are how much of
    what goes on to act came from memory.
    """
    from PIL import Image, ImageDraw

    ticks = len(arrays["time_s"])
    cell = min(max(MAP // ticks, CELLS[0]), CELLS[1])
    width, height = LABEL + (ticks + 1) * cell + 2 * MARGIN, (ticks + 4) * cell
    canvas = Image.new("RGB", (width, HEAD + height * len(streams)), BACKGROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN), title, fill=TEXT, font=font(16))
    said = (
        "across: the tick that reads; down: the tick it reads from; seconds beside\n"
        "a line at the left: ticks merged into one slot; bars: the phase above, below how much "
        "came from memory"
    )
    pen.text((MARGIN, MARGIN + 24), said, fill=MUTED, font=font(11))
    for number, stream in enumerate(streams):
        _draw_stream(canvas, pen, arrays, stream, HEAD + number * height, cell)
    packed = io.BytesIO()
    canvas.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def _draw_stream(
    canvas: Any, pen: Any, arrays: Mapping[str, np.ndarray], stream: str, top: int, cell: int
) -> None:
    """Draws one stream's map, `top` pixels from the picture's top."""
    left, first = LABEL + cell, top + 2 * cell
    share = attention_to_ticks(arrays, stream)
    # A layer inside a memory has no gate of its own.
    gate = arrays.get(stream + GATE, np.ones((len(share), 1)))
    memory = 1.0 - gate.astype(np.float64).mean(axis=1)
    small = font(11)
    pictures = _thumbnails(arrays, stream, cell - 2)
    ticks = len(share)
    base = first + (ticks + 1) * cell
    pen.text((MARGIN, top), stream, fill=TEXT, font=font(16))
    pen.text((MARGIN, base - 14), "from memory", fill=MUTED, font=small)
    for t in range(ticks):
        x, y, clock = left + t * cell, first + t * cell, f"{arrays['time_s'][t]:.1f}"
        phase = PHASE_COLOURS.get(str(arrays["phase"][t]), MUTED)
        pen.rectangle((x, top, x + cell - 2, top + 5), fill=phase)
        if t * cell % (2 * LABEL // 3) < cell:  # as many as don't touch
            pen.text((x, top + 8), clock, fill=MUTED, font=small)
        pen.text((LABEL - 44, y + cell // 2 - 7), clock, fill=MUTED, font=small)
        for picture in pictures[t : t + 1]:
            canvas.paste(picture, (x, first - cell - 2))
            canvas.paste(picture, (LABEL, y))
        for s in range(t):
            corner = first + s * cell
            bright = round(255 * float(np.sqrt(np.clip(share[t, s], 0.0, 1.0))))
            fill = (bright, round(0.75 * bright), 40 + round(0.25 * bright))
            pen.rectangle((x, corner, x + cell - 2, corner + cell - 2), fill=fill)
        level = round((cell - 4) * float(memory[t]))
        pen.rectangle((x, base - level, x + cell - 2, base), fill=PHASE_COLOURS["execute"])
    last = arrays[f"{stream}.slot_of_tick"][-1]
    for slot in np.unique(last[last >= 0]):
        inside = np.flatnonzero(last == slot)
        if len(inside) > 1:
            ends = first + inside[0] * cell, first + (inside[-1] + 1) * cell - 3
            pen.line((LABEL - 5, ends[0], LABEL - 5, ends[1]), fill=PHASE_COLOURS["cue"], width=3)


def _thumbnails(arrays: Mapping[str, np.ndarray], stream: str, size: int) -> list[Any]:
    """Returns a picture a tick of the stream's own camera, or of the first; none without any."""
    from PIL import Image

    cameras = [key for key in arrays if key.endswith(IMAGE)]
    if not cameras:
        return []
    key = stream + IMAGE if stream + IMAGE in cameras else cameras[0]
    return [Image.fromarray(image).resize((size, size)) for image in arrays[key]]
