"""Interventions on memory: is what a policy does at go decided by what it remembers?

* ``swapped``: at the first observation after go the memory is exchanged with a donor's. The
  donor is the SAME episode seed with the cyclically next cue, run by the same policy until
  its own go. Every observation at go is bit-equal there (aliasing, checked here), so
  only the memory differs, and a policy that uses it must do what the donor's cue demands.
  The memory's clock goes along: if the donor reached go at another time, the row's clock is
  shifted so that stored times keep their distance to the present.
* ``erased``: the memory is replaced by the empty one at the same moment. An empty memory is
  out of distribution after go, so this is diagnostic only.
* ``frozen``: from that moment on the memory is read but no longer written.
* ``rewound``: the memory is put back to what it was when the cue phase ended, so that the gap
  left nothing in it and took nothing out.
* ``swapped_rewound``: the donor's memory of that earlier moment. With the two before and
  ``swapped`` it tells where memory fails; see :mod:`embodied.evaluate.process`.

A task may name another moment by ``info["swap_point"]``, and by ``info["donor_point"]`` one for
the donor, which then has the row's own cue. So do tasks where how far one has got must be
remembered: there the last choice gets the memory of the one before it, as if less had been done,
and memory is rewound to the first observation of the gap before that choice, the first to tell that
another one was taken.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from embodied.core.errors import ConfigError, SimulatorError, unknown_name
from embodied.core.policy import take_rows
from embodied.core.task import EXECUTE, GAP
from embodied.core.types import State
from embodied.evaluate.results import (
    ERASED,
    FROZEN,
    INTERVENTIONS,
    NONE,
    REWINDS,
    REWOUND,
    SWAPPED_REWOUND,
    SWAPS,
)
from embodied.memory.base import where_rows


@dataclasses.dataclass
class Donor:
    """What a donor episode leaves at its go.

    Attributes:
      seed: Episode seed.
      cue: The donor's cue.
      target: The commit that this cue demands.
      state: Memory before the observation at go, or as the cue phase left it, one row.
      observation: What the policy would observe at go.
      time_s: The donor's clock at go.
    """

    seed: int
    cue: int
    target: str
    state: State
    observation: dict[str, np.ndarray]
    time_s: float


def check_intervention(kind: str, n_cues: int | None) -> None:
    """Refuses unknown interventions, and swaps where there is no other cue."""
    if kind not in INTERVENTIONS:
        raise unknown_name("intervention", kind, INTERVENTIONS)
    if kind in SWAPS and (n_cues is None or n_cues < 2):
        raise ConfigError(f"intervene={kind} needs a task with two cues or more, got {n_cues}")


def at_point(infos: dict[str, Any], gate: np.ndarray, donor: np.ndarray) -> np.ndarray:
    """Returns bool [B]: rows at the moment of the intervention, donors at theirs."""
    if "donor_point" in infos:
        return np.where(donor, infos["donor_point"], infos["swap_point"]).astype(bool)
    if "swap_point" in infos:
        return np.asarray(infos["swap_point"], bool)
    phase = infos["phase"]
    return gate & np.fromiter((p == EXECUTE for p in phase), bool, len(phase))


def cue_over(infos: dict[str, Any], gate: np.ndarray) -> np.ndarray:
    """Returns bool [B]: rows whose cue phase has just ended."""
    phase = infos["phase"]
    return gate & np.fromiter((p == GAP for p in phase), bool, len(phase))


class MemoryIntervention:
    """Applies one kind of intervention to the rows of a batch.

    Args:
      kind: One of `INTERVENTIONS`.
      batch: B.
    """

    def __init__(self, kind: str, batch: int) -> None:
        self.kind = kind
        self.donors: list[Donor | None] = [None] * batch
        self.after_cue: list[State | None] = [None] * batch
        self.pending = np.zeros(batch, bool)
        self.passed = np.zeros(batch, bool)
        self.clock_shift_s = np.zeros(batch, np.float64)

    def start(self, row: int) -> None:
        """A new episode begins in `row`; a donor kept for it stays."""
        self.pending[row] = self.passed[row] = False
        self.after_cue[row] = None
        self.clock_shift_s[row] = 0.0

    def arrive(self, rows: np.ndarray) -> np.ndarray:
        """Marks rows that are at the point for the first time in their episode; returns them."""
        arrived = rows & ~self.passed & ~self.pending
        if self.kind != NONE:
            self.pending |= arrived
        return arrived

    def leave_cue(self, rows: np.ndarray, state: State) -> None:
        """Keeps the memory of rows that have just seen all of a cue, where that will be needed."""
        if self.kind in REWINDS:
            for row in np.flatnonzero(rows):
                self.after_cue[row] = _one(state, int(row))

    def happened(self, row: int) -> bool | None:
        """Returns whether the row's episode was intervened in; None without intervention."""
        return None if self.kind == NONE else bool(self.passed[row])

    def apply(
        self,
        state: State,
        initial: State,
        observation: dict[str, np.ndarray],
        time_s: np.ndarray,
        due: np.ndarray,
    ) -> State:
        """Changes the memory of rows in `due` whose moment has come, before they observe.

        Raises:
          SimulatorError: If a donor's observation differs from the row's.
        """
        now = self.pending & due
        if not now.any():
            return state
        if self.kind in SWAPS:
            state = {name: tensor.clone() for name, tensor in state.items()}
            for row in np.flatnonzero(now):
                donor = self.donors[row]
                if donor is None:  # it never reached go, so there is nothing to swap in
                    now[row] = False
                    continue
                _check_aliased(donor, observation, int(row))
                self.clock_shift_s[row] = donor.time_s - float(time_s[row])
                for name, tensor in state.items():
                    tensor[row] = donor.state[name][0]
        elif self.kind == REWOUND:
            state = {name: tensor.clone() for name, tensor in state.items()}
            for row in np.flatnonzero(now):
                earlier = self.after_cue[row]
                if earlier is None:  # no phase of the task shows a cue
                    now[row] = False
                    continue
                for name, tensor in state.items():
                    tensor[row] = earlier[name][0]
        elif self.kind == ERASED:
            rows = torch.from_numpy(now)
            state = {
                name: where_rows(rows.to(tensor.device), initial[name], tensor)
                for name, tensor in state.items()
            }
        self.passed |= now
        self.pending &= ~due
        return state

    def written(self, due: np.ndarray) -> np.ndarray:
        """Returns the rows of `due` whose memory may change at this tick."""
        return due & ~self.passed if self.kind == FROZEN else due

    def keep_donor(
        self,
        row: int,
        seed: int,
        cue: int,
        target: str,
        state: State,
        observation: dict[str, np.ndarray],
        time_s: float,
    ) -> None:
        """Stores the memory of the donor episode in `row` for the row's next episode."""
        kept = _one(state, row)
        if self.kind == SWAPPED_REWOUND:
            earlier = self.after_cue[row]
            if earlier is None:  # no phase of the task shows a cue, so there is nothing to swap in
                return
            kept = earlier
        self.donors[row] = Donor(
            seed,
            cue,
            target,
            kept,
            {key: np.array(value[row]) for key, value in observation.items()},
            time_s,
        )


def _one(state: State, row: int) -> State:
    """Returns a copy of one row."""
    return {name: tensor.clone() for name, tensor in take_rows(state, [row]).items()}


def _check_aliased(donor: Donor, observation: dict[str, np.ndarray], row: int) -> None:
    different = [
        key
        for key, value in donor.observation.items()
        if not np.array_equal(value, observation[key][row])
    ]
    if different:
        raise SimulatorError(
            f"episode {donor.seed}: after go the observations {different} differ between two "
            "cues, so a swap of memories would prove nothing. The task leaks; "
            "run: embodied certify"
        )
