"""Which executor and how it moves. Plain data; imports no torch."""

from __future__ import annotations

import dataclasses

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.specs import DISCRETE, KEYFRAME

PREFIX, ENSEMBLE = "prefix", "ensemble"
EXECUTORS = (PREFIX, ENSEMBLE, KEYFRAME, DISCRETE)
GRIPPERS = ("binary", "continuous")

_MAY_BE_ZERO = ("final_m", "clearance_m")


@dataclasses.dataclass
class KeyframeConfig:
    """How a hand is driven to keyframes. The defaults are the simulated robot's.

    Attributes:
      pos_per_unit_m: Displacement that an action element of 1 asks for, in metres.
      rot_per_unit_rad: Rotation that an action element of 1 asks for, in radians.
      workspace_low_m: Least x, y, z in the world that a hand is sent to; positions beyond the
        workspace are clipped to it.
      workspace_high_m: Greatest x, y, z that a hand is sent to.
      speed_m_s: Speed on the way, where the robot can move so fast.
      final_speed_m_s: Speed within `final_m` of the end, so that nothing there is knocked over.
      final_m: Distance from the end within which the hand is slow.
      turn_rad_s: Speed of turning; no more than the wrist can follow.
      clearance_m: A lifted path crosses so high above its higher end.
      reach_m: A pose is reached within this distance, once the hand rests.
      reach_rad: And within this angle.
      near_m: A hand that something holds within this distance of its pose has arrived by contact.
      rest_m_s: A hand that is slower rests.
      rest_rad_s: And that turns slower than this.
      settle_ticks: Control ticks of rest that make a pose reached, and fingers settled.
      stall_ticks: Control ticks of rest off the pose after which something holds the hand.
      grip_s: Longest time that fingers are given to start moving.
      limit_s: Longest time for one keyframe.
    """

    pos_per_unit_m: float = 0.05
    rot_per_unit_rad: float = 0.5
    workspace_low_m: tuple[float, float, float] = (-0.30, -0.42, 0.812)
    workspace_high_m: tuple[float, float, float] = (0.32, 0.42, 1.25)
    speed_m_s: float = 0.45
    final_speed_m_s: float = 0.25
    final_m: float = 0.05
    turn_rad_s: float = 1.0
    clearance_m: float = 0.08
    reach_m: float = 0.005
    reach_rad: float = 0.05
    near_m: float = 0.025
    rest_m_s: float = 0.03
    rest_rad_s: float = 0.2
    settle_ticks: int = 2
    stall_ticks: int = 8
    grip_s: float = 0.75
    limit_s: float = 6.0

    def __post_init__(self) -> None:
        low, high = self.workspace_low_m, self.workspace_high_m
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise ConfigError(
                "workspace_low_m: expected less than workspace_high_m on each axis, got "
                f"{low} and {high}"
            )
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, tuple):
                continue
            if not (value > 0 or (value == 0 and name in _MAY_BE_ZERO)):
                raise ConfigError(f"{name}: expected more than 0, got {value}")
        if self.near_m < self.reach_m or self.stall_ticks < self.settle_ticks:
            raise ConfigError(
                "expected near_m >= reach_m and stall_ticks >= settle_ticks, got "
                f"{self.near_m}, {self.reach_m}, {self.stall_ticks} and {self.settle_ticks}"
            )


@dataclasses.dataclass
class ExecutorConfig:
    """Which executor, recorded in every result.

    Attributes:
      name: ``"prefix"`` (run the newest chunk) or ``"ensemble"`` (blend overlapping chunks, for
        policies whose chunks are longer than the time between two answers). Policies that
        answer keyframes or choices get ``"keyframe"`` or ``"discrete"`` instead of the first.
      gripper: ``"binary"`` sends the sign of the last element of a chunk's action (>= 0
        closes), ``"continuous"`` sends it as it is.
      ensemble_chunks: H, newest chunks blended by ``"ensemble"``.
      ensemble_alpha: Weight of the cosine in ``"ensemble"``. Source: MemoryVLA, alpha = 0.1.
      keyframe: How a hand is driven to keyframes.
    """

    name: str = PREFIX
    gripper: str = "binary"
    ensemble_chunks: int = 4
    ensemble_alpha: float = 0.1
    keyframe: KeyframeConfig = dataclasses.field(default_factory=KeyframeConfig)

    def __post_init__(self) -> None:
        if self.name not in EXECUTORS:
            raise unknown_name("executor", self.name, EXECUTORS)
        if self.gripper not in GRIPPERS:
            raise unknown_name("gripper", self.gripper, GRIPPERS)
        if self.ensemble_chunks < 1:
            raise ConfigError(f"ensemble_chunks must be >= 1, got {self.ensemble_chunks}")
