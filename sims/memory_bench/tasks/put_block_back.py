"""PutBlockBack: carry the block to the centre, press the button, put it back on its patch.

Kin: MemoryBench's "put block back" (SAM2Act, 2025); a re-creation with phase lamp, snapping
gates, ordered steps, balanced cues and jittered places. Patches all look the same, and at go
the block stands at a place and yaw drawn from the seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embodied.core.task import CUE, TaskInfo
from sims.memory_bench import levels
from sims.memory_bench.abstract import Machine
from sims.memory_bench.entities import Entity
from sims.memory_bench.layout import by_place
from sims.memory_bench.machines import cue_then_choice
from sims.memory_bench.manipulation import (
    BLOCK_HALF_M,
    BLOCK_RGB,
    CENTRE_RGB,
    CENTRE_XY_M,
    PATCH_RGB,
    PRESS,
    SHOWN_RGB,
    BlockTask,
    draw_ring,
)
from sims.memory_bench.parts import TABLE_TOP_M, Part, box, patch
from sims.memory_bench.task import Waypoint

MAX_K = 16
RING_K = 4
"""Up to so many patches stand in a ring around the centre; more lie on a grid."""

_BLOCK_Z_M = TABLE_TOP_M + BLOCK_HALF_M[2]
_GRID_M = 0.105
_GRID_X_M = (-0.165, -0.06, 0.045, 0.15)
_GRID_Y_M = (-0.315, -0.21, -0.105, 0.0, 0.105, 0.21, 0.315)
_BUTTON_X_M, _BUTTON_Y_M, _GRID_JITTER_M = (-0.06, 0.045), -0.315, 0.005


INFO = TaskInfo(
    name="put_block_back",
    env_id="MemoryBench/PutBlockBack-v0",
    entry="sims.memory_bench.tasks.put_block_back:PutBlockBack",
    summary="carry a block to the centre, press the button, put it back on its patch of K",
    levels=levels.four(
        {"K": 4}, {"K": 8}, {"K": 12}, {"K": 16}, tol_m=0.05, cue_s=15.0, execute_s=8.0
    ),
    ceiling=levels.one_in_k,
    cues=levels.k_cues,
    horizon_s=levels.horizon_s,
    published_keyframes=12,
)


class PutBlockBack(BlockTask):
    """The cue is the patch on which the block starts."""

    info = INFO
    instructions = (
        "move the block to the centre, press the button, then put the block back where it was",
        "bring the block to the middle, push the button and return the block to its patch",
        "carry the block to the centre mark; after the button, take it back to its old place",
        "centre the block, hit the button, then restore the block to where you found it",
    )

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        levels.check_whole(self.info.name, knobs, "K", 2, MAX_K)
        super().__init__(knobs)
        self.k = int(knobs["K"])
        self._patches = [f"patch{i}" for i in range(self.k)]

    block_names = ("block",)
    n_steps = 1

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Two steps in plain view, then one choice of K."""
        return cue_then_choice(cls.info.name, int(knobs["K"]), ("carry", "press"), held=False)

    def parts(self) -> Sequence[Part]:
        """K patches, the centre's mark, one free block, button and distractors."""
        return [
            *(patch(name) for name in self._patches),
            patch("centre", half_m=0.04),
            box("block", BLOCK_HALF_M, "free"),
            *self.common_parts(),
        ]

    def entities(self) -> Sequence[Entity]:
        """Block, patches, centre mark, button, distractors."""
        return [
            Entity("block", "cube", "block"),
            *(Entity(name, "patch", name) for name in self._patches),
            Entity("centre", "marker", "centre"),
            *self.common_entities(),
        ]

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Places of patches and button; the block's offsets and yaws on its patch and at go."""
        if self.k <= RING_K:
            places, button = draw_ring(rng, self.k)
        else:
            button = np.array([rng.choice(_BUTTON_X_M), _BUTTON_Y_M])
            places = rng.permutation(_free_cells(button))[: self.k]
            places += rng.uniform(-_GRID_JITTER_M, _GRID_JITTER_M, places.shape)
        return {
            "patches": places,
            "button": button + rng.uniform(-0.005, 0.005, 2),
            "start_offset": rng.uniform(-0.006, 0.006, 2),
            "start_yaw": rng.uniform(-0.25, 0.25),
            "go_xy": CENTRE_XY_M + rng.uniform(-0.01, 0.01, 2),
            "go_yaw": rng.uniform(-0.25, 0.25),
            **self.draw_common(rng),
        }

    def show(self) -> None:
        """Patches and mark; the block on its patch in the cue phase, later at the centre."""
        plan, scene = self.plan, self.scene
        for name, xy in zip(self._patches, plan["patches"], strict=True):
            scene.place(name, (*xy, TABLE_TOP_M + 0.001))
            scene.paint(name, PATCH_RGB)
        if self.knobs.visible_cue:
            scene.paint(self._patches[self.cue], SHOWN_RGB)
        scene.place("centre", (*CENTRE_XY_M, TABLE_TOP_M + 0.001))
        scene.paint("centre", CENTRE_RGB)
        if self.phase == CUE:
            xy, yaw = plan["patches"][self.cue] + plan["start_offset"], plan["start_yaw"]
        else:
            xy, yaw = plan["go_xy"], plan["go_yaw"]
        scene.place("block", (*xy, _BLOCK_Z_M), yaw)
        scene.paint("block", BLOCK_RGB)

    def step_done(self) -> bool:
        """The block rests at the centre, released."""
        return self.rests_at(0, CENTRE_XY_M)

    def execute_tick(self) -> None:
        """The first release decides: on which patch the block lies then."""
        if self.released(self.plan["go_xy"][None]) is None:
            return
        offsets = np.abs(self.plan["patches"] - self.scene.pos("block")[:2]).max(axis=1)
        nearest = int(offsets.argmin())
        if offsets[nearest] > self.knobs.tol_m:
            self.commit("none", False, "motor")
        else:
            self.commit(self._patches[nearest], nearest == self.cue)

    def choice_order(self) -> Sequence[int]:
        """The patches, by where they are; on the grid column by column."""
        patches = self.plan["patches"]
        return by_place(patches) if self.k <= RING_K else by_place(patches, _GRID_M)

    def target(self) -> str:
        """The patch on which the block was at the start."""
        return self._patches[self.cue]

    def step_progress(self) -> float:
        """Reaching the block and bringing it to the centre."""
        return self.carry_progress(0, CENTRE_XY_M)

    def execute_progress(self) -> float:
        """Reaching the block and bringing it to its patch."""
        return self.carry_progress(0, self.plan["patches"][self.cue])

    def waypoints(self) -> Sequence[Waypoint]:
        """Centre the block, press; after go, carry it back."""
        if self.phase != CUE:
            return self.carry_path(0, self.plan["patches"][self.cue])
        if self.vars["steps_done"] or self.rests_at(0, CENTRE_XY_M):
            return self.press_path()
        return [*self.carry_path(0, CENTRE_XY_M), *self.press_path()[-2:]]

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Starts anew when the block was pushed away, lost, or isn't where it should be."""
        if self.carry_failed(0, stage, goal_world_m):
            return self.waypoints()
        if stage == PRESS and not self.vars["steps_done"]:
            return None if self.rests_at(0, CENTRE_XY_M) else self.waypoints()
        return None


def _free_cells(button: np.ndarray) -> np.ndarray:
    """Returns grid places [n, 2] that leave the centre, the button and the lamp's post free."""
    cells = np.array([(x, y) for x in _GRID_X_M for y in _GRID_Y_M])
    # Open fingers reach far along y: nothing is grasped right beside the button.
    apart = (np.abs(cells - button) > (0.08, 0.16)).any(axis=1)
    off_centre = np.hypot(*(cells - CENTRE_XY_M).T) > 0.05
    off_lamp = ~((cells[:, 0] < -0.1) & (cells[:, 1] < -0.3))
    return cells[apart & off_centre & off_lamp]
