"""Control by choice: an action names one of the things to choose from; the expert does the rest.

What is left to learn is what to remember. A step lasts half a second while the arm is held. Work
before go is done to its end in one step, and so is the choice after it. Choices are numbered as
they are seen, from place to place, never by what only the simulator knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError, SimulatorError
from embodied.core.specs import DISCRETE, ActionSpec
from embodied.core.task import CHOICE, EXECUTE
from sims.choices import Chooser, check_choices
from sims.gym_env import MemoryBenchEnv
from sims.memory_bench.action import ACTION_SIZE, CONTROL_HZ
from sims.memory_bench.task import Task

PERIOD_TICKS = CONTROL_HZ // 2


class ChoiceEnv(MemoryBenchEnv):
    """A MemoryBench task with one decision: which of the things at hand.

    Observations, seeds, phases and outcomes are those of the task under ``control="fast"``.

    Args:
      task: As of `MemoryBenchEnv`; one that numbers its choices (`Task.choice_order`).
      level: As there.
      **kwargs: As there, but for `control`.

    Raises:
      ConfigError: For a task with several choices, or that isn't decided by choosing a thing.
    """

    metadata = {**MemoryBenchEnv.metadata, "control_hz": CONTROL_HZ / PERIOD_TICKS}

    def __init__(self, task: Any, level: str = "easy", **kwargs: Any) -> None:
        super().__init__(task, level, control="fast", **kwargs)
        # Before an episode is drawn, whether choices have an order shows in the class alone.
        ordered = type(self.task).choice_order is not Task.choice_order
        if not ordered or self.task.n_choices > 1:
            raise ConfigError(
                f"control={CHOICE}: {self.info.name} is not decided by choosing one thing; use "
                "control=fast, or a task that is, for example remember_color or put_block_back"
            )
        seen = self.task.shortest_sight_ticks
        if seen < PERIOD_TICKS:
            raise ConfigError(
                f"control={CHOICE} looks every {PERIOD_TICKS / CONTROL_HZ:g} s, and at these knobs "
                f"{self.info.name} shows what counts for {seen / CONTROL_HZ:g} s alone, so that it "
                "could be missed; take an easier level or other knobs, or control=fast"
            )

    def advance(self, action: Any) -> bool:
        """Lets half a second pass, at most to the next gate, or has work done to its end.

        Args:
          action: A whole number in 0..cues-1, in the order of `Task.choice_order`; checked, and
            then ignored before go.

        Raises:
          ActionError: For anything else.
          SimulatorError: If the episode is over or the simulation diverged.
        """
        choice = int(check_choices(np.asarray(action), (), self.action_spec.names, self.info.name))
        if self.over:
            raise SimulatorError("step() after the episode ended; call reset(seed=...) first")
        if self.task.held:
            hold = np.zeros(ACTION_SIZE, np.float32)
            return any(super(ChoiceEnv, self).advance(hold) for _ in range(PERIOD_TICKS))
        chooses = self.task.phase == EXECUTE
        return self._work(self.task.choice_order()[choice] if chooses else self.task.cue)

    def _work(self, cue: int) -> bool:
        """Lets the expert act as if the cue were `cue`, to the next gate or the end."""
        hand, gate = super().make_expert(), False
        while not (gate or self.over):
            with _believing(self.task, cue):
                motion = hand.act()
            gate = super().advance(motion)
        return gate

    def current_info(self, gate: bool = False, fresh: bool = False) -> dict[str, Any]:
        """As there; ``held`` says of every step before go that its action will not count."""
        held = self.task.phase != EXECUTE
        return {**super().current_info(gate, fresh), "held": held}

    @property
    def horizon(self) -> int:
        """Longest possible episode in steps: each gate may cut one short."""
        held = self.task.horizon - self.task.execute_ticks
        return held // PERIOD_TICKS + 2 + 1

    @property
    def action_spec(self) -> ActionSpec:
        """The choice, named by its number."""
        names = tuple(str(choice) for choice in range(self.task.n_cues))
        return ActionSpec(DISCRETE, len(names), 1, low=0.0, high=1.0, names=names)

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes this environment, as JSON-ready data."""
        hz = self.metadata["control_hz"]
        own = {"control": CHOICE, "action_size": self.task.n_cues, "control_hz": hz}
        return {**super().spec_dict(), **own}

    def make_expert(self, seed: int = 0, noise: float = 0.0) -> Chooser:
        """Returns a player that knows what is right; `noise` is its share of random choices."""
        return Chooser(self._right, self.task.n_cues, seed, noise)

    def _right(self) -> int:
        return list(self.task.choice_order()).index(self.task.cue)


@contextlib.contextmanager
def _believing(task: Task, cue: int) -> Iterator[None]:
    """Makes a task plan for another cue; what counts as right stays as it was."""
    own, task.cue = task.cue, cue
    try:
        yield
    finally:
        task.cue = own
