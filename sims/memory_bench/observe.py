"""The observation dictionary: proprioception, instruction, and entities or pictures.

Observations never hold the cue, the phase's name or a step counter; the phase shows only as
the lamp's colour. Keys, shapes and dtypes are fixed for an environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embodied.core.entities import (
    COLOR,
    ENTITIES,
    ENTITIES_MASK,
    ENTITY_TYPES,
    FEATURES,
    MAX_ENTITIES,
    POSITION,
    QUATERNION,
    SCALAR,
    SIZE,
)
from embodied.core.errors import ConfigError, unknown_name
from embodied.core.specs import ArraySpec, camera_specs
from embodied.core.text import INSTRUCTION, INSTRUCTION_BYTES
from sims.memory_bench import render
from sims.memory_bench.entities import LAMP_ENTITY, Entity
from sims.memory_bench.scene import CAMERA_NAMES, Scene

if TYPE_CHECKING:
    from sims.memory_bench.task import Task

OBSERVATIONS = ("state", "rgb", "rgbd")
# Of the hand's two equal quaternions the one nearer to "pointing straight down" is shown: there
# w is 0, and a sign rule on w would flip at the last bit.
_DOWN_WXYZ = np.array([0.0, np.sqrt(0.5), np.sqrt(0.5), 0.0])


class Observer:
    """Builds observations of one scene.

    Args:
      scene: The scene.
      mode: ``"state"``, ``"rgb"`` or ``"rgbd"``.
      cameras: Camera names, for pictures.
      image_size: Side of the pictures in pixels.
      entities: The task's entities; the lamp is added in front.
    """

    def __init__(
        self,
        scene: Scene,
        mode: str,
        cameras: Sequence[str],
        image_size: int,
        entities: Sequence[Entity],
    ) -> None:
        if mode not in OBSERVATIONS:
            raise unknown_name("observation", mode, OBSERVATIONS)
        for name in cameras:
            if name not in CAMERA_NAMES:
                raise unknown_name("camera", name, CAMERA_NAMES)
        if mode != "state" and not cameras:
            raise ConfigError(f"observation={mode!r} needs at least one camera, got none")
        if len(set(cameras)) != len(cameras):
            raise ConfigError(f"cameras: expected each name once, got {', '.join(cameras)}")
        if not 8 <= image_size <= 1024:
            raise ConfigError(f"image_size: expected 8 to 1024 pixels, got {image_size}")
        self._scene, self.mode, self.image_size = scene, mode, int(image_size)
        self.cameras = tuple(cameras) if mode != "state" else ()
        self.specs = self._make_specs()
        self._renderer: render.Renderer | None = None
        self._last: dict[str, np.ndarray] = {}
        m = scene.m
        rows = (LAMP_ENTITY, *entities)
        if len(rows) > MAX_ENTITIES:
            raise ConfigError(f"a task may show {MAX_ENTITIES} entities, got {len(rows)}")
        self._rows = rows
        bodies = [e.body or e.part for e in rows]
        self._body = np.array([m.body(b).id for b in bodies])
        self._geom = np.array(
            [m.geom(e.geom or f"{b}_geom").id for e, b in zip(rows, bodies, strict=True)]
        )
        self._static = np.zeros((len(rows), FEATURES), np.float32)
        for row, entity in enumerate(rows):
            if entity.type not in ENTITY_TYPES:
                raise unknown_name("entity type", entity.type, ENTITY_TYPES)
            self._static[row, ENTITY_TYPES.index(entity.type)] = 1.0
            size = m.geom_size[self._geom[row]]
            self._static[row, SIZE] = np.where(size > 0, size, size[0])
        self._camera_ids = {name: m.camera(name).id for name in self.cameras}

    def _make_specs(self) -> dict[str, ArraySpec]:
        f32, arm = "float32", self._scene.arm
        turn = arm.most_joint_rad
        specs = {
            "eef_pos_world_m": ArraySpec((3,), f32, "m", -3.0, 3.0),
            "eef_quat_xyzw": ArraySpec((4,), f32, "", -1.0, 1.0),
            "gripper_opening": ArraySpec((1,), f32, "", 0.0, 1.0),
            "joint_pos_rad": ArraySpec((len(arm.joints),), f32, "rad", -turn, turn),
            INSTRUCTION: ArraySpec((INSTRUCTION_BYTES,), "uint8", "", 0, 255),
        }
        if self.mode == "state":
            specs[ENTITIES] = ArraySpec((MAX_ENTITIES, FEATURES), f32, "", -10.0, 10.0)
            specs[ENTITIES_MASK] = ArraySpec((MAX_ENTITIES,), "bool", "", 0, 1)
        for name in self.cameras:
            specs |= camera_specs(name, self.image_size, depth=self.mode == "rgbd")
        return specs

    def fill(self, out: dict[str, np.ndarray], task: Task, draw: bool) -> None:
        """Writes the present observation into the arrays of `out`, in place.

        Args:
          out: One array for each key of `specs`.
          task: The task, for the instruction and the entities.
          draw: Whether to draw pictures; otherwise they are the last ones drawn.
        """
        scene = self._scene
        out["eef_pos_world_m"][:] = scene.d.site_xpos[scene.grip_site]
        out["eef_quat_xyzw"][:] = eef_quat_xyzw(scene.eef_quat())
        out["gripper_opening"][0] = scene.gripper_opening()
        out["joint_pos_rad"][:] = scene.d.qpos[scene.arm_qpos]
        out[INSTRUCTION][:] = task.instruction_u8
        if self.mode == "state":
            self._fill_entities(out[ENTITIES], out[ENTITIES_MASK], task)
        elif draw:
            self._draw(out)
        else:
            for key in self._last:
                out[key][:] = self._last[key]

    def _fill_entities(self, rows: np.ndarray, mask: np.ndarray, task: Task) -> None:
        scene, n = self._scene, len(self._rows)
        covered = task.covered()
        shown = np.array([scene.present[e.part] and e.name not in covered for e in self._rows])
        table = self._static.copy()
        table[:, POSITION] = scene.d.xpos[self._body]
        table[:, QUATERNION] = _xyzw(scene.d.xquat[self._body])
        table[:, COLOR] = scene.m.geom_rgba[self._geom, :3]
        scalars = task.entity_scalars()
        for row, entity in enumerate(self._rows):
            if entity.name in scalars:
                table[row, SCALAR] = scalars[entity.name]
        rows[:] = 0.0
        mask[:] = False
        rows[:n] = table * shown[:, None]
        mask[:n] = shown

    def _draw(self, out: dict[str, np.ndarray]) -> None:
        if self._renderer is None:
            self._renderer = render.Renderer(
                self._scene, self.image_size, depth=self.mode == "rgbd"
            )
            self._last = {key: self.specs[key].zeros() for key in self.specs if self._pictured(key)}
        for name, index in self._camera_ids.items():
            fovy = float(self._scene.m.cam_fovy[index])
            out[f"{name}_intrinsics"][:] = render.intrinsics(fovy, self.image_size)
            out[f"{name}_cam_to_world"][:] = render.cam_to_world(self._scene.d, index)
        self._renderer.render(self.cameras, out)
        for key, last in self._last.items():
            last[:] = out[key]

    def _pictured(self, key: str) -> bool:
        return key.endswith(("_image_u8", "_depth_m", "_intrinsics", "_cam_to_world"))

    def close(self) -> None:
        """Frees the renderer."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def eef_quat_xyzw(quat_wxyz: np.ndarray) -> np.ndarray:
    """Returns a hand's orientation [4] wxyz as xyzw, in the sign that observations show."""
    return (quat_wxyz if quat_wxyz @ _DOWN_WXYZ >= 0 else -quat_wxyz)[[1, 2, 3, 0]]


def _xyzw(quat_wxyz: np.ndarray) -> np.ndarray:
    """Returns [n, 4] wxyz as xyzw with w >= 0."""
    sign = np.where(quat_wxyz[:, :1] < 0, -1.0, 1.0)
    return (quat_wxyz * sign)[:, (1, 2, 3, 0)]
