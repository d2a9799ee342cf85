"""Videos of episodes: the picture with a strip under it that says phase, cue and outcome.

Frames are uint8 [H, W, 3]. Strips are drawn beside the picture, never into it, and never
reach a policy. pillow draws, PyAV writes mp4; both are imported when first needed.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embodied.core.errors import DataError, EmbodiedError

if TYPE_CHECKING:
    from embodied.evaluate.results import EpisodeResult

STRIP_LINES = 3
CONTROL_HZ = 20.0
"""Control ticks a second, to show recordings in real time."""
CODECS = (("libx264", {"crf": "21", "preset": "veryfast"}), ("mpeg4", {"qscale": "4"}))
"""Encoders tried in order; which exist depends on the PyAV wheel."""

BACKGROUND, TEXT, MUTED = (24, 26, 30), (236, 238, 240), (150, 156, 164)
PHASE_COLOURS = {"cue": (238, 183, 60), "gap": (140, 146, 156), "execute": (86, 156, 232)}
GOOD, BAD, OPEN = (92, 190, 110), (232, 92, 80), (150, 156, 164)


@dataclasses.dataclass(frozen=True)
class Caption:
    """What the strip under one frame says.

    Attributes:
      phase: ``cue``, ``gap`` or ``execute``.
      cue: The cue in words, for example ``"cue: red"``.
      tick: Control tick.
      time_s: Seconds since the episode began.
      outcome: Commit and verdict, ``""`` while undecided.
      success: Colours the outcome; None while undecided.
      title: What is seen, for example the policy's name.
    """

    phase: str
    cue: str
    tick: int
    time_s: float
    outcome: str = ""
    success: bool | None = None
    title: str = ""

    @classmethod
    def of(cls, info: Mapping[str, Any], tick: int, title: str = "", cue: str = "") -> Caption:
        """Returns the caption of one environment's `info` at a control tick."""
        commit, failure = str(info["commit"]), str(info["failure_kind"])
        outcome, success = "", None
        if bool(info["success"]) or failure:
            success = bool(info["success"])
            verdict = "success" if success else failure.replace("_", " ")
            outcome = f"{commit}: {verdict}" if commit else verdict
        return cls(
            phase=str(info["phase"]),
            cue=cue or f"cue: {info['target']}",
            tick=tick,
            time_s=float(info["time_s"]),
            outcome=outcome,
            success=success,
            title=title,
        )


@dataclasses.dataclass
class Recording:
    """Frames of one episode with their captions.

    Attributes:
      title: Shown in every strip.
      stride: Every how many control ticks a frame is kept; the last one always is.
      frames: uint8 [H, W, 3] each.
      captions: One a frame.
      result: The episode's row, once it is over.
    """

    title: str = ""
    stride: int = 2
    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
    captions: list[Caption] = dataclasses.field(default_factory=list)
    result: EpisodeResult | None = None
    ticks: int = 0

    def wanted(self, info: Mapping[str, Any]) -> bool:
        """Whether `add` would keep the present tick; saves drawing a picture in vain."""
        decided = bool(info["success"]) or bool(info["failure_kind"])
        return self.ticks % self.stride == 0 or bool(info["gate"]) or decided

    def add(self, frame: np.ndarray, info: Mapping[str, Any], cue: str = "") -> None:
        """Adds the frame of one control tick; call `skip` for ticks without one."""
        self.frames.append(np.ascontiguousarray(frame))
        self.captions.append(Caption.of(info, self.ticks, self.title, cue))
        self.ticks += 1

    def skip(self) -> None:
        """Counts a control tick whose frame is not kept."""
        self.ticks += 1

    def moments(self) -> list[int]:
        """Returns frame indices that tell the story: first, end of cue, go, half way, end."""
        phases = [caption.phase for caption in self.captions]
        last = len(phases) - 1
        changes = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
        middle = [(changes[-1] + last) // 2] if changes else [last // 2]
        return sorted({0, *changes, *middle, last} & set(range(len(phases))))


class VideoRecorder:
    """Collects recordings of chosen episodes of a run; see `embodied.evaluate.runner.run`.

    Args:
      indices: Indices into the run's seeds.
      title: Shown in every strip.
      camera: Camera of the pictures, drawn beside the observations.
      size: Side of a picture in pixels.
      stride: Control ticks a frame.
    """

    def __init__(
        self,
        indices: Iterable[int],
        title: str = "",
        camera: str = "front",
        size: int = 288,
        stride: int = 2,
    ) -> None:
        self.camera, self.size = camera, size
        self.recordings = {int(i): Recording(title, stride) for i in indices}

    def wants(self, index: int, info: Mapping[str, Any] | None = None) -> bool:
        """Whether episode `index`, at the tick of `info`, shall be drawn."""
        recording = self.recordings.get(index)
        if recording is None or recording.result is not None:
            return False
        if info is None or recording.wanted(info):
            return True
        recording.skip()
        return False

    def tick(self, index: int, frame: np.ndarray, info: Mapping[str, Any], donor: str) -> None:
        """Takes the frame of one control tick; `donor` says whose memory was swapped in."""
        cue = f"cue: {info['target']}" + (f", memory of: {donor}" if donor else "")
        self.recordings[index].add(frame, info, cue)

    def finish(self, index: int, result: EpisodeResult) -> None:
        """Marks the episode as over; with another's memory what counts is whether it followed."""
        recording = self.recordings[index]
        recording.result = result
        if result.followed is not None and result.commit and recording.captions:
            followed = "followed" if result.followed else "not followed"
            recording.captions[-1] = dataclasses.replace(
                recording.captions[-1],
                outcome=f"{result.commit}: memory {followed}",
                success=result.followed,
            )


def with_strip(frame: np.ndarray, caption: Caption) -> np.ndarray:
    """Returns `frame` with the strip under it, even-sized for video."""
    from PIL import Image, ImageDraw

    height, width = frame.shape[:2]
    size = max(10, width // 20)
    line = round(size * 1.45)
    strip = STRIP_LINES * line + size
    total = height + strip
    canvas = Image.new("RGB", (width + width % 2, total + total % 2), BACKGROUND)
    canvas.paste(Image.fromarray(frame), (0, 0))
    draw, letters = ImageDraw.Draw(canvas), font(size)
    colour = PHASE_COLOURS.get(caption.phase, MUTED)
    draw.rectangle((0, height, width, height + max(2, size // 4)), fill=colour)
    y = height + size // 2
    clock = f"{caption.time_s:.1f} s  #{caption.tick}"
    _line(draw, letters, (size // 2, y), width, [(caption.phase, colour)], clock)
    _line(draw, letters, (size // 2, y + line), width, [(caption.cue, TEXT)], "")
    if caption.outcome:
        verdict = GOOD if caption.success else BAD
        _line(draw, letters, (size // 2, y + 2 * line), width, [(caption.outcome, verdict)], "")
    elif caption.title:
        _line(draw, letters, (size // 2, y + 2 * line), width, [(caption.title, MUTED)], "")
    return np.asarray(canvas)


def side_by_side(recordings: Sequence[Recording], columns: int = 4) -> Iterable[np.ndarray]:
    """Yields frames of a grid of episodes; those that end early show their last frame."""
    if not recordings or any(not recording.frames for recording in recordings):
        raise DataError("a video needs at least one frame of every episode")
    length = max(len(recording.frames) for recording in recordings)
    columns = min(columns, len(recordings))
    for t in range(length):
        tiles = []
        for recording in recordings:
            i = min(t, len(recording.frames) - 1)
            tiles.append(with_strip(recording.frames[i], recording.captions[i]))
        yield _grid(tiles, columns)


def write_video(
    path: str | Path,
    recordings: Recording | Sequence[Recording],
    fps: float | None = None,
    hold_s: float = 1.0,
    columns: int = 4,
) -> Path:
    """Writes one episode, or several side by side, as mp4; whole or not at all.

    Args:
      path: Where to; parents are made.
      recordings: Episodes with at least one frame each.
      fps: Frames a second; by default real time (20 Hz control ticks).
      hold_s: Seconds that the last frame stays.
      columns: Most episodes in a row of the grid.
    """
    recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
    fps = fps or CONTROL_HZ / recordings[0].stride
    return write_frames(
        path, with_hold(side_by_side(recordings, columns), round(hold_s * fps)), fps
    )


def with_hold(frames: Iterable[np.ndarray], more: int) -> Iterator[np.ndarray]:
    """Yields frames, and the last one so many times more."""
    frame = None
    for frame in frames:
        yield frame
    if frame is not None:
        yield from itertools.repeat(frame, more)


def write_frames(path: str | Path, frames: Iterable[np.ndarray], fps: float) -> Path:
    """Writes uint8 [H, W, 3] frames of one even size as mp4, atomically."""
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.mp4")
    codec, options = _codec()
    try:
        with av.open(str(temporary), "w", options={"movflags": "+faststart"}) as container:
            stream = None
            for frame in frames:
                if stream is None:
                    stream = container.add_stream(codec, rate=round(fps), options=options)
                    stream.height, stream.width = frame.shape[:2]
                    stream.pix_fmt = "yuv420p"
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
            if stream is None:
                raise DataError(f"{path}: a video needs at least one frame")
            container.mux(stream.encode(None))
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def contact_sheet(recordings: Sequence[Recording], columns: int = 5) -> np.ndarray:
    """Returns one picture with a row of telling moments for each episode."""
    rows = []
    for recording in recordings:
        picks = recording.moments()[:columns]
        tiles = [with_strip(recording.frames[i], recording.captions[i]) for i in picks]
        tiles += [np.full_like(tiles[0], BACKGROUND)] * (columns - len(tiles))
        rows.append(_grid(tiles, columns))
    return np.concatenate(rows)


def encode_picture(image: np.ndarray, quality: int = 85) -> bytes:
    """Returns a JPEG of a uint8 [H, W, 3] picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    blank = np.full_like(tiles[0], BACKGROUND)
    tiles = [*tiles, *[blank] * (-len(tiles) % columns)]
    lines = [np.concatenate(tiles[i : i + columns], 1) for i in range(0, len(tiles), columns)]
    return np.concatenate(lines)


def _line(draw: Any, letters: Any, at: tuple[int, int], width: int, words: Any, right: str) -> None:
    x, y = at
    for word, colour in words:
        draw.text((x, y), word, fill=colour, font=letters)
        x += round(draw.textlength(word, font=letters))
    if right:
        space = round(draw.textlength(right, font=letters)) + at[0]
        draw.text((width - space, y), right, fill=MUTED, font=letters)


def font(size: int) -> Any:
    """Returns pillow's own font at a size in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _codec() -> tuple[str, dict[str, str]]:
    import av

    for name, options in CODECS:
        if name in av.codecs_available:
            try:
                av.Codec(name, "w")
            except ValueError:
                continue
            return name, options
    raise EmbodiedError("this PyAV has neither libx264 nor mpeg4; reinstall it: pip install -U av")
