"""Progress tasks: after go comes a row of choices, and before each one the scene snaps.

What has to be remembered is how far one has got. So each choice starts from one canonical
state, drawn from the seed alone: the arm is back at home and nothing that was done shows. A
choice ends with a commit; a wrong one fails at once, a right one leads to the next choice, the
last one to success. Time limits are for each choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from embodied.core.rng import derive
from embodied.core.task import CUE, EXECUTE, GAP
from sims.memory_bench.task import TICKS_PER_S, Task


class ProgressTask(Task):
    """Base of progress tasks.

    A subclass follows :class:`Task`, but gives its variables in `choice_vars`, returns what
    :meth:`take` returned from `execute_tick`, and gives `n_choices` and `choice_progress`.
    What tells how far the episode has got must be in `hidden_vars`.

    Attributes:
      pauses: Whether the arm is held for a gap between two choices, of another length each time,
        so that time alone doesn't tell how many there were. Otherwise they follow at once.
    """

    hidden_vars: ClassVar[tuple[str, ...]] = ("done",)
    pauses: ClassVar[bool] = False

    @property
    def n_choices(self) -> int:
        """Number of choices that this episode's success takes."""
        raise NotImplementedError

    @property
    def most_choices(self) -> int:
        """Number of choices that an episode may hold, those after success was missed included."""
        return self.n_choices

    def choice_vars(self) -> dict[str, Any]:
        """Returns the variables that every gate puts back, at their initial values."""
        return {}

    def choice_progress(self) -> float:
        """Returns progress in [0, 1] within the present choice, for the dense reward."""
        raise NotImplementedError

    # -- the row of choices -----------------------------------------------------------------

    def take(
        self, what: str, right: bool, last: bool, failure_kind: str = "wrong_choice"
    ) -> str | None:
        """Takes a choice; returns the phase to snap to if another choice follows, else None.

        Args:
          what: What was chosen, in the words of `target`.
          right: Whether it was right.
          last: Whether no choice is left after it.
          failure_kind: What a wrong one is.
        """
        if last or not right:
            self.commit(what, right, failure_kind)
            return None
        self.vars["done"] += 1
        return GAP if self.pauses else EXECUTE

    def start_vars(self) -> dict[str, Any]:
        """Adds the number of choices taken."""
        return {"done": 0, **self.choice_vars()}

    def _begin(self, seed: int, cue: int) -> None:
        super()._begin(seed, cue)
        if self.pauses:
            low, high = self.gap_range_ticks
            rng = derive(seed, self.info.name, "pauses")
            self._pauses = rng.integers(low, high + 1, self.most_choices)

    def _snap(self, phase: str) -> None:
        self.vars.update(self.choice_vars())
        super()._snap(phase)

    def gap_length(self) -> int:
        """The gap before the next choice has its own length, if choices have gaps between them."""
        return int(self._pauses[self.vars["done"]]) if self.pauses else self.gap_ticks

    @property
    def leg(self) -> str:
        """The phase and, in a row of choices, which one."""
        return f"{self.phase} {self.vars['done']}"

    def swap_points(self) -> Mapping[str, bool]:
        """Where progress is to be remembered: the last choice, and the one before for the donor."""
        if not self.info.progress:
            return {}
        begins = self.phase == EXECUTE and self.phase_tick == 0
        left = self.n_choices - self.vars["done"]
        return {"swap_point": begins and left == 1, "donor_point": begins and left == 2}

    @property
    def horizon(self) -> int:
        """Longest possible episode in ticks, as the task's row tells it."""
        return round(self.info.horizon_s(vars(self.knobs)) * TICKS_PER_S)

    def potential(self) -> float:
        """Equal shares for the choices, and 1 for success."""
        if self.success:
            return 1.0
        if self.failure_kind or self.phase == CUE:
            return 0.0
        within = self.choice_progress() if self.phase == EXECUTE else 0.0
        return 0.95 * (self.vars["done"] + within) / self.n_choices
