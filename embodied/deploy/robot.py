"""What a robot offers and allows, as data: a JSON file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError, SpecMismatch, unknown_name
from embodied.core.options import fill_options
from embodied.core.specs import (
    EE_DELTA_CHUNK,
    KEYFRAME,
    ArraySpec,
    PolicySpec,
    check_observations,
)
from embodied.evaluate.executors.keyframe import READS

HOLD, SKIP, BLEND, STOP = "hold", "skip", "blend", "stop"
LATE_RULES = (HOLD, SKIP, BLEND, STOP)
HAND, JOINTS = "eef_pos_world_m", "joint_pos_rad"
DRIVEN_BY = dict(zip(READS, ((3,), (4,), (1,)), strict=True))
"""What a hand is driven to keyframes by -> its shape."""
REQUIRED = ("name", "control_hz", "observations", "workspace_low_m", "workspace_high_m")
"""What a description must say: nobody's limits but the robot's own are safe to assume."""


@dataclasses.dataclass
class RobotConfig:
    """A robot, its limits, and what happens when something is late.

    Attributes:
      name: For messages and logs.
      control_hz: Rate at which it takes actions.
      action_kind: What it takes: ``"ee_delta_chunk"``, seven numbers a control tick: displacement
        and rotation vector of the hand, and the gripper. Policies that answer keyframes are
        driven by such actions too.
      observations: Key -> shape, dtype and unit of what it sends, as in a bundle's manifest.
      rename: Policy's key -> the robot's, where they differ.
      joints: Names of the arm's joints, in the order of its ``joint_pos_rad``; none where it does
        not send them.
      joint_low_rad: Least angle of each; beyond it the arm stops.
      joint_high_rad: Greatest angle of each.
      home_rad: Joints at which an episode begins; none to begin anywhere.
      home_within_rad: A joint may be so far from home. Until all are, the arm stands still and
        memory begins no episode.
      base_pos_world_m: Where the frame in which the robot tells poses (its hand's, its cameras')
        lies in the policy's world.
      base_quat_xyzw: How that frame is turned in the policy's world.
      hand_quat_tool_xyzw: How the policy's hand is turned in the frame of the robot's tool.
      gripper_reading: What ``gripper_opening`` reads closed, and open.
      gripper_command: What the gripper's element of an action means: open, and close. Halfway
        between them, as where the arm stands, the gripper is left as it is.
      pos_per_unit_m: Displacement that an action element of 1 asks for, in metres.
      rot_per_unit_rad: Rotation that an action element of 1 asks for, in radians.
      most_speed_m_s: Fastest the hand is sent.
      most_turn_rad_s: Fastest the hand is turned.
      workspace_low_m: Least x, y, z in the world that the hand is sent to.
      workspace_high_m: Greatest x, y, z.
      stale_s: Frames that are older never enter memory, and nothing is decided from them.
      watchdog_s: After so long without a fresh frame, or with an answer so late, the arm stops.
      wait_s: How long a control tick waits for an answer to what it asked; less than a period.
      late: What the arm does at an answer that comes after its first action was due: ``"hold"``
        until it is there and then all of it, ``"skip"`` the actions whose ticks are over,
        ``"blend"`` the others with the last motion, or ``"stop"``.
      black_level: A picture whose brightest channel nowhere exceeds this is no picture.
      frozen_m: A picture that is the same, number by number, after the hand has moved this far is
        of a camera that hangs; 0 where pictures without noise may be so.
    """

    name: str = ""
    control_hz: float = 20.0
    observations: dict[str, Any] = dataclasses.field(default_factory=dict)
    action_kind: str = EE_DELTA_CHUNK
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
    joints: list[str] = dataclasses.field(default_factory=list)
    joint_low_rad: list[float] = dataclasses.field(default_factory=list)
    joint_high_rad: list[float] = dataclasses.field(default_factory=list)
    home_rad: list[float] = dataclasses.field(default_factory=list)
    home_within_rad: float = 0.1
    base_pos_world_m: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    base_quat_xyzw: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0, 1.0])
    hand_quat_tool_xyzw: list[float] = dataclasses.field(
        default_factory=lambda: [0.0, 0.0, 0.0, 1.0]
    )
    gripper_reading: list[float] = dataclasses.field(default_factory=lambda: [0.0, 1.0])
    gripper_command: list[float] = dataclasses.field(default_factory=lambda: [-1.0, 1.0])
    pos_per_unit_m: float = 0.05
    rot_per_unit_rad: float = 0.5
    most_speed_m_s: float = 1.0
    most_turn_rad_s: float = 3.0
    workspace_low_m: list[float] = dataclasses.field(default_factory=lambda: [-0.3, -0.42, 0.8])
    workspace_high_m: list[float] = dataclasses.field(default_factory=lambda: [0.32, 0.42, 1.3])
    stale_s: float = 0.3
    watchdog_s: float = 1.0
    wait_s: float = 0.035
    late: str = SKIP
    black_level: int = 4
    frozen_m: float = 0.0

    def __post_init__(self) -> None:
        if self.late not in LATE_RULES:
            raise unknown_name("late", self.late, LATE_RULES)
        for name in ("control_hz", "pos_per_unit_m", "rot_per_unit_rad", "most_speed_m_s",
                     "most_turn_rad_s", "stale_s", "watchdog_s", "home_within_rad"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.name}: {name} must be > 0, got {getattr(self, name)}")
        self._check_lists()
        low, high = self.workspace_low_m, self.workspace_high_m
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ConfigError(
                f"{self.name}: workspace_low_m must be less than workspace_high_m, got {low} and "
                f"{high}"
            )
        if not 0 <= self.wait_s < 1 / self.control_hz:
            raise ConfigError(
                f"{self.name}: wait_s must be within 0 and a control period "
                f"({1 / self.control_hz:g} s), got {self.wait_s}"
            )
        if self.watchdog_s < self.stale_s:
            raise ConfigError(
                f"{self.name}: watchdog_s={self.watchdog_s} is less than stale_s={self.stale_s}; "
                "a frame must go stale before the arm stops for want of one"
            )

    def _check_lists(self) -> None:
        joints = len(self.joints)
        lengths = dict.fromkeys(("workspace_low_m", "workspace_high_m", "base_pos_world_m"), 3)
        lengths |= {"base_quat_xyzw": 4, "hand_quat_tool_xyzw": 4}
        lengths |= {"gripper_reading": 2, "gripper_command": 2}
        lengths |= {"joint_low_rad": joints, "joint_high_rad": joints}
        lengths["home_rad"] = joints if self.home_rad else 0
        for name, length in lengths.items():
            value = getattr(self, name)
            if len(value) != length or not all(_is_number(v) for v in value):
                raise ConfigError(
                    f"{self.name}: {name} must be a list of {length} numbers, got {value}"
                )
        for name in ("base_quat_xyzw", "hand_quat_tool_xyzw"):
            size = math.hypot(*getattr(self, name))
            if abs(size - 1) > 1e-3:
                raise ConfigError(f"{self.name}: {name} must be of length 1, is {size:g}")
        for name in ("gripper_reading", "gripper_command"):
            if getattr(self, name)[0] == getattr(self, name)[1]:
                raise ConfigError(f"{self.name}: {name} reads the same open and closed")
        home = self.home_rad or self.joint_low_rad
        limits = zip(self.joints, self.joint_low_rad, home, self.joint_high_rad, strict=True)
        for joint, low, at, high in limits:
            if not low <= at <= high or low == high:
                raise ConfigError(
                    f"{self.name}: {joint} needs joint_low_rad <= home_rad <= joint_high_rad, got "
                    f"{low}, {at} and {high}"
                )

    def specs(self) -> dict[str, ArraySpec]:
        """Returns key -> spec of what the robot sends.

        Raises:
          ConfigError: Naming a key whose description is none.
        """
        found = {}
        for key, entry in self.observations.items():
            try:
                found[key] = ArraySpec(**entry)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{self.name}: observation {key!r} needs shape, dtype and maybe unit ({error})"
                ) from error
        return found

    def pose(self, spec: PolicySpec) -> dict[str, ArraySpec]:
        """Returns what each frame must tell before an arm moves by it: policy's key -> spec.

        Args:
          spec: Of a policy that fits; see `check`.
        """
        keys = DRIVEN_BY if spec.action.kind == KEYFRAME else [HAND]
        offered = self._offered()
        return {key: offered[key] for key in (*keys, *([JOINTS] if self.joints else []))}

    def _offered(self) -> dict[str, ArraySpec]:
        """Returns key -> spec of what the robot sends, by its own names and the policy's."""
        offered = self.specs()
        for key, other in self.rename.items():
            if other not in offered:
                raise SpecMismatch(f"{self.name}: rename names {other!r}, which it does not send")
            offered[key] = offered[other]
        return offered

    def check(self, spec: PolicySpec, source: str) -> None:
        """Refuses a policy that this robot can't serve.

        Args:
          spec: The policy's.
          source: Where it comes from, for the message.

        Raises:
          SpecMismatch: Naming rate, action, key or unit, with both sides.
        """
        if spec.control_hz != self.control_hz:
            raise SpecMismatch(
                f"{source} acts at {spec.control_hz:g} Hz, and {self.name} at {self.control_hz:g}; "
                "use a policy trained for this rate, or run the robot at the policy's"
            )
        if spec.action.kind not in (self.action_kind, KEYFRAME):
            raise SpecMismatch(
                f"{source} answers {spec.action.kind!r}, and {self.name} takes "
                f"{self.action_kind!r}; choose a robot description for such actions"
            )
        offered = self._offered()
        if offered.get(HAND) is None or offered[HAND].shape != (3,):
            raise SpecMismatch(
                f"{self.name} must send its hand's position {HAND}, float32[3]: the workspace is "
                "kept by it"
            )
        for key, shape in DRIVEN_BY.items() if spec.action.kind == KEYFRAME else ():
            if key not in offered or offered[key].shape != shape:
                raise SpecMismatch(
                    f"{source} answers {KEYFRAME!r}, and {self.name} must send {key} of shape "
                    f"{list(shape)}: the hand is driven there by {', '.join(DRIVEN_BY)}"
                )
        self._check_joints(spec, offered, source)
        check_observations(spec.observations, offered, needs=source, gives=self.name)
        for key, needed in spec.observations.items():
            unit, wanted = offered[key].unit, needed.unit or _unit_of(key)
            if wanted and unit and wanted != unit:
                raise SpecMismatch(
                    f"{key}: {source} reads it in {wanted}, and {self.name} sends {unit}"
                )

    def _check_joints(
        self, spec: PolicySpec, offered: Mapping[str, ArraySpec], source: str
    ) -> None:
        """Refuses joints that are not the policy's, or not as many as are described."""
        needed, sent = spec.observations.get(JOINTS), offered.get(JOINTS)
        if sent is None and self.joints:
            raise SpecMismatch(
                f"{self.name} describes joints, and does not send {JOINTS}: their limits are kept "
                "by it; send it, or describe none"
            )
        if sent is not None and self.joints and sent.shape != (len(self.joints),):
            raise SpecMismatch(
                f"{self.name} sends {JOINTS} of shape {list(sent.shape)}, and describes "
                f"{len(self.joints)} joints: {', '.join(self.joints)}"
            )
        if needed is not None and sent is not None and needed.shape != sent.shape:
            raise SpecMismatch(
                f"{source} reads {needed.shape[0]} joint angles, and {self.name} has "
                f"{sent.shape[0]}: a policy that reads {JOINTS} moves to another arm only where "
                "the joints are the same; train one that reads the hand's pose instead"
            )


def read_robot(source: str | Path) -> RobotConfig:
    """Reads a robot's description.

    Args:
      source: A JSON file, or the name of one that comes with the package: ``"panda_simulated"``.

    Raises:
      ConfigError: If it is missing, no JSON, or holds an unknown or wrong field.
    """
    path = Path(source)
    own = Path(__file__).with_name("robots")
    if not path.suffix and not path.exists():
        path = own / f"{source}.json"
        if not path.exists():
            raise unknown_name("robot", str(source), [file.stem for file in own.glob("*.json")])
    try:
        fields = json.loads(path.read_text(), object_pairs_hook=_once)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{path} must hold a map of fields, got {type(fields).__name__}")
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}; a robot's description must say at least "
            f"{', '.join(REQUIRED)}"
        )
    fields = {name: value for name, value in fields.items() if not name.startswith("about")}
    found: RobotConfig = fill_options(RobotConfig, fields, f"robot {path.name}", "robot")
    if not found.name or not found.observations:
        raise ConfigError(f"{path}: a robot needs a name and the observations that it sends")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; refuses a field that is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"{', '.join(twice)} given twice")
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unit_of(key: str) -> str:
    """Returns the unit that a key's name says, for specs that leave it out."""
    return next((unit for unit in ("m", "rad") if key.endswith(f"_{unit}")), "")
