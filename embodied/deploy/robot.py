"""What a robot offers and allows, as data: a JSON file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embodied.core.errors import ConfigError, SpecMismatch, unknown_name
from embodied.core.options import fill_options
from embodied.core.specs import EE_DELTA_CHUNK, ArraySpec, PolicySpec, check_observations

HOLD, SKIP, STOP = "hold", "skip", "stop"
LATE_RULES = (HOLD, SKIP, STOP)


@dataclasses.dataclass
class RobotConfig:
    """A robot, its limits, and what happens when something is late.

    Attributes:
      name: For messages and logs.
      control_hz: Rate at which it takes actions.
      action_kind: What it takes: ``"ee_delta_chunk"``, seven numbers a control tick.
      observations: Key -> shape, dtype and unit of what it sends, as in a bundle's manifest.
      rename: Policy's key -> the robot's, where they differ.
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
        until it is there and then all of it, ``"skip"`` the actions whose ticks are over, or
        ``"stop"``.
      black_level: A picture whose brightest channel nowhere exceeds this is no picture.
    """

    name: str = ""
    control_hz: float = 20.0
    observations: dict[str, Any] = dataclasses.field(default_factory=dict)
    action_kind: str = EE_DELTA_CHUNK
    rename: dict[str, str] = dataclasses.field(default_factory=dict)
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

    def __post_init__(self) -> None:
        if self.late not in LATE_RULES:
            raise unknown_name("late", self.late, LATE_RULES)
        for name in ("control_hz", "pos_per_unit_m", "rot_per_unit_rad", "most_speed_m_s",
                     "most_turn_rad_s", "stale_s", "watchdog_s"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.name}: {name} must be > 0, got {getattr(self, name)}")
        low, high = self.workspace_low_m, self.workspace_high_m
        if (
            len(low) != 3
            or len(high) != 3
            or not all(a < b for a, b in zip(low, high, strict=True))
        ):
            raise ConfigError(
                f"{self.name}: workspace_low_m must be three numbers less than those of "
                f"workspace_high_m, got {low} and {high}"
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
        if spec.action.kind != self.action_kind:
            raise SpecMismatch(
                f"{source} answers {spec.action.kind!r}, and {self.name} takes "
                f"{self.action_kind!r}; choose a robot description for such actions"
            )
        offered = self.specs()
        for key, other in self.rename.items():
            if other not in offered:
                raise SpecMismatch(f"{self.name}: rename names {other!r}, which it does not send")
            offered[key] = offered[other]
        check_observations(spec.observations, offered, needs=source, gives=self.name)
        for key, needed in spec.observations.items():
            unit = offered[key].unit
            if needed.unit and unit and needed.unit != unit:
                raise SpecMismatch(
                    f"{key}: {source} reads it in {needed.unit}, and {self.name} sends {unit}"
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
        fields = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{path} must hold a map of fields, got {type(fields).__name__}")
    found: RobotConfig = fill_options(RobotConfig, fields, f"robot {path.name}", "robot")
    if not found.name or not found.observations:
        raise ConfigError(f"{path}: a robot needs a name and the observations that it sends")
    return found
