"""The table and pictures of ``sims/memory_bench/README.md``: ``python scripts/suite_docs.py``.

Both follow from the catalog and the stored certificates, and a test compares the table with them.
Run it after a task was added or changed, or its certificates were made anew. A picture is drawn
again where it is missing or its task has changed; ``--all`` draws every one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from embodied import registry  # noqa: E402
from embodied.core.errors import DataError  # noqa: E402
from embodied.core.files import write_atomic  # noqa: E402
from embodied.core.task import IMITATION, EnvConfig, TaskInfo  # noqa: E402
from embodied.evaluate.video import Recording, with_strip  # noqa: E402
from embodied.report.text import interval, markdown_table  # noqa: E402
from sims.memory_bench.levels import GAPS  # noqa: E402

FOLDER = Path(__file__).resolve().parents[1] / "sims" / "memory_bench"
README, PICTURES = FOLDER / "README.md", "docs"
BEGIN, END = "<!-- begins: scripts/suite_docs.py -->", "<!-- ends -->"
LEVEL, SEED, SIZE, COLUMNS = "easy", 3, 176, 5
MOST_BYTES, QUALITIES = 40_000, (85, 75, 65, 55)
HEADER = ("", "task", "asked for", "knobs", "ceiling c*", "to keep", "expert")
COMMON = ("gap_min_s", "gap_max_s", "busy", "hidden_phase", "visible_cue")
"""Knobs that all tasks share; the text explains them once."""


def tasks() -> list[TaskInfo]:
    """Returns the suite's tasks in order, then those that need no memory."""
    own = registry.suite_tasks()
    every = [registry.task_info(name) for name in registry.task_names(IMITATION)]
    built_in = [info for info in every if info.env_id.startswith("MemoryBench/")]
    return [registry.task_info(name) for name in own] + [
        info for info in built_in if info.name not in own
    ]


def table() -> list[str]:
    """Returns the lines of the table."""
    rows = []
    for info in tasks():
        proof = registry.certificate(info.name) or {"levels": {}}
        levels = [proof["levels"].get(level) for level in info.levels]
        picture = f'<img src="{PICTURES}/{info.name}.jpg" width="360" alt="moments of {info.name}">'
        rows.append(
            [
                picture,
                f"`{info.name}`",
                info.summary,
                knobs(info),
                ", ".join(f"{100 * info.ceiling(k):.3g} %" for k in info.levels.values()),
                to_keep(levels),
                expert(levels),
            ]
        )
    return markdown_table(HEADER, rows)


def knobs(info: TaskInfo) -> str:
    """Returns a task's own knobs, each with its values from the first level to the last."""
    levels = list(info.levels.values())
    told = []
    for name, first in levels[0].items():
        values = [level[name] for level in levels]
        same = all(value == first for value in values)
        # Gaps unlike those of the other tasks are its own, whether they change or not.
        usual = [GAPS[level].get(name, first) for level in info.levels]
        if values == usual or (name in COMMON and name not in GAPS["easy"]):
            continue
        told.append(f"{name} {first:g}" if same else f"{name} {_row(values)}")
    return "; ".join(told) or "–"


def _row(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def to_keep(levels: Sequence[dict[str, Any] | None]) -> str:
    """Returns what a memory must keep, by what suffices, at each level where it was measured."""
    labels = [((level or {}).get("window") or {}).get("fast", {}).get("label") for level in levels]
    told = [label or "–" for label in labels]
    return told[0] if len(set(told)) == 1 else ", ".join(told)


def expert(levels: Sequence[dict[str, Any] | None]) -> str:
    """Returns how often the expert succeeds under ``fast``, over all levels."""
    found = [level["expert"]["fast"] for level in levels if level]
    if not found:
        return "–"
    wins, n = (sum(one[key] for one in found) for key in ("successes", "episodes"))
    worst = min(found, key=lambda one: one["low"])
    return f"{wins} of {n} (worst level {interval(worst['low'], worst['high'])})"


def with_table(text: str) -> str:
    """Returns the README with the present table in its place.

    Raises:
      DataError: If the places are not marked.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise DataError(f"{README} needs the lines {BEGIN!r} and {END!r} around its table")
    return "\n".join([before + begin, "", *table(), "", end + after])


# ---- pictures ---------------------------------------------------------------------------


def facts(info: TaskInfo, mjcf_sha256: str | None = None) -> str:
    """Returns what a picture was drawn of; kept in it as its comment."""
    if mjcf_sha256 is None:
        proof = registry.certificate(info.name) or {}
        mjcf_sha256 = proof.get("levels", {}).get(LEVEL, {}).get("mjcf_sha256", {}).get("fast")
    return json.dumps([info.env_id, info.knobs(LEVEL), mjcf_sha256], sort_keys=True)


def stored_facts(info: TaskInfo) -> str | None:
    """Returns what the stored picture was drawn of, None without one."""
    file = FOLDER / PICTURES / f"{info.name}.jpg"
    if not file.exists():
        return None
    with Image.open(file) as picture:
        return bytes(picture.info.get("comment", b"")).decode()


def draw(info: TaskInfo) -> tuple[bytes, str]:
    """Plays the expert; returns a JPEG of moments of its episode, and what it was drawn of."""
    env = registry.make_env(info.name, LEVEL, EnvConfig(observation="state")).unwrapped
    try:
        film = Recording(stride=4)
        _, told = env.reset(seed=SEED)
        expert, over = env.make_expert(SEED), False
        while True:
            if film.wanted(told):
                film.add(env.picture(size=SIZE), told)
            else:
                film.skip()
            if over:
                break
            _, _, terminated, truncated, told = env.step(expert.act())
            over = terminated or truncated
        if not told["success"]:
            raise DataError(f"{info.name}: the expert failed with seed {SEED}; choose another SEED")
        made = facts(info, env.mjcf_sha256)
    finally:
        env.close()
    tiles = [with_strip(film.frames[i], film.captions[i]) for i in moments(film)]
    return packed(np.concatenate(tiles, axis=1), made), made


def moments(film: Recording) -> list[int]:
    """Returns frames that tell it all: of the cue those that differ most, then go and the end."""
    phases = [caption.phase for caption in film.captions]
    last, go = len(phases) - 1, phases.index("execute")
    if go == 0:
        return unlike(film.frames, [0, last], COLUMNS)
    cue = [i for i in range(go) if phases[i] == "cue"]
    return [*unlike(film.frames[: cue[-1] + 1], [0], COLUMNS - 2), go, last]


def unlike(frames: Sequence[np.ndarray], chosen: Sequence[int], count: int) -> list[int]:
    """Adds to `chosen` frames, each the one farthest from all before, until there are `count`."""
    small = np.stack([frame[::4, ::4].astype(np.float32).ravel() for frame in frames])
    picks = list(chosen)
    while len(picks) < min(count, len(frames)):
        distance = np.abs(small[:, None] - small[picks]).sum(-1).min(1)
        distance[picks] = -1.0
        picks.append(int(distance.argmax()))
    return sorted(picks)


def packed(picture: np.ndarray, comment: str) -> bytes:
    """Returns a JPEG of at most `MOST_BYTES`."""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image = Image.fromarray(picture)
        image.save(buffer, "JPEG", quality=quality, optimize=True, comment=comment.encode())
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    raise DataError(f"a picture is larger than {MOST_BYTES} bytes at quality {QUALITIES[-1]}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("scripts/suite_docs.py", description=__doc__)
    parser.add_argument("--all", action="store_true", help="draw every picture anew")
    arguments = parser.parse_args(argv)
    for info in tasks():
        if not arguments.all and stored_facts(info) == facts(info):
            continue
        data, made = draw(info)
        write_atomic(FOLDER / PICTURES / f"{info.name}.jpg", data)
        print(f"{info.name}: {len(data):,} bytes")
        if made != facts(info):
            print(f"  its model is not the certified one: embodied certify {info.name}")
    write_atomic(README, with_table(README.read_text()))
    print(f"made  {README}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
