"""The Gymnasium environment around one scene and one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

import sims
from embodied.core.errors import ConfigError, SimulatorError, unknown_name
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec
from embodied.core.task import TaskInfo
from sims.memory_bench.action import ACTION_NAMES, ACTION_SIZE, CONTROL_HZ, check_action
from sims.memory_bench.saved import check_fits
from sims.resets import read_one

VIDEO_SIZE = 256
REWARDS = ("sparse", "dense")


class MemoryBenchEnv(gymnasium.Env):
    """One MemoryBench task: phases cue -> gap -> execute, with a snap of the scene between them.

    `info` holds, and observations never do: ``phase`` (cue, gap, execute), ``held`` (the next
    action will be ignored), ``gate`` (this observation is the first after a snap), ``commit``
    (what was committed, or ""), ``target`` (what would be right), ``cue``, ``success``,
    ``failure_kind``, ``instruction``, ``time_s`` (since reset) and ``image_fresh``; in tasks where
    how far one has got must be remembered also ``swap_point`` and ``donor_point``, where a memory
    may be exchanged with the one that it was a choice earlier.

    Args:
      task: Snake-case task name, for example ``"remember_color"``, or the row of a task that
        another package installs.
      level: ``"easy"``, ``"medium"``, ``"hard"`` or ``"extreme"``.
      observation: ``"state"``, ``"rgb"`` (pictures with each camera's calibration) or
        ``"rgbd"`` (and depth).
      cameras: Cameras to draw: front, left_shoulder, right_shoulder, overhead, wrist.
      image_size: Side of the square pictures in pixels.
      control: ``"fast"`` or ``"osc"``.
      visuals: ``"lite"`` or ``"full"``.
      reward: ``"sparse"`` (1 on success) or ``"dense"`` (progress in [0, 1]; sums are not
        comparable between the two).
      knobs: Overrides of the level's knobs.
      render_every_step: Whether ``step`` draws pictures. If False, only ``reset``, gates and
        steps after ``request_picture()`` draw; ``info["image_fresh"]`` says which.
      render_mode: None or ``"rgb_array"``.
      arm: ``"panda"``; or ``"ur5e"``, to try a policy on another arm. What is published and
        certified is of the Panda.

    Raises:
      ConfigError: For an unknown name or a value out of range.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": CONTROL_HZ,
        "control_hz": float(CONTROL_HZ),
    }

    def __init__(
        self,
        task: str | TaskInfo,
        level: str = "easy",
        observation: str = "rgb",
        cameras: Sequence[str] = ("front",),
        image_size: int = 64,
        control: str = "fast",
        visuals: str = "lite",
        reward: str = "sparse",
        knobs: Mapping[str, Any] | None = None,
        render_every_step: bool = True,
        render_mode: str | None = None,
        arm: str = "panda",
    ) -> None:
        infos = sims.task_infos()
        if not isinstance(task, TaskInfo) and task not in infos:
            raise unknown_name("task", task, infos)
        if reward not in REWARDS:
            raise unknown_name("reward", reward, REWARDS)
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
        self.info: TaskInfo = task if isinstance(task, TaskInfo) else infos[task]
        self.level, self.reward, self.render_mode = level, reward, render_mode
        self.knobs = self.info.knobs(level, knobs)
        self._render_every_step = bool(render_every_step)
        self._build(observation, cameras, image_size, control, visuals, arm)
        self.observation_space = observation_space(self.observer.specs)
        self.action_space = action_space(self.action_spec)
        self._picture_requested = False
        self._episode_seed: int | None = None
        self._over = True
        self._viewer = None

    def _build(self, observation, cameras, image_size, control, visuals, arm) -> None:
        # The scene first: it chooses the GL backend before MuJoCo is loaded.
        from sims.memory_bench import scene
        from sims.memory_bench.control import make_controller
        from sims.memory_bench.machines import task_class
        from sims.memory_bench.observe import Observer

        self.task = task_class(self.info)(self.knobs)
        self.scene = scene.Scene(self.task.parts(), control=control, visuals=visuals, arm=arm)
        self.controller = make_controller(self.scene)
        self.task.bind(self.scene, self.controller)
        self.observer = Observer(self.scene, observation, cameras, image_size, self.task.entities())

    # -- Gymnasium ------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts the episode of `seed`.

        Args:
          seed: Episode seed >= 0. Without one, seeds are drawn from the last seed given (or
            at random if there was none).
          options: ``{"cue": c}`` plays the same episode with another cue.

        Returns:
          The first observation and its info.

        Raises:
          ConfigError: For an unknown option, or a seed or cue out of range.
        """
        super().reset(seed=seed)
        self.start(*read_one(seed, options, self.np_random, self.info.name, self.task.n_cues))
        return self.observe(draw=True), self.current_info(fresh=True)

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advances one control tick (50 ms).

        Args:
          action: float32 [7] in [-1, 1]: hand displacement (1.0 = 5 cm), rotation vector
            (1.0 = 0.5 rad), both in world axes, and gripper (-1 open, +1 close). Checked and
            then ignored while ``info["held"]``.

        Returns:
          Observation, reward, terminated (outcome decided), truncated (time is up), info.

        Raises:
          ActionError: For a wrong shape, NaN or an element outside [-1, 1].
          SimulatorError: If the episode is over or the simulation diverged.
        """
        gate = self.advance(action)
        draw = self._render_every_step or gate or self._picture_requested
        self._picture_requested = False
        return self.observe(draw), *self.outcome(), self.current_info(gate=gate, fresh=draw)

    def start(self, seed: int, cue: int | None = None) -> None:
        """Starts the episode of `seed` without building an observation; see `reset`."""
        self.task.reset(seed, cue)
        self._episode_seed, self._over = int(seed), False

    def advance(self, action: np.ndarray) -> bool:
        """Runs one tick without building an observation; returns whether it was a gate."""
        action = check_action(action)
        if self._over:
            raise SimulatorError("step() after the episode ended; call reset(seed=...) first")
        task = self.task
        self.controller.step(task.held_action() if task.held else action)
        self.scene.forward()
        if not np.isfinite(self.scene.d.qpos).all() or self.scene.d.warning.number.any():
            raise SimulatorError(
                f"the simulation diverged in {self.info.name}, seed {self._episode_seed}, tick "
                f"{task.tick}; please report this seed"
            )
        gate = task.advance()
        self._over = task.decided
        return gate

    def request_picture(self) -> None:
        """Makes the next ``step`` draw pictures although ``render_every_step`` is False."""
        self._picture_requested = True

    def render(self) -> np.ndarray | None:
        """Returns uint8 [256, 256, 3] from the front camera under ``render_mode="rgb_array"``."""
        return self.picture() if self.render_mode == "rgb_array" else None

    def picture(self, camera: str = "front", size: int = VIDEO_SIZE) -> np.ndarray:
        """Returns uint8 [size, size, 3] of any camera, independent of the observations."""
        from sims.memory_bench.render import Renderer
        from sims.memory_bench.scene import CAMERA_NAMES

        if camera not in CAMERA_NAMES:
            raise unknown_name("camera", camera, CAMERA_NAMES)
        if self._viewer is None or self._viewer.size != size:
            if self._viewer is not None:
                self._viewer.close()
            self._viewer = Renderer(self.scene, size)
        out = {f"{camera}_image_u8": np.empty((size, size, 3), np.uint8)}
        self._viewer.render((camera,), out)
        return out[f"{camera}_image_u8"]

    def close(self) -> None:
        """Frees renderers; the environment can't be used afterwards."""
        self.observer.close()
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    # -- beyond Gymnasium -----------------------------------------------------------------

    def observe(self, draw: bool = True) -> dict[str, np.ndarray]:
        """Returns the present observation in new arrays; changes nothing in the simulation.

        Args:
          draw: Whether to draw pictures; otherwise they are the last ones drawn (or zeros).
        """
        observation = {key: spec.zeros() for key, spec in self.observer.specs.items()}
        self.fill(observation, draw)
        return observation

    def follows(self, cue: int, target: str) -> bool:
        """Returns whether what was done is what a memory of another cue demanded here.

        See :meth:`sims.memory_bench.task.Task.follows`.
        """
        return self.task.follows(cue, target)

    def fill(self, out: dict[str, np.ndarray], draw: bool = True) -> None:
        """Writes the present observation into the arrays of `out`; see `observe`."""
        self.observer.fill(out, self.task, draw)

    def outcome(self) -> tuple[float, bool, bool]:
        """Returns reward, terminated (outcome decided) and truncated (time is up) now."""
        task = self.task
        reward = float(task.success) if self.reward == "sparse" else float(task.potential())
        truncated = task.failure_kind == "timeout"
        return reward, task.decided and not truncated, truncated

    @property
    def over(self) -> bool:
        """Whether the episode has ended (or none was started)."""
        return self._over

    def current_info(self, gate: bool = False, fresh: bool = False) -> dict[str, Any]:
        """Returns the info dictionary of the present state.

        Args:
          gate: Whether the last tick was a gate, as :meth:`advance` returned it.
          fresh: Whether the pictures of the present observation were drawn now.
        """
        task = self.task
        return {
            "phase": task.phase,
            "held": task.held,
            "gate": gate,
            "commit": task.committed,
            "target": task.target(),
            "cue": task.cue,
            "success": task.success,
            "failure_kind": task.failure_kind,
            "instruction": task.instruction,
            "time_s": task.tick / CONTROL_HZ,
            **task.swap_points(),
            "image_fresh": fresh and self.observer.mode != "state",
        }

    @property
    def horizon(self) -> int:
        """Longest possible episode in control ticks."""
        return self.task.horizon

    @property
    def mjcf_sha256(self) -> str:
        """Hash of the simulated model."""
        return self.scene.mjcf_sha256

    @property
    def observation_specs(self) -> dict[str, ArraySpec]:
        """Observation key -> ArraySpec."""
        return self.observer.specs

    @property
    def action_spec(self) -> ActionSpec:
        """The single control action."""
        return ActionSpec("ee_delta_chunk", ACTION_SIZE, 1, names=ACTION_NAMES)

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes this environment, as JSON-ready data."""
        import dataclasses

        return {
            "task": self.info.name,
            "env_id": self.info.env_id,
            "level": self.level,
            "knobs": dict(self.knobs),
            "observation": self.observer.mode,
            "cameras": list(self.observer.cameras),
            "image_size": self.observer.image_size,
            "control": self.scene.control,
            "visuals": self.scene.visuals,
            "reward": self.reward,
            "control_hz": float(CONTROL_HZ),
            "num_cues": self.task.n_cues,
            "action_size": ACTION_SIZE,
            "horizon": self.horizon,
            "mjcf_sha256": self.mjcf_sha256,
            # The Panda goes without saying: so it did when the first datasets were written.
            **({} if self.scene.arm_name == "panda" else {"arm": self.scene.arm_name}),
            "observations": {
                key: {**dataclasses.asdict(spec), "shape": list(spec.shape)}
                for key, spec in self.observer.specs.items()
            },
            "action": dataclasses.asdict(self.action_spec),
        }

    def make_expert(self, seed: int = 0, noise: float = 0.0, pause_ticks: int = 0):
        """Returns a scripted expert of this environment; see ``expert.WaypointExpert``."""
        from sims.memory_bench.expert import WaypointExpert

        return WaypointExpert(self, seed, noise, pause_ticks)

    def save_state(self) -> dict[str, np.ndarray]:
        """Returns scene, controller and task as arrays; `restore_state` puts them back exactly.

        Names that start with ``hidden_`` are the only ones that may depend on the cue at go.

        Raises:
          SimulatorError: If no episode was started.
        """
        if self._episode_seed is None:
            raise SimulatorError("there is no episode to save; call reset(seed=...) first")
        return {**self.scene.save(), **self.controller.save(), **self.task.save()}

    def restore_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Puts back what `save_state` of an equal environment returned, bit for bit.

        Raises:
          ConfigError: If the state does not fit, as one of another task, level or controller;
            nothing is changed then.
        """
        check_fits({**self.scene.save(), **self.controller.save()}, state)
        self.task.restore(state)
        self.scene.restore(state)
        self.controller.restore(state)
        self._episode_seed, self._over = self.task.seed, self.task.decided


def action_space(spec: ActionSpec) -> gymnasium.Space:
    """Returns the Gymnasium space of one action."""
    if spec.kind == DISCRETE:
        return gymnasium.spaces.Discrete(spec.size)
    return gymnasium.spaces.Box(-1.0, 1.0, (spec.size,), np.float32)


def observation_space(specs: Mapping[str, ArraySpec]) -> gymnasium.spaces.Dict:
    """Returns the Gymnasium space of observation specs."""
    return gymnasium.spaces.Dict({key: _space(spec) for key, spec in specs.items()})


def _space(spec: ArraySpec) -> gymnasium.Space:
    if spec.dtype == "bool":
        return gymnasium.spaces.MultiBinary(spec.shape)
    return gymnasium.spaces.Box(spec.low, spec.high, spec.shape, np.dtype(spec.dtype).type)
