"""A tiny environment that obeys the environment contract, without a simulator.

A point must reach the target of the cue's colour, shown in the cue phase only. The state holds a
velocity and a random generator's counter, so that a careless restore would show.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

from embodied.core import rng
from embodied.core.specs import ArraySpec, camera_specs
from embodied.core.task import EnvConfig

CUES, CUE_TICKS, GAP_TICKS, HORIZON = 3, 6, 11, 90
TARGETS = np.array([[0.3, 0.0, 0.1], [0.0, 0.3, 0.1], [-0.3, 0.0, 0.1]])


def make(task: str, level: str, config: EnvConfig, **kwargs: Any) -> FakeEnv:
    """Stands in for ``embodied.registry.make_env``."""
    return FakeEnv(task, level, config, **kwargs)


def make_slow(task: str, level: str, config: EnvConfig, **kwargs: Any) -> FakeEnv:
    """Makes an environment whose resets take long enough to be killed in."""
    env = FakeEnv(task, level, config, **kwargs)
    env.delay_s = 0.05
    return env


def make_deadly(task: str, level: str, config: EnvConfig, **kwargs: Any) -> FakeEnv:
    """Makes an environment whose process dies on seed 5."""
    env = FakeEnv(task, level, config, **kwargs)
    env.deadly = 5
    return env


class FakeEnv(gymnasium.Env):
    """See the module docstring."""

    mjcf_sha256 = "f" * 64
    horizon = HORIZON

    def __init__(
        self, task: str, level: str, config: EnvConfig, render_every_step: bool = True
    ) -> None:
        self.task_name, self.level, self.config = task, level, config
        self.render_every_step = render_every_step
        self.delay_s, self.deadly = 0.0, -1
        self.renders = self.steps = 0
        n = config.image_size
        spaces: dict[str, Any] = {
            "eef_pos_world_m": gymnasium.spaces.Box(-1, 1, (3,), np.float32),
            "gripper_opening": gymnasium.spaces.Box(0, 1, (1,), np.float32),
            "instruction_u8": gymnasium.spaces.Box(0, 255, (160,), np.uint8),
        }
        for camera in config.cameras:
            spaces |= {
                key: gymnasium.spaces.Box(
                    spec.low, spec.high, spec.shape, np.dtype(spec.dtype).type
                )
                for key, spec in camera_specs(camera, n, depth=self.depth).items()
            }
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self.action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

    @property
    def depth(self) -> bool:
        """Whether cameras give depth."""
        return self.config.observation == "rgbd"

    def spec_dict(self) -> dict[str, Any]:
        return {"task": self.task_name, "level": self.level, "knobs": {"k": CUES},
                "control_hz": 20.0, "num_cues": CUES}  # fmt: skip

    @property
    def observation_specs(self) -> dict[str, ArraySpec]:
        """What each observation is."""
        spaces = self.observation_space.spaces.items()
        return {key: ArraySpec(space.shape, str(space.dtype)) for key, space in spaces}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        time.sleep(self.delay_s)
        if seed == self.deadly:
            import os

            os._exit(9)
        self.seed_ = int(seed)
        order = rng.derive(self.seed_ // CUES, "cues").permutation(CUES)
        self.cue = int(order[self.seed_ % CUES])
        self.gap = GAP_TICKS + int(rng.derive(self.seed_, "gap").integers(4))
        self.tick, self.grip, self.commit, self.draws = 0, 1.0, False, 0
        self.chosen = -1
        self.pos = rng.derive(self.seed_, "start").uniform(-0.1, 0.1, 3)
        self.velocity = np.zeros(3)
        return self.observe(self.render_every_step), self.current_info()

    @property
    def phase(self) -> str:
        if self.tick < CUE_TICKS:
            return "cue"
        return "gap" if self.tick < CUE_TICKS + self.gap else "execute"

    def advance(self, action: np.ndarray) -> bool:
        self.steps += 1
        if self.phase == "execute":
            self.draws += 1
            wobble = rng.derive(self.seed_, "wobble", self.draws).normal(0, 1e-4, 3)
            self.velocity = 0.5 * self.velocity + 0.02 * np.asarray(action[:3], np.float64)
            self.pos = self.pos + self.velocity + wobble
            self.grip = float(action[6] < 0)
            near = np.linalg.norm(TARGETS - self.pos, axis=1) < 0.05
            if near.any() and not self.commit:
                self.commit, self.chosen = True, int(near.argmax())
        self.tick += 1
        if self.gate:
            self.pos = rng.derive(self.seed_, "home").uniform(-0.05, 0.05, 3)
            self.velocity = np.zeros(3)
        return self.gate

    @property
    def gate(self) -> bool:
        return self.tick in (CUE_TICKS, CUE_TICKS + self.gap)

    @property
    def success(self) -> bool:
        return self.commit and self.chosen == self.cue

    def observe(self, draw: bool = True) -> dict[str, np.ndarray]:
        text = np.zeros(160, np.uint8)
        words = f"go to the place shown {self.seed_ % 2}".encode()
        text[: len(words)] = np.frombuffer(words, np.uint8)
        obs = {"eef_pos_world_m": self.pos.astype(np.float32), "instruction_u8": text,
               "gripper_opening": np.array([self.grip], np.float32)}  # fmt: skip
        for camera in self.config.cameras:
            image = np.zeros((self.config.image_size, self.config.image_size, 3), np.uint8)
            if draw:
                self.renders += 1
                image[..., 0] = 40 * (self.phase == "cue") * (self.cue + 1) + len(camera)
                image[..., 1] = np.clip(128 + self.pos[0] * 300, 0, 255)
            obs[f"{camera}_image_u8"] = image
            # It looks straight down from a metre above.
            obs[f"{camera}_intrinsics"] = np.array([[9, 0, 8], [0, 9, 8], [0, 0, 1]], np.float32)
            obs[f"{camera}_cam_to_world"] = np.diag([1, -1, -1, 1]).astype(np.float32)
            obs[f"{camera}_cam_to_world"][2, 3] = 1.0
            if self.depth:  # a slope that the hand tilts
                rows = np.linspace(0.8, 0.95 + 0.2 * float(self.pos[1]), self.config.image_size)
                obs[f"{camera}_depth_m"] = np.tile(rows.astype(np.float32), (len(rows), 1))
        return obs

    def current_info(self, gate: bool = False) -> dict[str, Any]:
        failure = "wrong_choice" if self.commit and not self.success else ""
        if not self.commit and self.tick >= HORIZON:
            failure = "timeout"
        return {"phase": self.phase, "held": self.phase != "execute", "gate": gate,
                "commit": str(self.chosen) if self.commit else "", "cue": self.cue,
                "success": self.success, "failure_kind": failure, "time_s": self.tick / 20,
                "instruction": f"go to the place shown {self.seed_ % 2}",
                "image_fresh": self.render_every_step}  # fmt: skip

    def save_state(self) -> dict[str, np.ndarray]:
        return {"pos": self.pos.copy(), "velocity": self.velocity.copy(),
                "flags": np.array([self.commit, self.grip > 0, True]),
                "tick": np.array([self.tick, self.draws]), "grip": np.float32(self.grip),
                "chosen": np.array(self.chosen)}  # fmt: skip

    def restore_state(self, state: dict[str, np.ndarray]) -> None:
        self.pos, self.velocity = state["pos"].copy(), state["velocity"].copy()
        self.tick, self.draws = (int(x) for x in state["tick"])
        self.commit, self.grip = bool(state["flags"][0]), float(state["grip"])
        self.chosen = int(state["chosen"])

    def make_expert(self, seed: int, noise: float, pause_ticks: int = 0) -> FakeExpert:
        return FakeExpert(self, seed, noise, pause_ticks)


class FakeExpert:
    """Drives to the target; closes the gripper half-way; fails on seeds ending in 7.

    With `pause_ticks` it starts that much later, so that replays tell whether they pause too.
    """

    def __init__(self, env: FakeEnv, seed: int, noise: float, pause_ticks: int = 0) -> None:
        self.env, self.noise, self.seed, self.pause_ticks = env, noise, seed, pause_ticks
        self.keyframe_label = False

    def reset(self) -> None:
        self.rng = rng.derive(self.seed, "expert")
        self.closing = self.waited = 0

    def act(self) -> np.ndarray:
        action = np.zeros(7, np.float32)
        self.keyframe_label = False
        if self.env.phase != "execute":
            return action
        self.waited += 1
        if self.waited <= self.pause_ticks:
            return action
        cue = (self.env.cue + (self.seed % 10 == 7)) % CUES
        error = TARGETS[cue] - self.env.pos
        near = np.linalg.norm(error) < 0.15
        self.keyframe_label = bool(near and not self.closing)
        self.closing += near
        action[:3] = np.clip(error * 10, -0.6, 0.6)
        action[6] = 1.0 if self.closing else -1.0
        return action

    def next_keyframe(self) -> np.ndarray | None:
        """The place to go to."""
        if self.env.phase != "execute" or self.env.commit:
            return None
        grip = 1.0 if self.closing else -1.0
        return np.array([*TARGETS[self.env.cue], 0, 0, 0, 1, grip, 1], np.float32)

    def perturb(self, action: np.ndarray) -> np.ndarray:
        draw = self.rng.normal(0, 0.3 * self.noise, 7)
        return np.clip(action + draw, -1, 1).astype(np.float32)

    def state(self) -> Any:
        return self.closing, self.waited

    def restore(self, state: Any) -> None:
        self.closing, self.waited = state
