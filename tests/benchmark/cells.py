"""Evaluation directories of a benchmark as `evaluate` would leave them, without simulator."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from embodied import registry
from embodied.commands import base
from embodied.core.errors import EmbodiedError
from embodied.core.files import write_json
from embodied.evaluate.inspection import Inspection, write_inspection
from embodied.evaluate.results import EpisodeResult, write_episodes
from embodied.evaluate.video import Caption, Recording, write_video

BANKS = ("perceptual_cognitive", "perceptual_cognitive_fifo", "perceptual_cognitive_retention")
WINS = {"full_history": 9, "gru": 6, "none": 3, **dict(zip(BANKS, (8, 7, 5), strict=True))}
"""Of ten episodes of a task."""
TASKS = ["remember_color", "put_block_back"]
SEED = 7
TICKS, TOKENS, SLOTS = 6, 2, 4


def episodes(wins: int, intervene: str = "none", count: int = 10) -> list[EpisodeResult]:
    """Returns episodes of both tasks, `wins` of each a success."""
    swapped = intervene == "swapped"
    return [
        EpisodeResult(
            task=task, level="easy", seed=SEED + i, cue=i % 3, success=i < wins, committed=True,
            commit="x", failure_kind="" if i < wins else "wrong_choice", length=9, time_s=1.0,
            reward=0.0, observations=3, state_bytes=800, row=0, state_filled=400,
            intervene=intervene, followed=True if swapped else None,
            donor_cue=1 if swapped else None,
        )
        for task in TASKS
        for i in range(count)
    ]  # fmt: skip


def results(memory: str, wins: int) -> dict[str, Any]:
    """Returns the part of ``results.json`` that the table reads."""
    rows = [
        {
            "role": "policy", "task": task, "level": "easy",
            "knobs": registry.task_info(task).knobs("easy"), "intervene": "none", "n": 10,
            "successes": wins, "success": wins / 10, "ceiling": 0.3, "expert": 1.0,
            "score": (wins / 10 - 0.3) / 0.7, "commit_rate": 1.0, "state_bytes": 800,
            "state_filled": 400, "process": None,
            "failure_kinds": {"wrong_choice": 10 - wins} if wins < 10 else {},
        }
        for task in TASKS
    ]  # fmt: skip
    policy = {"memory": memory, "parameters": 1234, "step_ms": 2.5}
    return {"format_version": 1, "policy": policy, "rows": rows}


def looks(folder: Path, memory: str, slots: bool = True) -> None:
    """Writes an evaluation that explains an episode of each task, and the same one swapped."""
    rows, told = [], []
    for kind in ("none", "swapped"):
        told += episodes(1, kind, count=1)
        for task in TASKS:
            stem = f"{task}-easy-policy-{kind}-{SEED}"
            film = recording(kind)
            video = write_video(folder / "videos" / f"{stem}.mp4", film)
            files = write_inspection(folder / "inspection", stem, inspection(slots), film)
            rows.append(
                {
                    "role": "policy",
                    "task": task,
                    "level": "easy",
                    "memory": memory,
                    "intervene": kind,
                    "videos": [str(video.relative_to(folder))],
                    "inspection": [str(file.relative_to(folder)) for file in files],
                }
            )
    write_json(folder / "results.json", {"format_version": 1, "rows": rows})
    write_episodes(folder / "episodes.jsonl", told)


def recording(kind: str) -> Recording:
    """Returns a film of one colour a tick."""
    film = Recording("policy", stride=8)
    for tick in range(TICKS):
        frame = np.full((96, 96, 3), 30 * tick, np.uint8)
        frame[:, :40, 0] = 200
        cue = "cue: red" + (", memory of: blue" if kind == "swapped" and tick > 3 else "")
        film.frames.append(frame)
        film.captions.append(Caption(phase_of(tick), cue, 8 * tick, 0.4 * tick))
    return film


def inspection(slots: bool) -> Inspection:
    """Returns an episode whose memory appends a slot a tick, two of which merge at last."""
    found = Inspection()
    items = [[], [1], [1, 1], [1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 1]]
    for tick in range(TICKS):
        counts = np.zeros(SLOTS, np.float32)
        counts[: len(items[tick])] = items[tick]
        live, weight = counts > 0, np.zeros((1, TOKENS, SLOTS), np.float32)
        weight[..., 0] = live[0]
        found.time_s.append(0.4 * tick)
        found.phase.append(phase_of(tick))
        found.images.append({})
        explained = {
            "entities.attention": weight, "entities.items": counts, "entities.live": live,
            "entities.gate": np.full(TOKENS, 0.25, np.float32),
        }  # fmt: skip
        found.reports.append(explained if slots else {})
        held = phase_of(tick) != "execute"
        found.actions.append(None if held else np.linspace(-1, 1, 56).reshape(8, 7))
    return found


def phase_of(tick: int) -> str:
    """Returns the phase of a tick: two of each."""
    return ("cue", "gap", "execute")[tick // 2]


@dataclasses.dataclass
class Commands:
    """Stands for the commands; `broken` are memories whose training fails, `stuck` never ends.

    An evaluation with the word `refused` fails.
    """

    calls: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    broken: tuple[str, ...] = ()
    stuck: str = ""
    refused: str = ""

    def __call__(self, log: Path, *words: str) -> None:
        self.calls.append(words)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        if words[0] == "train":
            folder = Path(options["out"])
            if any(memory in folder.parent.name for memory in self.broken):
                raise EmbodiedError("embodied train ended with 1: no such thing")
            if self.stuck and self.stuck in folder.parent.name:
                (folder / "config.yaml").parent.mkdir(parents=True)
                (folder / "config.yaml").write_text("steps: 5")
                time.sleep(60)
            (folder / "checkpoints" / "00000005").mkdir(parents=True)
            (folder / "checkpoints" / "00000005" / "policy.json").write_text("{}")
            (folder / "config.yaml").write_text("steps: 5")
            # Logged by a process, and by the one that carried on.
            rows = "".join(f'{{"cpu_s": {seconds}}}\n' for seconds in (30.0, 60.0, 10.0, 30.0))
            (folder / "metrics.jsonl").write_text(rows)
        elif words[0] == "evaluate":
            base.parse(base.load("evaluate"), list(words[1:]), "evaluate")  # as the command would
            if self.refused in words:
                raise EmbodiedError(f"embodied evaluate ended with 2: {self.refused}")
            memory = Path(words[1]).parent.name.rpartition("-s")[0]
            if "inspect=true" in words:
                # Rows tell of the memory itself, whatever options it has.
                looks(Path(options["out"]), BANKS[0] if memory in BANKS else memory)
                return
            write_json(Path(options["out"]) / "results.json", results(memory, WINS[memory]))
            write_episodes(Path(options["out"]) / "episodes.jsonl", episodes(WINS[memory]))
