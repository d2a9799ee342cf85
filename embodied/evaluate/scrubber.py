"""The memory inspector of a page: what one needs to scrub through episodes, as data and markup.

``embodied/report/page.js`` draws it. Its data is ``images`` (addresses, each once) and
``episodes``, each with ``sides``: the episode with its own memory, and beside it the same one with
another memory swapped in, where there is one. A side has, for each of its T observation ticks,
``times`` in seconds, ``phases``, ``said`` (the cue in words), ``frames`` (indices into
``images``), and ``actions`` ([K, A], or null where none was asked for) with their ``names``; and
``streams``, each with ``gate`` (the present's weight) and ``slots``: [slot, items in it, age in
seconds or null, share of what was read, ticks it holds].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import DataError
from embodied.evaluate.inspection import (
    ACTION,
    AGE,
    ATTENTION,
    CAPTION,
    FRAME,
    GATE,
    ITEMS,
    LIVE,
    attention_to_slots,
)
from embodied.evaluate.results import NONE, SWAPPED, EpisodeResult
from embodied.evaluate.video import encode_picture
from embodied.report.html import Html, data_address, element
from embodied.report.text import kind

ACTION_NAMES = {
    7: ("x", "y", "z", "roll", "pitch", "yaw", "gripper"),
    9: ("x", "y", "z", "qx", "qy", "qz", "qw", "gripper", "collision"),
}
"""Size of an action -> what its elements are; of hand motions and of keyframes."""
QUALITY = 72

INTRODUCTION = (
    "Move through an episode with the arrow keys on the slider. A slot's pictures are what was "
    "seen when it was written; merged slots hold several moments. Beside it: the same episode with "
    "the memory exchanged at go for that of an episode with another cue. All that is seen at go "
    "is equal to the last bit, so what differs from there on comes from memory."
)


@dataclasses.dataclass
class Looks:
    """Episodes to look into, with their pictures each kept once."""

    images: list[str] = dataclasses.field(default_factory=list)
    episodes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    _known: dict[bytes, int] = dataclasses.field(default_factory=dict)

    def add(self, directory: Path, rows: Sequence[dict[str, Any]], episodes: Sequence[Any]) -> None:
        """Adds what an evaluation directory explains.

        Args:
          directory: Of the evaluation.
          rows: Its result rows.
          episodes: Its `EpisodeResult` rows.

        Raises:
          DataError: If a file is broken or of another version.
        """
        outcomes = {(e.task, e.level, e.intervene, e.seed): e for e in episodes}
        found: dict[tuple[str, str, int], dict[str, Any]] = {}
        for row in rows:
            for file in row.get("inspection", ()):
                if row["intervene"] not in (NONE, SWAPPED) or not file.endswith(".npz"):
                    continue
                seed = int(Path(file).stem.rpartition("-")[2])
                place = row["task"], row["level"], seed
                outcome = outcomes[(row["task"], row["level"], row["intervene"], seed)]
                sides = found.setdefault(place, {"memory": row["memory"], "sides": []})["sides"]
                sides.append(self._side(read_arrays(directory / file), outcome))
        for (task, level, seed), entry in found.items():
            memory = f" · {entry['memory']}" if entry["memory"] else ""
            label = f"{task} {level}{memory} · seed {seed}"
            self.episodes.append({"label": label, "task": task, "level": level, **entry})

    def index_of(self, task: str, level: str, memory: str) -> int | None:
        """Returns the index of the first such episode."""
        wanted = {"task": task, "level": level, "memory": memory}
        for i, episode in enumerate(self.episodes):
            if wanted.items() <= episode.items():
                return i
        return None

    def data(self) -> dict[str, Any]:
        """Returns the page's data."""
        return {"images": self.images, "episodes": self.episodes}

    def section(self) -> Html:
        """Returns the inspector's markup, to be filled by the script."""
        choices = [element("option", e["label"], value=i) for i, e in enumerate(self.episodes)]
        controls = element(
            "div",
            element("label", "Episode ", element("select", *choices, data_part="episode")),
            element("label", "Memory stream ", element("select", data_part="stream")),
            class_="controls",
        )
        slider = element(
            "input", type="range", min="0", max="0", value="0", data_part="tick",
            aria_label="observation tick",
        )  # fmt: skip
        buttons = [
            element("button", text, type="button", data_part=part)
            for text, part in (("back", "back"), ("play", "play"), ("on", "on"))
        ]
        scrub = element(
            "div",
            slider,
            element("div", class_="timeline", data_part="timeline", aria_hidden="true"),
            element("div", *buttons, element("span", data_part="place"), class_="controls"),
            class_="scrub",
        )
        return element(
            "section",
            element("h2", "Memory inspector"),
            element("p", INTRODUCTION, class_="note"),
            controls,
            scrub,
            element("div", class_="sides", data_part="sides"),
            id="inspector",
        )

    def _image(self, frame: np.ndarray) -> int:
        data = frame.tobytes()
        if data not in self._known:
            self._known[data] = len(self.images)
            self.images.append(data_address(encode_picture(frame, QUALITY)))
        return self._known[data]

    def _side(self, arrays: Mapping[str, np.ndarray], outcome: EpisodeResult) -> dict[str, Any]:
        swapped = outcome.intervene == SWAPPED
        actions = arrays[ACTION].astype(np.float64)
        size = actions.shape[-1]
        streams = [k.removesuffix(ATTENTION) for k in arrays if k.endswith(ATTENTION)]
        return {
            "title": "Another memory from go on" if swapped else "Its own memory",
            "outcome": _outcome(outcome),
            "good": bool(outcome.followed if swapped else outcome.success),
            "times": _rounded(arrays["time_s"]),
            "phases": [str(phase) for phase in arrays["phase"]],
            "said": [str(text) for text in arrays[CAPTION]],
            "frames": [self._image(frame) for frame in arrays[FRAME]],
            "names": ACTION_NAMES.get(size, tuple(f"action {i}" for i in range(size))),
            "actions": [_rounded(a) if np.isfinite(a).all() and a.size else None for a in actions],
            "streams": [_stream(arrays, name) for name in streams],
        }


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of one explained episode.

    Raises:
      DataError: If the file is missing, broken, or has no frames.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}; evaluate again") from error
    if FRAME not in arrays:
        raise DataError(f"{file} has no {FRAME}: another version wrote it; evaluate again")
    return arrays


def _outcome(outcome: EpisodeResult) -> str:
    if outcome.intervene == SWAPPED:
        if outcome.followed is None:
            return "the swap never took place"
        what = "followed" if outcome.followed else "not followed"
        return f"{outcome.commit or 'no commit'}: the other memory was {what}"
    if outcome.success:
        return f"{outcome.commit}: success"
    return f"{outcome.commit or 'no commit'}: {kind(outcome.failure_kind)}"


def _stream(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    share = attention_to_slots(arrays, name)
    items, live, held = (arrays[name + k] for k in (ITEMS, LIVE, ".slot_of_tick"))
    ages = arrays.get(name + AGE)
    gate = arrays.get(name + GATE)
    slots = []
    for t in range(len(share)):
        used = np.flatnonzero(live[t])
        # Slots are numbered as `slot_of_tick` does: among those in use.
        slots.append(
            [
                [
                    number,
                    _number(items[t, m]),
                    None if ages is None else _number(ages[t, m]),
                    _number(share[t, m]),
                    np.flatnonzero(held[t] == number).tolist(),
                ]
                for number, m in enumerate(used)
            ]
        )
    means = None if gate is None else _rounded(gate.astype(np.float64).mean(axis=1))
    return {"name": name, "gate": means, "slots": slots}


def _number(value: Any) -> float:
    """Returns a number that JSON can hold, with three decimals."""
    return round(float(value), 3) if math.isfinite(value) else 0.0


def _rounded(array: np.ndarray) -> Any:
    return np.round(array.astype(np.float64), 3).tolist()
