"""Control by choice: an action names a cue, and the expert's motion acts on that belief.

What is left to learn is what to remember. A step lasts half a second while the arm is held; the
first step after go is carried out to its end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError, SimulatorError
from embodied.core.specs import DISCRETE, ActionSpec
from embodied.core.task import CHOICE, CUE, EXECUTE
from sims.choices import check_choices
from sims.gym_env import MemoryBenchEnv
from sims.memory_bench.action import ACTION_SIZE, CONTROL_HZ
from sims.memory_bench.task import Task

PERIOD_TICKS = CONTROL_HZ // 2


class ChoiceEnv(MemoryBenchEnv):
    """A MemoryBench task with one decision: which cue it was.

    Observations, seeds, phases and outcomes are those of the task under ``control="fast"``.

    Args:
      task: As of `MemoryBenchEnv`; its cue phase and gap must be held, and one choice must
        follow.
      level: As there.
      **kwargs: As there, but for `control`.

    Raises:
      ConfigError: For a task whose cue phase or gap is the policy's own work, or with several
        choices.
    """

    metadata = {**MemoryBenchEnv.metadata, "control_hz": CONTROL_HZ / PERIOD_TICKS}

    def __init__(self, task: Any, level: str = "easy", **kwargs: Any) -> None:
        super().__init__(task, level, control="fast", **kwargs)
        held = self.task.cue_held and self.task.gap_held
        decided_by_cue = CUE in self.task.phases and held
        if not decided_by_cue or self.task.n_choices > 1:
            raise ConfigError(
                f"control={CHOICE}: {self.info.name} is not decided by naming a cue; use "
                "control=fast, or a task that shows its cue while the arm is held and then asks "
                "for one choice, for example remember_color"
            )

    def advance(self, action: Any) -> bool:
        """Lets half a second pass, at most to the next gate, or carries the choice out.

        Args:
          action: A whole number in 0..cues-1; checked, and then ignored while the arm is held.

        Raises:
          ActionError: For anything else.
          SimulatorError: If the episode is over or the simulation diverged.
        """
        choice = int(check_choices(np.asarray(action), (), self.action_spec.names, self.info.name))
        if self.over:
            raise SimulatorError("step() after the episode ended; call reset(seed=...) first")
        if self.task.phase == EXECUTE:
            self._carry_out(choice)
            return False
        hold = np.zeros(ACTION_SIZE, np.float32)
        return any(super(ChoiceEnv, self).advance(hold) for _ in range(PERIOD_TICKS))

    def _carry_out(self, choice: int) -> None:
        hand = super().make_expert()
        while not self.over:
            with _believing(self.task, choice):
                motion = hand.act()
            super().advance(motion)

    @property
    def horizon(self) -> int:
        """Longest possible episode in steps: each gate may cut one short."""
        held = self.task.horizon - self.task.execute_ticks
        return held // PERIOD_TICKS + 2 + 1

    @property
    def action_spec(self) -> ActionSpec:
        """The choice of a cue, named by its number."""
        names = tuple(str(cue) for cue in range(self.task.n_cues))
        return ActionSpec(DISCRETE, len(names), 1, low=0.0, high=1.0, names=names)

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes this environment, as JSON-ready data."""
        hz = self.metadata["control_hz"]
        own = {"control": CHOICE, "action_size": self.task.n_cues, "control_hz": hz}
        return {**super().spec_dict(), **own}

    def make_expert(self, seed: int = 0, noise: float = 0.0) -> Oracle:
        """Returns a player that knows the cue; `noise` is its share of random choices."""
        return Oracle(self, seed, noise)


class Oracle:
    """Names the cue.

    Args:
      env: The environment.
      seed: Seed of the noise.
      noise: Share of random choices in [0, 1].
    """

    def __init__(self, env: ChoiceEnv, seed: int, noise: float) -> None:
        self._env, self._seed, self._noise = env, seed, float(noise)
        self.reset()

    def reset(self) -> None:
        """Starts the noise anew."""
        self._rng = np.random.Generator(np.random.PCG64(self._seed))

    def act(self) -> int:
        """Returns the cue."""
        return int(self._env.task.cue)

    def perturb(self, action: int) -> int:
        """Returns `action`, or a random one."""
        random = int(self._rng.integers(self._env.task.n_cues))
        return random if self._rng.random() < self._noise else action


@contextlib.contextmanager
def _believing(task: Task, cue: int) -> Iterator[None]:
    """Makes a task plan for another cue; what counts as right stays as it was."""
    own, task.cue = task.cue, cue
    try:
        yield
    finally:
        task.cue = own
