"""What goes wrong between a policy and an arm, put around the runner's environment and policy.

A control tick is 50 ms. A policy observes at observation ticks (every 0.4 s, and at once when a
phase begins), answers a chunk of actions for the control ticks that follow, and the arm stands
still (no motion, the gripper's last command) where it has no action. Everything random is drawn
from the episode's seed and the tick alone, so two policies meet the same misfortune.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.core import rng
from embodied.core.errors import ConfigError
from embodied.core.policy import Policy
from embodied.core.types import Action, Observation, State, Working
from embodied.memory.base import where_rows

ACTION_SIZE, GRIPPER = 7, 6
SHIFT, TURN = "shift", "turn"
_OPENGL = np.diag([1.0, -1.0, -1.0])  # MuJoCo's camera axes in OpenCV's


class Disturbance:
    """Nothing goes wrong; a base whose parts are overridden."""

    def bind(self, env: Any) -> None:
        """Sees the vector environment, once."""
        self.rows = env.num_envs
        self.last_gripper = np.zeros(self.rows, np.float32)

    def release(self) -> None:
        """Leaves the environment as it was."""

    def start(self, row: int, seed: int) -> None:
        """The episode of `seed` is about to begin in `row`."""

    def begin(self, row: int) -> None:
        """A phase or an episode has begun in `row`: actions decided before it are over."""
        self.last_gripper[row] = 0.0

    def lost(self, time_s: np.ndarray) -> np.ndarray:
        """Returns bool [B], rows whose observation tick at `time_s` never reaches the policy."""
        return np.zeros(self.rows, bool)

    def done(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Returns what the arms do, [B, 7], where `actions` were sent to the `active` ones."""
        return actions

    def shown(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the observations that are told, [B, ...]."""
        return obs

    def stand(self, actions: np.ndarray, rows: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Returns `actions` where those `rows` stand still."""
        moving = active & ~rows
        self.last_gripper = np.where(moving, actions[:, GRIPPER], self.last_gripper)
        found = np.where(rows[:, None], np.float32(0), actions)
        found[:, GRIPPER] = np.where(rows, self.last_gripper, actions[:, GRIPPER])
        return found


class Jitter(Disturbance):
    """With probability `share` an action misses its control tick.

    The arm then does again what came last for it; the action that came late is what it has got
    when the next one misses too. After a gate there is nothing to do again.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def bind(self, env: Any) -> None:
        super().bind(env)
        self.came = np.zeros((self.rows, ACTION_SIZE), np.float32)
        self.draws: list[np.random.Generator] = [rng.derive(0)] * self.rows

    def start(self, row: int, seed: int) -> None:
        self.draws[row] = rng.derive(seed, "control_jitter")

    def begin(self, row: int) -> None:
        self.came[row] = 0.0

    def done(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        missed = np.zeros(self.rows, bool)
        for row in np.flatnonzero(active):
            missed[row] = self.draws[row].random() < self.share
        found = np.where(missed[:, None], self.came, actions)
        self.came = np.where(active[:, None], actions, self.came)
        return found


class Loss(Disturbance):
    """With probability `share` an observation tick is lost as a whole.

    Memory does not see it (a lost first one leaves it empty), nothing is answered, and the arm
    stands still until the next observation tick.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def bind(self, env: Any) -> None:
        super().bind(env)
        self.seeds = np.zeros(self.rows, np.int64)
        self.blind = np.zeros(self.rows, bool)

    def start(self, row: int, seed: int) -> None:
        self.seeds[row], self.blind[row] = seed, False

    def lost(self, time_s: np.ndarray) -> np.ndarray:
        for row, seed in enumerate(self.seeds):
            tick = round(float(time_s[row]) * 1000)
            self.blind[row] = rng.derive(int(seed), "lost_frame", tick).random() < self.share
        return self.blind.copy()

    def done(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        return self.stand(actions, self.blind & active, active)


class LatencyHold(Disturbance):
    """An answer comes `ticks` control ticks after its observation and is then done from its start.

    So every action is done that much later, one after the other; meanwhile the arm ends what the
    answer before said. It is the rule ``late: hold`` of a robot's description.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks

    def bind(self, env: Any) -> None:
        super().bind(env)
        self.queue = np.zeros((self.rows, self.ticks + 1, ACTION_SIZE), np.float32)

    def begin(self, row: int) -> None:
        self.queue[row] = 0.0

    def done(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        moved = np.concatenate((self.queue[:, 1:], actions[:, None]), axis=1)
        self.queue = np.where(active[:, None, None], moved, self.queue)
        return self.queue[:, 0].copy()


class LatencySkip(Disturbance):
    """An answer comes `ticks` control ticks after its observation; what was due by then is skipped.

    The arm stands still until it comes. It is the rule ``late: skip`` of a robot's description.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks

    def bind(self, env: Any) -> None:
        super().bind(env)
        self.age = np.zeros(self.rows, np.int64)

    def lost(self, time_s: np.ndarray) -> np.ndarray:
        self.age[:] = 0
        return super().lost(time_s)

    def done(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        waiting = active & (self.age < self.ticks)
        self.age += active
        return self.stand(actions, waiting, active)


class _Scenes(Disturbance):
    """Changes what is seen, so it needs the simulators in this process."""

    def bind(self, env: Any) -> None:
        super().bind(env)
        if env.spec_dict()["observation"] == "state":
            raise ConfigError("cameras and light change nothing for a policy without pictures")
        self.cameras: Sequence[str] = env.spec_dict()["cameras"]
        self.scenes = [env.call("scene", row) for row in range(self.rows)]


class Camera(_Scenes):
    """Every camera is moved, another way in each episode.

    Args:
      kind: ``"shift"``: by `amount` centimetres in a random direction; ``"turn"``: by `amount`
        degrees about a random axis through it.
      amount: How far.
      told: Whether it was calibrated anew: ``<camera>_cam_to_world`` tells where it is now.
        Otherwise it tells where it was, as after a knock that nobody noticed.
    """

    def __init__(self, kind: str, amount: float, told: bool = False) -> None:
        self.kind, self.amount, self.told = kind, amount, told

    def bind(self, env: Any) -> None:
        super().bind(env)
        model = self.scenes[0].m
        self.ids = {name: model.camera(name).id for name in self.cameras}
        self.poses = {
            name: (model.cam_pos[index].copy(), model.cam_quat[index].copy())
            for name, index in self.ids.items()
        }
        self.back = {name: np.tile(np.eye(4, dtype=np.float32), (self.rows, 1, 1))
                     for name in self.cameras}  # fmt: skip

    def release(self) -> None:
        for scene in self.scenes:
            for name, index in self.ids.items():
                scene.m.cam_pos[index], scene.m.cam_quat[index] = self.poses[name]

    def start(self, row: int, seed: int) -> None:
        for name, index in self.ids.items():
            way = rng.derive(seed, "camera", name).standard_normal(3)
            way /= np.linalg.norm(way)
            moved = np.eye(4)  # the camera's pose now, in what it was, by OpenCV's axes
            if self.kind == SHIFT:
                moved[:3, 3] = 0.01 * self.amount * way
            else:
                moved[:3, :3] = _rotation(np.deg2rad(self.amount) * way)
            pos, quat = self.poses[name]
            before = _matrix(quat) @ _OPENGL
            model = self.scenes[row].m
            model.cam_pos[index] = pos + before @ moved[:3, 3]
            model.cam_quat[index] = _quat(before @ moved[:3, :3] @ _OPENGL)
            self.back[name][row] = np.linalg.inv(moved)

    def shown(self, obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.told:
            return obs
        keys = {name: f"{name}_cam_to_world" for name in self.cameras}
        return {**obs, **{key: obs[key] @ self.back[name] for name, key in keys.items()}}


class Light(_Scenes):
    """All lamps of the room shine `red`, `green` and `blue` times as bright.

    What glows by itself (the lamp that shows the phase) stays as it is but for its reflection.
    """

    def __init__(self, red: float, green: float, blue: float) -> None:
        self.gains = np.array([red, green, blue])

    def bind(self, env: Any) -> None:
        super().bind(env)
        self.lights = [
            light
            for scene in self.scenes
            for head in (scene.m.vis.headlight,)
            for light in (head.ambient, head.diffuse, scene.m.light_diffuse)
        ]
        self.before = [light.copy() for light in self.lights]
        for light in self.lights:
            light[:] *= self.gains

    def release(self) -> None:
        for light, before in zip(self.lights, self.before, strict=True):
            light[:] = before


class DisturbedEnv:
    """A vector environment under a disturbance; see :class:`sims.vector.MemoryBenchVectorEnv`."""

    def __init__(self, env: Any, disturbance: Disturbance) -> None:
        self._env, self._disturbance = env, disturbance
        disturbance.bind(env)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, *, seed: Sequence[int], options: dict[str, Any]) -> tuple[dict, dict]:
        rows = np.flatnonzero(options["reset_mask"])
        for row in rows:
            self._disturbance.start(int(row), int(seed[row]))
        obs, infos = self._env.reset(seed=seed, options=options)
        for row in rows:
            self._disturbance.begin(int(row))
        return self._disturbance.shown(obs), infos

    def step(self, actions: np.ndarray, render: Any = None, active: Any = None) -> tuple:
        sent = self._disturbance.done(np.asarray(actions, np.float32), np.asarray(active, bool))
        obs, reward, terminated, truncated, infos = self._env.step(sent, render, active)
        for row in np.flatnonzero(active & np.asarray(infos["gate"], bool)):
            self._disturbance.begin(int(row))
        return self._disturbance.shown(obs), reward, terminated, truncated, infos


class DisturbedPolicy(Policy):
    """A policy that does not get every observation. What it learnt is untouched."""

    def __init__(self, policy: Policy, disturbance: Disturbance) -> None:
        super().__init__()
        self.policy, self.spec, self._disturbance = policy, policy.spec, disturbance

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.policy.initial_state(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        lost = torch.from_numpy(self._disturbance.lost(time_s.cpu().numpy())).to(reset.device)
        working, new = self.policy.observe(obs, time_s, state, reset)
        empty = {k: v.to(reset.device) for k, v in self.initial_state(len(reset)).items()}
        kept = {k: where_rows(reset, empty[k], state[k]) for k in state}
        return working, {k: where_rows(lost, kept[k], new[k]) for k in new}

    def act(self, working: Working, noise: Tensor) -> Action:
        return self.policy.act(working, noise)


def _rotation(vector_rad: np.ndarray) -> np.ndarray:
    """Returns the matrix [3, 3] of a rotation vector (Rodrigues)."""
    angle = float(np.linalg.norm(vector_rad))
    x, y, z = vector_rad / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _matrix(quat_wxyz: np.ndarray) -> np.ndarray:
    import mujoco

    found = np.empty(9)
    mujoco.mju_quat2Mat(found, quat_wxyz)
    return found.reshape(3, 3)


def _quat(matrix: np.ndarray) -> np.ndarray:
    import mujoco

    found = np.empty(4)
    mujoco.mju_mat2Quat(found, np.ascontiguousarray(matrix).reshape(9))
    return found
