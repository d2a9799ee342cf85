"""Abstract machines: builders that several tasks share; a task names its own in `Task.machine`.

They leave out geometry and motion and keep what decides whether memory is needed; see
:mod:`sims.memory_bench.abstract` for the solver. numpy and MuJoCo are not needed here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from embodied.core.task import TaskInfo
from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine, StateId

if TYPE_CHECKING:
    from sims.memory_bench.task import Task


def uniform(states: Sequence[StateId]) -> dict[StateId, Fraction]:
    """Returns the initial probabilities of equally likely states."""
    return {state: Fraction(1, len(states)) for state in states}


def cue_then_choice(name: str, candidates: int, steps: Sequence[str], held: bool) -> Machine:
    """A cue in plain view, `steps` to take meanwhile, a gap, then one choice of `candidates`.

    Args:
      name: The task's name.
      candidates: K, cue values and choices.
      steps: What the policy has to do while the cue is visible, in order; each shows on the
        lamp. After the last one the cue phase is over and everything has snapped.
      held: True if the arm is held during the cue phase, so that its length isn't the
        policy's to choose.
    """
    stages = (*(("show",) if held else steps), "gap", "go")

    def observe(state):
        cue, stage = state
        # Before the gate the cue, or what was just done to it, is in view; after it nothing is.
        return (stages[stage], cue if stage < len(stages) - 2 else None)

    def actions(seen):
        if seen[0] == "go":
            return tuple(range(candidates))
        return ("hold",) if held or seen[0] == "gap" else ("do", "spoil")

    def step(state, action):
        cue, stage = state
        if stages[stage] == "go":
            return {SUCCESS if action == cue else FAILURE: Fraction(1)}
        return {FAILURE if action == "spoil" else (cue, stage + 1): Fraction(1)}

    return Machine(
        name,
        uniform([(cue, 0) for cue in range(candidates)]),
        observe,
        actions,
        step,
        may_wait=lambda state: not held and stages[state[1]] not in ("gap", "go"),
        cue_of=lambda state: state[0],
    )


def no_memory_needed(name: str) -> Machine:
    """A task in plain view all the time, to be done or spoilt."""
    return Machine(
        name,
        {"go": Fraction(1)},
        lambda state: state,
        lambda seen: ("do", "spoil"),
        lambda state, action: {SUCCESS if action == "do" else FAILURE: Fraction(1)},
    )


def with_visible_cue(machine: Machine) -> Machine:
    """Returns the reactive twin: the same machine with the cue in sight all the time."""
    return dataclasses.replace(
        machine,
        name=f"{machine.name} with a visible cue",
        observe=lambda state: (machine.observe(state), machine.cue_of(state)),
        actions=lambda seen: machine.actions(seen[0]),
    )


def task_class(info: TaskInfo) -> type[Task]:
    """Imports the class that a row of the task table names."""
    module, _, class_name = info.entry.partition(":")
    return getattr(importlib.import_module(module), class_name)


def machine_of(info: TaskInfo, knobs: Mapping[str, Any]) -> Machine:
    """Returns a task's abstract machine at `knobs`, or its reactive twin's."""
    machine = task_class(info).machine(knobs)
    return with_visible_cue(machine) if knobs.get("visible_cue") else machine
