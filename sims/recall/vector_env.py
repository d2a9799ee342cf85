"""Many recall episodes at once: one call of numpy moves all rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from embodied.core.errors import ConfigError, SimulatorError, unknown_name
from sims.choices import check_choices
from sims.recall.catalog import make_game
from sims.recall.game import ALL, CONTROL_HZ, RecallInfo, cue_array
from sims.recall.gym_env import find, observation_space, picture, spec_dict
from sims.resets import DISABLED, MODES, ResetReader, check_rows


class RecallVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` episodes of one recall task; what a seed means does not depend on their number.

    Args:
      task: Task name, for example ``"recall/ballet_lite"``, or the row of a task that another
        package installs.
      num_envs: Rows n.
      num_workers: Accepted for the sake of the other suite; all rows move in this process.
      level: A level of the task; by default its first.
      knobs: Overrides of the level's knobs.
      autoreset: ``"disabled"``: a finished row ignores steps until it is reset;
        ``"same_step"``: it starts its next episode at once, with its seed raised by
        `num_envs` (so rows never share a seed and cues stay balanced).
      copy: Whether returned observations are copies; False returns the arrays that the next
        step overwrites.

    Infos are a dict of name -> array over all rows (see :class:`sims.recall.gym_env.RecallEnv`
    for the names), for rows that were not stepped as they were. Under ``same_step`` the rows in
    ``infos["_final_obs"]`` and ``infos["_final_info"]`` (bool [n]) ended in this step:
    ``infos["final_obs"]`` holds the observation of each, else None, and ``infos["final_info"]``
    is a dict of arrays as infos are, without meaning in the other rows.

    Raises:
      ConfigError: For an unknown name or a value out of range.
    """

    def __init__(
        self,
        task: str | RecallInfo,
        num_envs: int,
        num_workers: int = 0,
        *,
        level: str | None = None,
        knobs: Mapping[str, Any] | None = None,
        autoreset: str = DISABLED,
        copy: bool = True,
    ) -> None:
        check_rows(num_envs, num_workers, autoreset)
        self.info, self.level = find(task, level)
        self.num_envs, self.autoreset, self._copy = int(num_envs), autoreset, bool(copy)
        self.game = make_game(self.info, self.level, knobs, self.num_envs)
        self.observation_specs, self.action_spec = (
            self.game.observation_specs,
            self.game.action_spec,
        )
        self.horizon = self.game.horizon
        self.single_observation_space = observation_space(self.observation_specs)
        self.single_action_space = gymnasium.spaces.Discrete(self.action_spec.size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = "rgb_array"
        self.metadata = {
            "autoreset_mode": MODES[self.autoreset],
            "render_fps": int(CONTROL_HZ),
            "control_hz": CONTROL_HZ,
            "render_modes": ["rgb_array"],
        }
        self._reader = ResetReader(self.num_envs, self.info.name, self.game.n_cues)

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes one row's environment, as JSON-ready data."""
        return spec_dict(self.game, self.level)

    # -- stepping -------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts episodes.

        Args:
          seed: A seed for each row, or one that counts up over the rows. Without one, each row
            goes on from the seed that it plays, raised by n (from random ones at first).
          options: ``reset_mask`` (bool [n], rows to reset; others stay as they are) and
            ``cue`` (a cue or None for each row).

        Returns:
          Observations [n, ...] and infos of all rows.

        Raises:
          ConfigError: For a wrong seed, mask or cue; no row is then reset.
        """
        playing = np.where(self.game.started, self.game.seed, -1)
        asked = self._reader.read(seed, options, playing)
        rows = np.flatnonzero(asked.mask)
        self.game.start(rows, asked.seeds[rows], cue_array(asked.cues)[rows])
        return self._observations(), self.game.infos()

    def step(
        self,
        actions: np.ndarray,
        render: Sequence[bool] | None = None,
        active: Sequence[bool] | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advances rows by one step.

        Args:
          actions: Whole numbers [n] in 0..A-1; those of rows that are not stepped are ignored.
          render: Ignored: every observation is complete.
          active: bool [n], rows to step; others stay as they are. None steps all.

        Returns:
          Observations, rewards float64 [n] (0 for rows that were not stepped), terminated and
          truncated bool [n] (they stay set until the row is reset), infos.

        Raises:
          ActionError: For a wrong shape or type, or a number out of range in a stepped row.
          SimulatorError: If a stepped row was never reset.
        """
        game, n = self.game, self.num_envs
        wanted = np.ones(n, bool) if active is None else np.asarray(active, bool)
        stepped = wanted & ~(game.terminated | game.truncated)
        actions = check_choices(
            np.asarray(actions), (n,), game.action_names, self.info.name, stepped
        )
        missing = stepped & ~game.started
        if missing.any():
            rows = np.flatnonzero(missing).tolist()
            raise SimulatorError(f"rows {rows} were never reset; call reset(seed=...) first")
        whole = bool(stepped.all())
        if not whole:
            game.reward[~stepped] = 0.0
        game.step(actions, ALL if whole else np.flatnonzero(stepped))
        reward = game.reward.copy()
        terminated, truncated = game.terminated.copy(), game.truncated.copy()
        if self.autoreset == DISABLED:
            return self._observations(), reward, terminated, truncated, game.infos()
        # One that had ended when its state was restored stays so until it is to be stepped.
        terminated, truncated = terminated & wanted, truncated & wanted
        infos = self._start_again(terminated | truncated)
        return self._observations(), reward, terminated, truncated, infos

    def _start_again(self, ended: np.ndarray) -> dict[str, Any]:
        """Starts the next episodes of `ended` bool [n]; returns infos with what was final."""
        game, rows = self.game, np.flatnonzero(ended)
        final_obs, final_info = np.full(self.num_envs, None, object), {}
        if rows.size:
            columns = (value[rows] for value in game.obs.values())
            for row, values in zip(rows, zip(*columns, strict=True), strict=True):
                final_obs[row] = dict(zip(game.obs, values, strict=True))
            final_info = game.infos()
            game.start(rows, game.seed[rows] + self.num_envs, np.full(len(rows), -1))
        return {
            **game.infos(),
            "final_obs": final_obs,
            "final_info": final_info,
            "_final_obs": ended,
            "_final_info": ended,
        }

    def _observations(self) -> dict[str, np.ndarray]:
        return {k: v.copy() if self._copy else v for k, v in self.game.obs.items()}

    # -- beyond Gymnasium -----------------------------------------------------------------

    def expert_actions(self, belief: np.ndarray | None = None) -> np.ndarray:
        """Returns int64 [n] actions of a player that knows the cue, or takes it to be `belief`.

        Args:
          belief: int64 [n] cues.
        """
        return self.game.expert(self.game.cue if belief is None else np.asarray(belief))

    def evidence(self) -> np.ndarray:
        """Returns int64 [n, E, 2]: first and last ticks of what must be remembered.

        Episodes with fewer than E such stretches end in rows of -1.
        """
        return self.game.evidence()

    def observe(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the present observations and infos of all rows."""
        return self._observations(), self.game.infos()

    def save_state(self) -> dict[str, np.ndarray]:
        """Returns all episodes as arrays; `restore_state` puts them back exactly."""
        return self.game.save()

    def restore_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `save_state` returned.

        Raises:
          ConfigError: If it is of another task, level or number of rows.
        """
        self.game.restore(state)

    def call(self, name: str, row: int, *args: Any) -> Any:
        """Returns something of one row.

        Args:
          name: ``"picture"`` (camera, size), ``"render"``, ``"current_info"``, or ``"follows"``
            (cue, target): whether what was done is what a memory of another cue demanded.
          row: Which.
          *args: Of the name.
        """
        if not 0 <= row < self.num_envs:
            raise ConfigError(f"row: expected 0 to {self.num_envs - 1}, got {row}")
        if name == "picture" or name == "render":
            camera, size = args or ("front", 297)
            return picture(self.game, row, camera, size)
        if name == "current_info":
            return {k: v[row : row + 1].tolist()[0] for k, v in self.game.infos().items()}
        if name == "follows":
            return bool(self.game.infos()["commit"][row] == args[1])
        raise unknown_name("call", name, ("picture", "render", "current_info", "follows"))

    def render(self) -> tuple[np.ndarray, ...]:
        """Returns one uint8 [297, 297, 3] picture for each row."""
        return tuple(self.call("render", row) for row in range(self.num_envs))
