"""What never reaches an arm or a memory: actions beyond limits, frames that show nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from embodied.core.specs import ArraySpec
from embodied.deploy.robot import HAND, RobotConfig

IMAGE = "_image_u8"


def limited(action: np.ndarray, hand_pos_world_m: np.ndarray, robot: RobotConfig) -> np.ndarray:
    """Returns an action within a robot's limits; one that is not finite becomes no motion.

    Speeds are limited along the way, so that the hand goes where it was sent, only slower. A hand
    outside the workspace may come back, and goes no further.

    Args:
      action: float [7] in the units of the policy.
      hand_pos_world_m: [3].
      robot: The limits.

    Returns:
      float32 [7] within [-1, 1].
    """
    found = np.zeros(7, np.float32)
    action = np.asarray(action, np.float64)
    if action.shape != (7,) or not np.isfinite(action).all():
        return found
    found[6] = np.clip(action[6], -1.0, 1.0)
    move = _shortened(action[:3] * robot.pos_per_unit_m, robot.most_speed_m_s / robot.control_hz)
    turn = _shortened(
        action[3:6] * robot.rot_per_unit_rad, robot.most_turn_rad_s / robot.control_hz
    )
    hand = np.asarray(hand_pos_world_m, np.float64)
    if hand.shape != (3,) or not np.isfinite(hand).all():
        return found
    low = np.minimum(np.asarray(robot.workspace_low_m), hand)
    high = np.maximum(np.asarray(robot.workspace_high_m), hand)
    move = np.clip(hand + move, low, high) - hand
    found[:3] = np.clip(move / robot.pos_per_unit_m, -1.0, 1.0)
    found[3:6] = np.clip(turn / robot.rot_per_unit_rad, -1.0, 1.0)
    return found


def _shortened(vector: np.ndarray, most: float) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return vector * min(1.0, most / max(length, 1e-12))


def fault(obs: Mapping[str, np.ndarray], specs: Mapping[str, ArraySpec], black_level: int) -> str:
    """Returns what is wrong with an observation, in a word or two; "" if memory may see it.

    Args:
      obs: Observation key -> array without a batch axis.
      specs: What the policy reads.
      black_level: As in `RobotConfig`.
    """
    for key, spec in specs.items():
        value = obs.get(key)
        if value is None:
            return f"{key} missing"
        if value.shape != spec.shape or str(value.dtype) != spec.dtype:
            return f"{key} of another size"
        if spec.fault(value):
            return f"{key} {'mostly holes' if spec.hole_share else 'not finite'}"
        if key.endswith(IMAGE) and int(value.max(initial=0)) <= black_level:
            return f"{key} black"
    return ""


class Frozen:
    """Finds cameras that show the same picture again while the hand moves.

    Args:
      frozen_m: As in `RobotConfig`; 0 finds none.
    """

    def __init__(self, frozen_m: float) -> None:
        self._frozen_m = frozen_m
        self._seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def fault(self, obs: Mapping[str, np.ndarray], keys: Iterable[str]) -> str:
        """Returns which picture of an observation is frozen; "" if none is.

        Args:
          obs: A sound observation.
          keys: What the policy reads.
        """
        hand = obs.get(HAND)
        if not self._frozen_m or hand is None:
            return ""
        for key in keys:
            if not key.endswith(IMAGE):
                continue
            picture, where = self._seen.get(key, (None, hand))
            if picture is None or not np.array_equal(picture, obs[key]):
                self._seen[key] = obs[key], hand
            elif np.linalg.norm(hand - where) > self._frozen_m:
                return f"{key} frozen"
        return ""
