"""The simulated world: a robosuite environment built once, then reset in milliseconds.

robosuite assembles the MJCF (Panda, gripper, mount, table) and, under ``control="osc"``, runs
its stock controller. Everything that happens within an episode (placing, painting, snapping,
stepping, saving) goes through this class and touches MuJoCo's arrays directly.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence

# Before numpy where nobody imported it yet: robosuite's small products gain nothing by threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np

from embodied.core.errors import ConfigError, MissingExtra, SimulatorError, unknown_name
from sims.memory_bench.render import INSTALL_HINT, choose_backend

_BACKEND = choose_backend()
# robosuite warns about optional packages at every import.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

try:
    import mujoco
    from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
    from robosuite.models.arenas import TableArena
    from robosuite.models.tasks import ManipulationTask
except ModuleNotFoundError as error:  # pragma: no cover - depends on the installation
    raise MissingExtra(error.name or "robosuite", "sim") from error
except ImportError as error:  # pragma: no cover - depends on the machine
    raise SimulatorError(
        f"robosuite does not load: {error}. It needs system libraries; install them with: "
        "apt-get install -y libglib2.0-0 libgl1"
    ) from error
except AttributeError as error:  # PyOpenGL looks into a library that it did not find
    raise SimulatorError(
        f"MuJoCo does not load with MUJOCO_GL={_BACKEND}: {error}. Even without pictures it "
        f"needs a working EGL or OSMesa; install one with: {INSTALL_HINT}"
    ) from error

from sims.memory_bench import robot  # noqa: E402
from sims.memory_bench.action import CONTROL_HZ  # noqa: E402
from sims.memory_bench.parts import (  # noqa: E402
    PARK_POS_M,
    TABLE_HALF_M,
    Part,
    phase_lamp,
)

CONTROLS = ("fast", "osc")
VISUALS = ("lite", "full")
TIMESTEP_S = {"fast": 0.005, "osc": 0.002}


def _look_at(pos: Sequence[float], target: Sequence[float], fovy_deg: float) -> str:
    """Returns MJCF camera attributes for a camera at `pos` that looks at `target`, z upward."""
    back = np.subtract(pos, target)
    back /= np.linalg.norm(back)
    up = np.array([0.0, 0.0, 1.0]) if abs(back[2]) < 0.999 else np.array([-1.0, 0.0, 0.0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    axes = (*right, *np.cross(back, right))
    numbers = " ".join(f"{v:.6f}" for v in axes)
    return f'pos="{pos[0]} {pos[1]} {pos[2]}" xyaxes="{numbers}" fovy="{fovy_deg}"'


CAMERAS: dict[str, str] = {
    "front": _look_at((0.72, 0.0, 1.48), (-0.01, 0.0, 0.88), 38),
    "left_shoulder": _look_at((-0.38, 0.60, 1.58), (-0.02, 0.0, 0.82), 48),
    "right_shoulder": _look_at((-0.38, -0.60, 1.58), (-0.02, 0.0, 0.82), 48),
    "overhead": _look_at((-0.01, 0.0, 1.80), (-0.01, 0.0, 0.8), 47),
}
"""Camera name -> MJCF attributes; ``wrist`` rides on the hand."""
CAMERA_NAMES = (*CAMERAS, "wrist")
_WRIST = 'pos="0.07 0 0" quat="0 0.707108 0.707108 0" fovy="80"'

_LIGHTS = (
    '<light name="key" pos="0.6 0.5 3" dir="-0.2 -0.15 -1" directional="true"'
    ' castshadow="{shadow}" diffuse="{bright} {bright} {bright}" specular="0.1 0.1 0.1"/>'
)
_MATERIALS = (
    '<material name="matte" specular="0.1" shininess="0.1" reflectance="0"/>',
    '<material name="glow" emission="0.7" specular="0" shininess="0" reflectance="0"/>',
)


class _World(ManipulationTask):
    """robosuite's model holder without its segmentation tables, whose geoms may be gone."""

    def generate_id_mappings(self, sim) -> None:
        """Does nothing: no segmentation sensor is used here."""


class Scene(ManipulationEnv):
    """An arm (the Panda), table, lamp and the parts of one task.

    Args:
      parts: What to add to the world; see :mod:`sims.memory_bench.parts`.
      control: ``"fast"`` or ``"osc"``.
      visuals: ``"lite"`` or ``"full"``.
      image_size: Largest picture side in pixels, for the offscreen buffer.
      arm: Name of one of ``robot.ARMS``.

    Attributes:
      m: The compiled ``mujoco.MjModel``.
      d: Its ``mujoco.MjData``.
      xml: The final MJCF text.
      mjcf_sha256: Hash of the MJCF, independent of where packages are installed.
    """

    def __init__(
        self,
        parts: Iterable[Part],
        *,
        control: str = "fast",
        visuals: str = "lite",
        image_size: int = 64,
        arm: str = robot.PANDA,
    ) -> None:
        for value, allowed, what in (
            (control, CONTROLS, "control"),
            (visuals, VISUALS, "visuals"),
        ):
            if value not in allowed:
                raise ConfigError(f"{what} must be one of {', '.join(allowed)}, got {value!r}")
        if arm not in robot.ARMS:
            raise unknown_name("arm", arm, robot.ARMS)
        if arm != robot.PANDA and control != "fast":
            raise ConfigError(f"control={control!r} drives the Panda alone; use 'fast' with {arm}")
        self.arm_name, self.arm = arm, robot.ARMS[arm]
        self.control, self.visuals, self.image_size = control, visuals, int(image_size)
        self.parts = (phase_lamp(), *parts)
        super().__init__(
            robots=self.arm.model,
            gripper_types="PandaGripper",
            use_camera_obs=False,
            has_renderer=False,
            has_offscreen_renderer=False,
            control_freq=CONTROL_HZ,
            hard_reset=False,
            initialization_noise=None,
            ignore_done=True,
            renderer="mujoco",
        )
        self.m: mujoco.MjModel = self.sim.model._model
        self.d: mujoco.MjData = self.sim.data._data
        self._bind()

    # -- building -------------------------------------------------------------------------

    def _load_model(self) -> None:
        super()._load_model()
        model = self.robots[0].robot_model
        model.set_base_xpos(model.base_xpos_offset["table"](2 * TABLE_HALF_M[0]))
        arena = TableArena(table_full_size=(2 * TABLE_HALF_M[0], 2 * TABLE_HALF_M[1], 0.05))
        arena.set_origin([0, 0, 0])
        self.model = _World(mujoco_arena=arena, mujoco_robots=[model])

    def edit_model_xml(self, xml_str: str) -> str:
        """Adds parts, cameras and lights and applies the chosen control and visuals."""
        root = ET.fromstring(super().edit_model_xml(xml_str))
        # Only then do free parts, drawn in group 1, get an inertia from their geoms.
        root.find("compiler").set("inertiagrouprange", "0 5")
        robot.remove_clutter(root)
        robot.add_hand_lamp(root)
        if self.control == "fast":
            robot.apply_fast_physics(root, TIMESTEP_S["fast"], self.arm)
        if self.visuals == "lite":
            robot.apply_lite_visuals(root, self.arm)
        self._add_looks(root)
        self._add_parts(root)
        self.xml = ET.tostring(root, encoding="unicode")
        portable = re.sub(r'file="[^"]*/([^"/]+)"', r'file="\1"', self.xml)
        self.mjcf_sha256 = hashlib.sha256(portable.encode()).hexdigest()
        return self.xml

    def _add_parts(self, root: ET.Element) -> None:
        world, contact = root.find("worldbody"), root.find("contact")
        for part in self.parts:
            for element in ET.fromstring(f"<all>{part.world}</all>"):
                world.append(element)
            for element in ET.fromstring(f"<all>{part.contact}</all>"):
                contact.append(element)

    def _add_looks(self, root: ET.Element) -> None:
        full = self.visuals == "full"
        world, asset = root.find("worldbody"), root.find("asset")
        for text in _MATERIALS:
            asset.append(ET.fromstring(text))
        for light in world.findall("light"):
            world.remove(light)
        # robosuite's table is white: half the light keeps it and the lamp below saturation.
        light = _LIGHTS.format(shadow=str(full).lower(), bright=0.3 if full else 0.45)
        world.append(ET.fromstring(light))
        for name, attributes in CAMERAS.items():
            world.append(ET.fromstring(f'<camera name="{name}" {attributes}/>'))
        for body in root.iter("body"):
            if body.get("name") == robot.HAND_CAMERA_BODY:
                body.append(ET.fromstring(f'<camera name="wrist" {_WRIST}/>'))
        visual = root.find("visual")
        for child in list(visual):
            visual.remove(child)
        side = max(self.image_size, 64)
        visual.append(ET.fromstring(f'<global offwidth="{side}" offheight="{side}"/>'))
        visual.append(ET.fromstring('<map znear="0.01" zfar="50"/>'))
        ambient, diffuse = (0.3, 0.2) if full else (0.45, 0.25)
        head = (
            f'<headlight ambient="{ambient} {ambient} {ambient}"'
            f' diffuse="{diffuse} {diffuse} {diffuse}" specular="0 0 0"/>'
        )
        visual.append(ET.fromstring(head))
        quality = (
            'shadowsize="2048" offsamples="4" numslices="28" numstacks="16" numquads="4"'
            if full
            else 'shadowsize="0" offsamples="0" numslices="12" numstacks="6" numquads="1"'
        )
        visual.append(ET.fromstring(f"<quality {quality}/>"))
        # A fixed extent keeps znear and zfar (which MuJoCo scales by it) in metres.
        root.append(ET.fromstring('<statistic extent="1" center="0 0 0.8"/>'))

    def _bind(self) -> None:
        m = self.m
        arm = [m.joint(name).id for name in self.arm.joints]
        fingers = [m.joint(name).id for name in robot.FINGER_JOINTS]
        self.arm_qpos = np.array([m.jnt_qposadr[j] for j in arm])
        self.arm_dof = np.array([m.jnt_dofadr[j] for j in arm])
        self.finger_qpos = np.array([m.jnt_qposadr[j] for j in fingers])
        self.grip_site = m.site(robot.GRIP_SITE).id
        self._lamp_geoms = [m.geom("lamp_bulb").id, m.geom(robot.HAND_LAMP_GEOM).id]
        self.body_id = {p.name: m.body(p.name).id for p in self.parts}
        self.kind = {p.name: p.kind for p in self.parts}
        self._mocap = {n: int(m.body_mocapid[b]) for n, b in self.body_id.items()}
        robot_bodies = [
            b
            for b in range(m.nbody)
            if m.body(b).name.startswith("gripper0_right_") or m.body(b).name == self.arm.hand_link
        ]
        self.is_hand_geom = np.isin(m.geom_bodyid, robot_bodies)
        self.present = {p.name: p.kind == "fixed" for p in self.parts}
        self._paint_default = m.geom_rgba.copy()
        self._gravcomp_default = m.body_gravcomp.copy()
        self._state_size = mujoco.mj_stateSize(m, mujoco.mjtState.mjSTATE_INTEGRATION)

    # -- one episode ----------------------------------------------------------------------

    def clear(self) -> None:
        """Empties the table: everything parked, unpainted, at rest; simulator time zero."""
        mujoco.mj_resetData(self.m, self.d)
        self.m.geom_rgba[:] = self._paint_default
        self.m.body_gravcomp[:] = self._gravcomp_default
        for name, kind in self.kind.items():
            self.present[name] = kind == "fixed"

    def set_arm(self, qpos_rad: np.ndarray, opening: float = 1.0) -> None:
        """Puts the arm's joints and the fingers (`opening` 0..1), at rest."""
        self.d.qpos[self.arm_qpos] = qpos_rad
        finger = robot.FINGER_OPEN_M * opening
        self.d.qpos[self.finger_qpos] = (finger, -finger)

    def place(self, name: str, pos_world_m: Sequence[float], yaw_rad: float = 0.0) -> None:
        """Puts a movable part at a pose, at rest, upright, turned by `yaw_rad` about z."""
        quat = (np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2))
        self._set_pose(name, pos_world_m, quat)
        if self.kind[name] == "free":
            self.m.body_gravcomp[self.body_id[name]] = 0.0
        self.present[name] = True

    def park(self, name: str) -> None:
        """Takes a movable part out of the scene, beyond every camera, and unpaints it."""
        self._set_pose(name, PARK_POS_M, (1.0, 0.0, 0.0, 0.0))
        body = self.body_id[name]
        self.m.body_gravcomp[body] = self._gravcomp_default[body]
        self.present[name] = False
        first = self.m.body_geomadr[body]
        geoms = slice(first, first + self.m.body_geomnum[body])
        self.m.geom_rgba[geoms] = self._paint_default[geoms]

    def _set_pose(self, name: str, pos: Sequence[float], quat_wxyz: Sequence[float]) -> None:
        mocap = self._mocap[name]
        if mocap >= 0:
            self.d.mocap_pos[mocap] = pos
            self.d.mocap_quat[mocap] = quat_wxyz
            return
        joint = self.m.joint(f"{name}_joint")
        start, dof = int(joint.qposadr[0]), int(joint.dofadr[0])
        self.d.qpos[start : start + 3] = pos
        self.d.qpos[start + 3 : start + 7] = quat_wxyz
        self.d.qvel[dof : dof + 6] = 0.0

    def paint(self, name: str, rgb: Sequence[float], geom: str | None = None) -> None:
        """Colours the geom ``<name>_geom`` (or `geom`) of a part; channels 0..1."""
        self.m.geom_rgba[self.m.geom(geom or f"{name}_geom").id, :3] = rgb

    def set_lamp(self, rgb: Sequence[float]) -> None:
        """Colours the phase lamp and its small twin on the hand; channels 0..1."""
        self.m.geom_rgba[self._lamp_geoms, :3] = rgb

    def lamp_rgb(self) -> np.ndarray:
        """Returns the lamp's colour [3]."""
        return self.m.geom_rgba[self._lamp_geoms[0], :3].copy()

    def pos(self, name: str) -> np.ndarray:
        """Returns the world position [3] of a part's root body, in metres."""
        return self.d.xpos[self.body_id[name]].copy()

    def quat(self, name: str) -> np.ndarray:
        """Returns the world orientation [4] wxyz of a part's root body."""
        return self.d.xquat[self.body_id[name]].copy()

    def get_joint(self, joint_name: str) -> float:
        """Returns the position of a hinge or slide joint, in rad or m."""
        return float(self.d.qpos[int(self.m.joint(joint_name).qposadr[0])])

    def set_joint(self, joint_name: str, value: float) -> None:
        """Puts a hinge or slide joint at `value` (rad or m), at rest."""
        joint = self.m.joint(joint_name)
        self.d.qpos[int(joint.qposadr[0])] = value
        self.d.qvel[int(joint.dofadr[0])] = 0.0

    def eef_pos(self) -> np.ndarray:
        """Returns the grip point's world position [3], in metres."""
        return self.d.site_xpos[self.grip_site].copy()

    def eef_quat(self) -> np.ndarray:
        """Returns the grip frame's world orientation [4] wxyz."""
        quat = np.empty(4)
        mujoco.mju_mat2Quat(quat, self.d.site_xmat[self.grip_site])
        return quat

    def gripper_opening(self) -> float:
        """Returns the fingers' opening, 0 closed to 1 open."""
        left, right = self.d.qpos[self.finger_qpos]
        return float(min(max((left - right) / (2 * robot.FINGER_OPEN_M), 0.0), 1.0))

    def forward(self) -> None:
        """Brings positions of bodies, sites, cameras and lights up to date after a step."""
        mujoco.mj_kinematics(self.m, self.d)
        mujoco.mj_comPos(self.m, self.d)
        mujoco.mj_camlight(self.m, self.d)

    def settle(self) -> None:
        """Computes everything that follows from freshly put positions (after a snap)."""
        mujoco.mj_forward(self.m, self.d)

    def touched_bodies(self) -> set[int]:
        """Returns ids of the bodies the hand or fingers touched at the tick's last step."""
        if not self.d.ncon:
            return set()
        pairs = self.d.contact.geom
        left, right = pairs[:, 0], pairs[:, 1]
        of_left, of_right = self.is_hand_geom[left], self.is_hand_geom[right]
        others = np.concatenate((right[of_left & ~of_right], left[of_right & ~of_left]))
        return set(self.m.geom_bodyid[others].tolist())

    # -- saving ---------------------------------------------------------------------------

    def save(self) -> dict[str, np.ndarray]:
        """Returns everything of the scene that a later step or picture depends on."""
        state = np.empty(self._state_size)
        mujoco.mj_getState(self.m, self.d, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return {
            "mujoco_integration": state,
            "scene_rgba": self.m.geom_rgba.copy(),
            "scene_gravcomp": self.m.body_gravcomp.copy(),
            "scene_present": np.array(list(self.present.values()), bool),
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Puts back what `save` of an equal scene returned, bit for bit."""
        vector = np.ascontiguousarray(state["mujoco_integration"], np.float64)
        mujoco.mj_setState(self.m, self.d, vector, mujoco.mjtState.mjSTATE_INTEGRATION)
        self.m.geom_rgba[:] = state["scene_rgba"]
        self.m.body_gravcomp[:] = state["scene_gravcomp"]
        for name, present in zip(self.present, state["scene_present"], strict=True):
            self.present[name] = bool(present)
        self.forward()
