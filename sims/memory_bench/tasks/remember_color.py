"""RememberColor-K: see one coloured cube; later touch the cube of that colour among K.

Kin: RememberColor of MIKASA-Robo; a re-creation with phase lamp, snapping gates and commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import EXECUTE, TaskInfo
from sims.memory_bench import levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.parts import PALETTE, TABLE_TOP_M, Part, ball, cube
from sims.memory_bench.task import CLOSE, TICKS_PER_S, Task, Waypoint

MAX_K = len(PALETTE)
CUBE_HALF_M = 0.026
ABOVE, DOWN = 1, 2  # stages of the expert's path
_TOP_Z_M = TABLE_TOP_M + 2 * CUBE_HALF_M
_HOVER_Z_M = _TOP_Z_M + 0.11
TOUCH_TICKS = 4  # the contact must last longer than 0.2 s
_CELLS_X, _CELLS_Y, _CELL_M, _JITTER_M = 3, 4, 0.14, 0.018
_GRID_CENTRE_M = (0.03, 0.02)
_CUE_POS_M = np.array([0.02, 0.0, TABLE_TOP_M + CUBE_HALF_M])
_SHOWCASE_POS_M = np.array([0.28, -0.32, TABLE_TOP_M + CUBE_HALF_M])
_COLOURS = np.array(list(PALETTE.values()))
_DISTRACTORS = ("distractor0", "distractor1")


INFO = TaskInfo(
    name="remember_color",
    env_id="MemoryBench/RememberColor-v0",
    entry="sims.memory_bench.tasks.remember_color:RememberColor",
    summary="see a coloured cube, then touch the one of that colour among K",
    levels=levels.four({"K": 3}, {"K": 5}, {"K": 9}, {"K": 12}, cue_s=1.0, execute_s=6.0),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
)


class RememberColor(Task):
    """The cue picks among the episode's own K colours: at go the scene is the same for all."""

    info = INFO
    instructions = (
        "touch the cube with the color you saw at the start",
        "remember the color of the first cube and touch the cube that has it",
        "which color was shown? touch that cube",
        "find the cube that matches the one shown before and touch it",
    )
    cue_held = True

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._names = [f"cube{i}" for i in range(self.k)]

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """A colour shown, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("show",), held=True)

    def parts(self) -> Sequence[Part]:
        """K candidates, the cue cube and two distractors that fly about in a busy gap."""
        names = ("cue_cube", *self._names)
        return [*(cube(n, CUBE_HALF_M) for n in names), *(ball(n) for n in _DISTRACTORS)]

    def entities(self) -> Sequence[Entity]:
        """The cue cube, the candidates and the distractors."""
        blocks = [Entity(n, "cube", n) for n in ("cue_cube", *self._names)]
        return [*blocks, *(Entity(n, "marker", n) for n in _DISTRACTORS)]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Colours, positions and yaws of the K candidates; the distractors' paths."""
        cells = rng.permutation(_CELLS_X * _CELLS_Y)[: self.k]
        xy = np.stack((cells // _CELLS_Y, cells % _CELLS_Y), 1).astype(float)
        xy = (xy - ((_CELLS_X - 1) / 2, (_CELLS_Y - 1) / 2)) * _CELL_M + _GRID_CENTRE_M
        xy += rng.uniform(-_JITTER_M, _JITTER_M, (self.k, 2))
        z = np.full((self.k, 1), TABLE_TOP_M + CUBE_HALF_M)
        return {
            "colours": rng.permutation(MAX_K)[: self.k],
            "pos": np.hstack((xy, z)),
            "yaw": rng.uniform(-np.pi / 4, np.pi / 4, self.k),
            "cue_offset": np.append(rng.uniform(-0.03, 0.03, 2), 0.0),
            "cue_yaw": rng.uniform(-np.pi / 4, np.pi / 4),
            "path": rng.uniform(-1, 1, (len(_DISTRACTORS), 4)),
        }

    def start_vars(self) -> dict[str, Any]:
        """How long each candidate has been touched, in ticks."""
        return {"touch_ticks": np.zeros(self.k, np.int64)}

    def _show_cue(self, pos: np.ndarray) -> None:
        self.scene.place("cue_cube", pos, self.plan["cue_yaw"])
        self.scene.paint("cue_cube", _COLOURS[self.plan["colours"][self.cue]])

    def setup_cue(self) -> None:
        """Shows the cue cube near the centre; there is nothing to do."""
        self._show_cue(_CUE_POS_M + self.plan["cue_offset"])

    def setup_gap(self) -> None:
        """Leaves the table empty (the reactive twin keeps the cue in a corner)."""
        if self.knobs.visible_cue:
            self._show_cue(_SHOWCASE_POS_M)
        self.gap_tick()

    def gap_tick(self) -> None:
        """Moves grey balls about in a busy gap."""
        if self.knobs.busy <= 0:
            return
        count = 2 if self.knobs.busy >= 0.5 else 1
        time = self.phase_tick / TICKS_PER_S
        for name, (a, b, c, d) in zip(_DISTRACTORS[:count], self.plan["path"], strict=False):
            x = 0.05 + 0.15 * np.sin((1.5 + 0.5 * a) * time + np.pi * b)
            y = 0.28 * np.sin((1.0 + 0.4 * c) * time + np.pi * d)
            self.scene.place(name, (x, y, TABLE_TOP_M + 0.05 + 0.03 * np.sin(2 * time + a)))

    def setup_execute(self) -> None:
        """Puts the K candidates; nothing here depends on the cue."""
        for i, name in enumerate(self._names):
            self.scene.place(name, self.plan["pos"][i], self.plan["yaw"][i])
            self.scene.paint(name, _COLOURS[self.plan["colours"][i]])
        if self.knobs.visible_cue:
            self._show_cue(_SHOWCASE_POS_M)

    def execute_tick(self) -> None:
        """The first candidate touched for longer than 0.2 s decides."""
        touched = self.scene.touched_bodies()
        ticks = self.vars["touch_ticks"]
        for i, name in enumerate(self._names):
            ticks[i] = ticks[i] + 1 if self.scene.body_id[name] in touched else 0
        if ticks.max() > TOUCH_TICKS:
            chosen = int(ticks.argmax())
            self.commit(self._colour_name(chosen), chosen == self.cue)

    def target(self) -> str:
        """The colour that was shown."""
        return self._colour_name(self.cue)

    def _colour_name(self, candidate: int) -> str:
        return list(PALETTE)[self.plan["colours"][candidate]]

    def potential(self) -> float:
        """Nearness of the hand to the right cube, in the execute phase."""
        if self.success:
            return 1.0
        if self.phase != EXECUTE or self.decided:
            return 0.0
        goal = self.plan["pos"][self.cue] + (0, 0, CUBE_HALF_M)
        distance = float(np.linalg.norm(self.scene.eef_pos() - goal))
        return 0.9 * (1.0 - np.tanh(4.0 * distance))

    def waypoints(self) -> Sequence[Waypoint]:
        """High above the right cube, then down on it with closed fingers, and stay.

        The hand comes down only over a cube. So a policy that can't tell which cube is right
        wavers up high, where the next look still decides, and not between the cubes.
        """
        x, y, _ = self.plan["pos"][self.cue]
        path = [
            Waypoint((x, y, _HOVER_Z_M), gripper=CLOSE, tol_m=0.02, keyframe=False, stage=ABOVE),
            Waypoint((x, y, _TOP_Z_M), tol_m=0.02, dwell_ticks=20, speed=0.35, stage=DOWN),
        ]
        if self.strayed((x, y), _HOVER_Z_M):
            here = self.scene.eef_pos()
            up = (float(here[0]), float(here[1]), _HOVER_Z_M)
            path.insert(0, Waypoint(up, gripper=CLOSE, tol_m=0.03, keyframe=False))
        return path

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Rises again when the hand was led astray down between the cubes."""
        low = stage in (ABOVE, DOWN) and self.strayed(goal_world_m[:2], _HOVER_Z_M)
        return self.waypoints() if low else None
