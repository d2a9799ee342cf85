"""Numbers of a run that stand beside its success in the table of a study."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embodied import registry
from embodied.core.files import read_json
from embodied.report.text import percent
from embodied.train.checkpoint import checkpoints

ABOVE_CHANCE = 0.1
"""Running success above what a policy without memory can reach that counts as leaving it."""

NEAR_M = 0.015
"""Mean error of the coarse point, over the decisions between two log rows, that counts as near."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """A number of one training seed.

    Attributes:
      of: Run and evaluation directory -> the number, or None where it never came to be.
      text: How the number is written.
      none: What is written where there is none.
    """

    of: Callable[[Path, Path], float | None]
    text: Callable[[float], str]
    none: str = "never"


def _parameters(run: Path, results: Path) -> float:
    return float(read_json(results / "results.json")["policy"]["parameters"])


def _state_bytes(run: Path, results: Path) -> float:
    return float(max(row["state_bytes"] for row in read_json(results / "results.json")["rows"]))


def _metrics(run: Path, having: str = "frames") -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if having in row]


def _steps_to_near(run: Path, results: Path) -> float | None:
    """Steps after which SAM2Act's coarse point was first within `NEAR_M` in training."""
    rows = _metrics(run, "coarse_error_m")
    return next((row["step"] + 1.0 for row in rows if row["coarse_error_m"] < NEAR_M), None)


def _frames_at_chance(run: Path, results: Path) -> float | None:
    """Frames after which the running success of any level was first clearly above its ceiling."""
    ceilings: dict[str, float] = {}
    for row in _metrics(run):
        for key, success in row.items():
            if not key.startswith("success/"):
                continue
            if key not in ceilings:
                task, _, level = key.removeprefix("success/").rpartition("-")
                info = registry.task_info(task)
                ceilings[key] = info.ceiling(info.knobs(level))
            if success >= ceilings[key] + ABOVE_CHANCE:
                return float(row["frames"])
    return None


def _frames_to_last_stage(run: Path, results: Path) -> float | None:
    """Frames after which the last stage of the curriculum began."""
    starts = read_json(checkpoints(run)[-1] / "policy.json")["train"]["stage_starts"]
    last = max(row["stage"] for row in _metrics(run))
    if len(starts) <= 1 or last < len(starts) - 1:
        return None
    return float(next(row["frames"] for row in _metrics(run) if row["stage"] == last))


def _right_chunk_read(run: Path, results: Path) -> float | None:
    """Share of the episodes, in the layer that reads it most often; None without chunks."""
    file = results / CHUNKS_READ
    found = read_json(file) if file.exists() else []
    shares = [max(layer["read"] for layer in row["layers"]) for row in found]
    return sum(shares) / len(shares) if shares else None


def _keyframes_off(name: str) -> Callable[[Path, Path], float | None]:
    """Returns what finds a number of `studies.keyframes_off`."""
    return lambda run, results: float(read_json(results / KEYFRAMES_OFF)[name])


def _frames(run: Path, results: Path) -> float:
    return float(_metrics(run)[-1]["frames"])


def _success_at(share: float) -> Callable[[Path, Path], float | None]:
    """Returns what finds the running success, over all levels, at a share of the frames."""

    def success(run: Path, results: Path) -> float | None:
        rows = _metrics(run)
        until = [row for row in rows if row["frames"] <= share * rows[-1]["frames"]]
        values = [v for k, v in until[-1].items() if k.startswith("success/")] if until else []
        return sum(values) / len(values) if values else None

    return success


def _millions(frames: float) -> str:
    return f"{frames / 1e6:.2f} M"


def _millimetres(metres: float) -> str:
    return f"{1e3 * metres:.1f} mm"


def _count(number: float) -> str:
    return f"{number:,.0f}"


RIGHT_CHUNK, CHUNKS_READ = "right chunk read", "chunks_read.json"
"""A fact that takes as long as an evaluation, and the file beside it in which it is kept."""

KEYFRAMES, KEYFRAMES_OFF = {"keyframe off, median", "keyframe off, 95 %"}, "keyframes_off.json"
"""Facts of held-out demonstrations, and the file beside the evaluation that keeps them."""

LEARNING = {f"running success at {10 * tens} %": tens / 10 for tens in range(1, 11)}
"""Name -> share of a training's frames; facts that are drawn as a curve, not told in a column."""

FACTS = {
    "parameters": Fact(_parameters, _count),
    "state bytes": Fact(_state_bytes, _count),
    "frames at chance": Fact(_frames_at_chance, _millions),
    "frames to the last stage": Fact(_frames_to_last_stage, _millions),
    "frames": Fact(_frames, _millions),
    f"steps to {100 * NEAR_M:g} cm": Fact(_steps_to_near, _count),
    "keyframe off, median": Fact(_keyframes_off("median_m"), _millimetres),
    "keyframe off, 95 %": Fact(_keyframes_off("p95_m"), _millimetres),
    RIGHT_CHUNK: Fact(_right_chunk_read, percent, none="–"),
    **{name: Fact(_success_at(share), percent) for name, share in LEARNING.items()},
}
"""Name -> how it is found and written."""


def text(name: str, by_seed: Sequence[float | None]) -> str:
    """Returns the values of a fact, once where all seeds agree."""
    if name not in FACTS or not by_seed:
        return "–"
    values = by_seed[:1] if len(set(by_seed)) == 1 else by_seed
    return ", ".join(FACTS[name].none if v is None else FACTS[name].text(v) for v in values)
