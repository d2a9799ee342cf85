"""The Gymnasium environment of one recall episode at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from embodied.core.errors import ConfigError, SimulatorError, unknown_name
from embodied.core.specs import ActionSpec, ArraySpec
from sims.choices import Chooser, check_choices
from sims.recall.catalog import TASKS, make_game
from sims.recall.game import CONTROL_HZ, Game, RecallInfo, cue_array
from sims.resets import read_one, seed_array

VIDEO_SIZE = 297
CAMERAS = ("front",)
_FIRST = np.zeros(1, np.int64)


class RecallEnv(gymnasium.Env):
    """One recall task; the same rules and seeds as a row of the vector environment.

    `info` holds, and observations never do: ``phase`` (cue, gap, execute), ``actionable``
    (the next action counts) and its opposite ``held``, ``gate`` (the first observation that
    asks), ``commit`` (what was chosen, or ""), ``target`` (what would be right), ``cue``,
    ``success``, ``failure_kind``, ``instruction``, ``time_s`` and what a task adds.

    Args:
      task: Task name, for example ``"recall/ballet_lite"``, or the row of a task that another
        package installs.
      level: A level of the task; by default its first.
      knobs: Overrides of the level's knobs.
      render_mode: None or ``"rgb_array"``.

    Raises:
      ConfigError: For an unknown name or a value out of range.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        "render_fps": int(CONTROL_HZ),
        "control_hz": CONTROL_HZ,
    }

    def __init__(
        self,
        task: str | RecallInfo,
        level: str | None = None,
        knobs: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode: expected None or 'rgb_array', got {render_mode!r}")
        self.info, self.level = find(task, level)
        self.render_mode = render_mode
        self.game = make_game(self.info, self.level, knobs, 1)
        self.observation_space = observation_space(self.game.observation_specs)
        self.action_space = gymnasium.spaces.Discrete(self.action_spec.size)

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
        episode, cue = read_one(seed, options, self.np_random, self.info.name, self.game.n_cues)
        self.game.start(_FIRST, seed_array([episode]), cue_array([cue]))
        return self.observe(), self.current_info()

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advances one step.

        Args:
          action: A whole number in 0..A-1; checked, and then ignored while ``info["held"]``.

        Returns:
          Observation, reward, terminated (the outcome is decided), truncated (time is up), info.

        Raises:
          ActionError: For anything else.
          SimulatorError: If the episode is over.
        """
        actions = check_choices(np.asarray(action), (), self.game.action_names, self.info.name)
        if self.over:
            raise SimulatorError("step() after the episode ended; call reset(seed=...) first")
        game = self.game
        game.step(actions.reshape(1))
        return (
            self.observe(),
            float(game.reward[0]),
            bool(game.terminated[0]),
            bool(game.truncated[0]),
            self.current_info(),
        )

    def observe(self) -> dict[str, np.ndarray]:
        """Returns the present observation in new arrays."""
        return {key: np.array(value[0]) for key, value in self.game.obs.items()}

    def current_info(self) -> dict[str, Any]:
        """Returns the info dictionary of the present state, of plain Python values."""
        return {key: value[:1].tolist()[0] for key, value in self.game.infos().items()}

    def render(self) -> np.ndarray | None:
        """Returns uint8 [297, 297, 3] under ``render_mode="rgb_array"``."""
        return self.picture() if self.render_mode == "rgb_array" else None

    def picture(self, camera: str = "front", size: int = VIDEO_SIZE) -> np.ndarray:
        """Returns uint8 [size, size, 3] for human eyes; there is but one camera."""
        return picture(self.game, 0, camera, size)

    @property
    def over(self) -> bool:
        """Whether the episode has ended (or none was started)."""
        game = self.game
        return bool(not game.started[0] or game.terminated[0] or game.truncated[0])

    @property
    def held(self) -> bool:
        """Whether the next action will be ignored."""
        return not self.game.actionable[0]

    @property
    def knobs(self) -> dict[str, Any]:
        """The level's knobs with the overrides."""
        return self.game.knobs

    @property
    def horizon(self) -> int:
        """Longest possible episode in steps."""
        return self.game.horizon

    @property
    def observation_specs(self) -> dict[str, ArraySpec]:
        """Observation key -> ArraySpec."""
        return self.game.observation_specs

    @property
    def action_spec(self) -> ActionSpec:
        """The choice of an action."""
        return self.game.action_spec

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes this environment, as JSON-ready data."""
        return spec_dict(self.game, self.level)

    def make_expert(self, seed: int = 0, noise: float = 0.0) -> Chooser:
        """Returns a player that knows the answer; `noise` is its share of random actions."""
        return Chooser(self._right, self.action_spec.size, seed, noise)

    def _right(self) -> int:
        return int(self.game.expert(self.game.cue)[0])

    def save_state(self) -> dict[str, np.ndarray]:
        """Returns the episode as arrays; `restore_state` puts it back exactly."""
        return self.game.save()

    def restore_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `save_state` returned; refuses another task's or level's."""
        self.game.restore(state)


def find(task: str | RecallInfo, level: str | None) -> tuple[RecallInfo, str]:
    """Returns a task's row and its level, the first where None is given.

    Raises:
      ConfigError: For an unknown task.
    """
    if not isinstance(task, RecallInfo):
        if task not in TASKS:
            raise unknown_name("recall task", str(task), TASKS)
        task = TASKS[task]
    return task, next(iter(task.levels)) if level is None else level


def observation_space(specs: Mapping[str, ArraySpec]) -> gymnasium.spaces.Dict:
    """Returns the space of observations."""
    return gymnasium.spaces.Dict(
        {
            key: gymnasium.spaces.Box(s.low, s.high, s.shape, np.dtype(s.dtype).type)
            for key, s in specs.items()
        }
    )


def picture(game: Game, row: int, camera: str, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3] of a row.

    Raises:
      ConfigError: For another camera than ``"front"``.
    """
    if camera not in CAMERAS:
        raise unknown_name("camera", camera, CAMERAS)
    return game.picture(row, size)


def spec_dict(game: Game, level: str) -> dict[str, Any]:
    """Returns everything that fixes an environment of a game, as JSON-ready data."""
    return {
        "task": game.info.name,
        "env_id": game.info.env_id,
        "level": level,
        "knobs": dict(game.knobs),
        "control_hz": CONTROL_HZ,
        "num_cues": game.n_cues,
        "action_size": len(game.action_names),
        "instruction_words": list(game.instruction_words),
        "horizon": game.horizon,
        "observations": {
            key: {**dataclasses.asdict(spec), "shape": list(spec.shape)}
            for key, spec in game.observation_specs.items()
        },
        "action": dataclasses.asdict(game.action_spec),
    }
