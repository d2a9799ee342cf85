"""A policy that answers with the expert's keyframe waypoints, as one that had learned them would.

It looks at the environments themselves, so it says nothing about memory: it shows that answering
with keyframes alone solves the tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from embodied.core.policy import Policy
from embodied.core.specs import KEYFRAME, ActionSpec, PolicySpec
from embodied.core.types import Action, Working
from embodied.evaluate.executors import KEYFRAME_NAMES

SCRIPT, ALWAYS_LIFTED, ALWAYS_STRAIGHT = "script", "lifted", "straight"


def down_quat_xyzw(yaw_rad: float) -> np.ndarray:
    """Returns the quaternion of a hand that points down, turned about world z."""
    cos, sin = np.cos(yaw_rad / 2), np.sin(yaw_rad / 2)
    return np.array([cos - sin, cos + sin, 0.0, 0.0]) / np.sqrt(2)


class KeyframePolicy(Policy):
    """Answers row i with the next keyframe of environment i of an in-process vector env.

    The runner calls it when every live row waits for an answer, so each call is one step on each
    row's path.

    Args:
      vector: The vector env, simulated in this process.
      paths: Whether the expert's own detours decide how to get there, or one way for all.
      also: Observations that it asks for without using them.
    """

    def __init__(self, vector: Any, paths: str = SCRIPT, also: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.vector, self.paths = vector, paths
        keys = ("eef_pos_world_m", "eef_quat_xyzw", "gripper_opening", *also)
        self.spec = PolicySpec(
            observations={key: vector.observation_specs[key] for key in keys},
            action=ActionSpec(KEYFRAME, len(KEYFRAME_NAMES), 1, names=KEYFRAME_NAMES),
            control_hz=20.0,
            observe_on="decision",
            observe_period_s=0.4,
            noise_shape=(1,),
        )
        self.phases: list[Any] = [None] * vector.num_envs
        self.queues: list[list[np.ndarray]] = [[] for _ in range(vector.num_envs)]
        self.last: list[float] = [-1.0] * vector.num_envs

    def initial_state(self, batch, capacity=None):
        return {}

    def observe(self, obs, time_s, state, reset):
        answers = [self.next_keyframe(row) for row in range(len(reset))]
        return Working({"answer": torch.from_numpy(np.array(answers, np.float32))}), {}

    def act(self, working, noise):
        return Action(working.features["answer"][:, None])

    def next_keyframe(self, row: int) -> np.ndarray:
        task = self.vector.call("task", row)
        nothing = np.array([0, 0, 1, 1, 0, 0, 0, -1, 1], np.float64)
        if self.vector.call("over", row) or task.held:
            return nothing
        phase = (task.seed, task.cue, task.phase)
        if self.phases[row] != phase:
            self.phases[row], self.queues[row], self.last[row] = phase, [], -1.0
        if not self.queues[row]:
            self.queues[row] = self.keyframes(task.waypoints(), row)
        return self.queues[row].pop(0)

    def keyframes(self, waypoints: Any, row: int) -> list[np.ndarray]:
        """Returns the path's keyframes, each float64 [9]."""
        found, straight = [], 1.0
        for waypoint in waypoints:
            self.last[row] = waypoint.gripper or self.last[row]
            if not waypoint.keyframe:
                straight = 0.0
                continue
            flag = {SCRIPT: straight, ALWAYS_LIFTED: 0.0, ALWAYS_STRAIGHT: 1.0}[self.paths]
            quat = down_quat_xyzw(waypoint.yaw_rad)
            found.append(np.array([*waypoint.pos_world_m, *quat, self.last[row], flag]))
            straight = 1.0
        return found
