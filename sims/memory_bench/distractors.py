"""Two grey balls that fly about in a busy gap, so that a gap is more than one still picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sims.memory_bench.action import CONTROL_HZ
from sims.memory_bench.entities import Entity
from sims.memory_bench.parts import TABLE_TOP_M, Part, ball

if TYPE_CHECKING:
    from sims.memory_bench.task import Task

NAMES = ("distractor0", "distractor1")


def parts() -> list[Part]:
    """Returns the balls."""
    return [ball(name) for name in NAMES]


def entities() -> list[Entity]:
    """Returns their rows."""
    return [Entity(name, "marker", name) for name in NAMES]


def draw(rng: np.random.Generator) -> np.ndarray:
    """Draws their paths, float64 [2, 4]."""
    return rng.uniform(-1, 1, (len(NAMES), 4))


def move(task: Task, paths: np.ndarray, height_m: float) -> None:
    """Puts one ball, or from half busyness on both, where they are at this tick of the gap.

    Args:
      task: The task, for its knob `busy`, its tick and its scene.
      paths: What `draw` returned.
      height_m: Their mean height above the table.
    """
    if task.knobs.busy <= 0:
        return
    count = 2 if task.knobs.busy >= 0.5 else 1
    time_s = task.phase_tick / CONTROL_HZ
    appear = not task.scene.present[NAMES[0]]
    for name, (a, b, c, d) in zip(NAMES[:count], paths, strict=False):
        x = 0.05 + 0.15 * np.sin((1.5 + 0.5 * a) * time_s + np.pi * b)
        y = 0.28 * np.sin((1.0 + 0.4 * c) * time_s + np.pi * d)
        z = TABLE_TOP_M + height_m + 0.03 * np.sin(2 * time_s + a)
        task.scene.place(name, (x, y, z))
    if appear:
        task.scene.forward()  # what appears now is observed now
