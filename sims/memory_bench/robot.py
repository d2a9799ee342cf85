"""The arms for fast simulation and cheap pictures: edits robosuite's MJCF before compiling.

``lite`` pictures cost by the vertex, so every detailed mesh is replaced by robosuite's own
collision mesh of 200 to 300 faces; link 1, whose collision mesh has 12,516 faces, comes
decimated to 300 from this package's assets (see assets/NOTICE).
"""

from __future__ import annotations

import dataclasses
import pathlib
import xml.etree.ElementTree as ET

ASSETS = pathlib.Path(__file__).parent / "assets"

FINGER_JOINTS = ("gripper0_right_finger_joint1", "gripper0_right_finger_joint2")
GRIP_SITE = "gripper0_right_grip_site"
HAND_BODY = "gripper0_right_right_gripper"
HAND_CAMERA_BODY = "robot0_right_hand"
HAND_LAMP_GEOM = "hand_lamp_bulb"

FINGER_OPEN_M = 0.04
"""Travel of one finger from closed to open."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """An arm of robosuite, with the Panda's hand.

    Attributes:
      model: robosuite's name.
      joints: Joint names in the model.
      home_qpos_rad: Joints of the nominal home pose: hand over the table's centre, pointing down.
      armature: Rotor inertias of the fast controller's servos.
      kp: Their stiffness.
      kv: Their damping.
      force_nm: Their torque limits.
      links: Body and collision mesh of each link, for ``lite`` pictures.
      touching: Words in the names of the arm's geoms that touch the world.
      hand_link: The body that carries the hand and counts as part of it.
      most_joint_rad: Bound of all joints' positions, as observations state it.
    """

    model: str
    joints: tuple[str, ...]
    home_qpos_rad: tuple[float, ...]
    armature: tuple[float, ...]
    kp: tuple[float, ...]
    kv: tuple[float, ...]
    force_nm: tuple[float, ...]
    links: tuple[tuple[str, str], ...]
    touching: tuple[str, ...]
    hand_link: str
    most_joint_rad: float


_UR5E = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
_UR5E_LINKS = {
    "fixed_base_link": "base", "shoulder_link": "shoulder", "upper_arm_link": "upperarm",
    "forearm_link": "forearm", "wrist_1_link": "wrist1", "wrist_2_link": "wrist2",
    "wrist_3_link": "wrist3",
}  # fmt: skip

ARMS = {
    # The Panda's rotor inertias are lower than robosuite's (5.0 .. 0.7), so that stiff position
    # servos stay stable at 5 ms steps within its torque limits.
    "panda": Arm(
        model="Panda",
        joints=tuple(f"robot0_joint{i}" for i in range(1, 8)),
        home_qpos_rad=(0.0, 0.0183, 0.0, -2.7894, 0.0, 2.8076, 0.7854),
        armature=(0.6, 0.6, 0.5, 0.5, 0.2, 0.2, 0.2),
        kp=(4000.0, 4000.0, 3500.0, 3500.0, 1200.0, 1200.0, 1000.0),
        kv=(160.0, 160.0, 130.0, 120.0, 40.0, 40.0, 30.0),
        force_nm=(60.0, 60.0, 60.0, 60.0, 12.0, 12.0, 12.0),
        links=tuple(
            (f"robot0_link{i}", "link1_lowpoly" if i == 1 else f"robot0_link{i}") for i in range(8)
        ),
        touching=("link6", "link7"),
        hand_link="robot0_link7",
        most_joint_rad=4.0,
    ),
    "ur5e": Arm(
        model="UR5e",
        joints=tuple(f"robot0_{name}_joint" for name in _UR5E),
        home_qpos_rad=(-0.3603, -1.6036, 2.4161, -2.3833, -1.5708, -1.9311),
        armature=(0.6, 0.6, 0.5, 0.2, 0.2, 0.2),
        kp=(6000.0, 6000.0, 5000.0, 1200.0, 1200.0, 1000.0),
        kv=(240.0, 240.0, 180.0, 40.0, 40.0, 30.0),
        force_nm=(150.0, 150.0, 150.0, 28.0, 28.0, 28.0),
        links=tuple((f"robot0_{body}", f"robot0_{mesh}") for body, mesh in _UR5E_LINKS.items()),
        touching=("wrist2_col", "wrist3_col"),
        hand_link="robot0_wrist_3_link",
        most_joint_rad=7.0,  # its joints turn once round either way
    ),
}
"""Name -> arm. Tasks, certificates and published results are the Panda's."""
PANDA = "panda"

_LIGHT_GREY, _DARK_GREY = "0.86 0.88 0.90 1", "0.22 0.22 0.24 1"


def _walk_parents(root: ET.Element):
    for parent in root.iter():
        for child in list(parent):
            yield parent, child


def _find(root: ET.Element, tag: str, name: str) -> ET.Element:
    for element in root.iter(tag):
        if element.get("name") == name:
            return element
    raise KeyError(f"robosuite's model has no <{tag} name={name!r}>; is its version supported?")


def remove_clutter(root: ET.Element) -> None:
    """Removes robosuite's viewer helpers that would cost time or show in pictures."""
    for parent, child in _walk_parents(root):
        name = child.get("name", "")
        target = child.tag == "body" and name in ("left_eef_target", "right_eef_target")
        if target or child.tag == "camera":
            parent.remove(child)
        elif child.tag == "site":
            child.set("group", "5")


def add_hand_lamp(root: ET.Element) -> None:
    """Adds the small bulb on the hand that mirrors the phase lamp for the wrist camera."""
    hand = _find(root, "body", HAND_CAMERA_BODY)
    ET.SubElement(
        hand,
        "geom",
        name=HAND_LAMP_GEOM,
        type="sphere",
        size="0.007",
        pos="0.038 0 0.055",
        material="glow",
        rgba="1 1 1 1",
        group="1",
        contype="0",
        conaffinity="0",
        mass="0",
    )


def apply_fast_physics(root: ET.Element, timestep_s: float, arm: Arm) -> None:
    """Position servos, gravity compensation, few contacts: the model of ``control="fast"``."""
    option = root.find("option")
    option.set("timestep", f"{timestep_s:g}")
    option.set("integrator", "implicitfast")
    option.set("iterations", "20")
    option.set("ls_iterations", "10")
    option.set("impratio", "10")
    option.set("cone", "pyramidal")  # elliptic cones (robosuite's) at 5 ms squeeze blocks out
    actuators = root.find("actuator")
    for motor in list(actuators):
        if motor.tag == "motor":
            actuators.remove(motor)
    for index, joint_name in enumerate(arm.joints):
        joint = _find(root, "joint", joint_name)
        joint.set("armature", f"{arm.armature[index]:g}")
        joint.set("frictionloss", "0")
        joint.set("damping", "1")
        servo = ET.Element(
            "position",
            name=f"robot0_torq_j{index + 1}",  # the name robosuite looks up
            joint=joint_name,
            kp=f"{arm.kp[index]:g}",
            kv=f"{arm.kv[index]:g}",
            ctrllimited="true",
            ctrlrange=joint.get("range"),
            forcelimited="true",
            forcerange=f"{-arm.force_nm[index]:g} {arm.force_nm[index]:g}",
        )
        actuators.insert(index, servo)  # the arm's controls come before the fingers'
    for joint_name in FINGER_JOINTS:
        joint = _find(root, "joint", joint_name)
        joint.set("frictionloss", "0")
    for body in root.iter("body"):
        name = body.get("name", "")
        if name.startswith(("robot0_", "gripper0_")):
            body.set("gravcomp", "1")
    _simplify_collisions(root, arm)


def _simplify_collisions(root: ET.Element, arm: Arm) -> None:
    """Keeps contacts of the wrist, hand and fingers with the world; no self-collision."""
    keep = (*arm.touching, "hand", "finger", "pad")
    for parent, geom in _walk_parents(root):
        if geom.tag != "geom" or (geom.get("contype") == "0" and geom.get("conaffinity") == "0"):
            continue
        name = geom.get("name", "")
        if name.startswith("fixed_mount0_") or name == "floor":
            geom.set("contype", "0")
            geom.set("conaffinity", "0")
        elif name.startswith(("robot0_", "gripper0_")):
            if not any(word in name for word in keep):
                parent.remove(geom)
                continue
            geom.set("contype", "0")
            geom.set("conaffinity", "1")


def apply_lite_visuals(root: ET.Element, arm: Arm) -> None:
    """Replaces every detailed mesh and texture: about 2,500 faces for the whole Panda scene."""
    asset = root.find("asset")
    link1 = ET.SubElement(asset, "mesh", name="link1_lowpoly")
    link1.set("file", str(ASSETS / "panda_link1_lowpoly.stl"))
    for parent, geom in _walk_parents(root):
        if geom.tag != "geom":
            continue
        name = geom.get("name", "")
        visual = geom.get("group") == "1" and geom.get("contype") == "0"
        robot = name.startswith(("robot0_", "gripper0_", "fixed_mount0_"))
        if visual and (robot or name.startswith(("wall_", "table_"))) and name != HAND_LAMP_GEOM:
            parent.remove(geom)
    for name, mesh in arm.links:
        _visual_mesh(_find(root, "body", name), f"{name}_lite", mesh, _LIGHT_GREY)
    hand = _find(root, "body", HAND_BODY)
    _visual_mesh(
        hand, "hand_lite", "gripper0_right_hand", _LIGHT_GREY, quat="0.707107 0 0 0.707107"
    )
    for side, quat in (("left", "1 0 0 0"), ("right", "0 0 0 1")):
        finger = _find(root, "body", f"gripper0_right_{side}finger")
        _visual_mesh(finger, f"{side}_finger_lite", "gripper0_right_finger", _DARK_GREY, quat=quat)
    mount = _find(root, "body", "fixed_mount0_pedestal")
    _visual(mount, "pedestal_lite", "box", "0.12 0.12 0.45", "0.50 0.51 0.53 1", pos="0 0 -0.46")
    table = _find(root, "body", "table")
    size = _find(root, "geom", "table_collision").get("size")
    _visual(table, "table_lite", "box", size, "0.62 0.62 0.60 1")
    floor = _find(root, "geom", "floor")
    floor.attrib.pop("material", None)
    floor.set("rgba", "0.33 0.35 0.38 1")
    floor.set("size", "3 3 3")  # the third number is the grid's spacing: one quad, not 2,304
    _drop_unused_assets(root)


def _visual(body: ET.Element, name: str, kind: str, size: str, rgba: str, **extra: str) -> None:
    ET.SubElement(
        body,
        "geom",
        name=name,
        type=kind,
        size=size,
        rgba=rgba,
        group="1",
        contype="0",
        conaffinity="0",
        mass="0",
        **extra,
    )


def _visual_mesh(body: ET.Element, name: str, mesh: str, rgba: str, **extra: str) -> None:
    ET.SubElement(
        body,
        "geom",
        name=name,
        type="mesh",
        mesh=mesh,
        rgba=rgba,
        group="1",
        contype="0",
        conaffinity="0",
        mass="0",
        **extra,
    )


def _drop_unused_assets(root: ET.Element) -> None:
    used_meshes = {geom.get("mesh") for geom in root.iter("geom")}
    used_materials = {geom.get("material") for geom in root.iter("geom")}
    asset = root.find("asset")
    for element in list(asset):
        name = element.get("name")
        if (
            (element.tag == "mesh" and name not in used_meshes)
            or (element.tag == "material" and name not in used_materials)
            or element.tag == "texture"
        ):
            asset.remove(element)
