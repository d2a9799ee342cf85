"""The abstract machine of each task: its hidden states, what is seen of them, what can be done.

They leave out geometry and motion and keep what decides whether memory is needed; see
:mod:`sims.memory_bench.abstract` for the solver. numpy and MuJoCo are not needed here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine, StateId


def _uniform(states: Sequence[StateId]) -> dict[StateId, Fraction]:
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
        _uniform([(cue, 0) for cue in range(candidates)]),
        observe,
        actions,
        step,
        may_wait=lambda state: not held and stages[state[1]] not in ("gap", "go"),
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


@functools.lru_cache(maxsize=32)
def rearrange_sequences(candidates: int, pre_moves: int) -> tuple[tuple[int, tuple, int], ...]:
    """All histories of RearrangeBlock: ``(unmoved, moves, empty at start)``.

    One patch of K is empty, a block stands at the centre, one block on every other patch. Each
    of `pre_moves` moves takes a marked block to the empty patch; the last move takes the
    centre's block there. Exactly one block is never moved, so `pre_moves` >= K - 2: the first
    K - 2 of them move each other block once, the rest move some of them again.

    Returns:
      One tuple a history; ``moves`` holds ``(from, to)`` patch indices, ``from`` is -1 for the
      centre. Every unmoved patch occurs equally often.
    """
    if candidates < 2 or pre_moves < candidates - 2:
        raise ValueError(
            f"RearrangeBlock needs K >= 2 and pre_moves >= K - 2, got K={candidates}, "
            f"pre_moves={pre_moves}"
        )
    found = []
    for unmoved in range(candidates):
        others = [i for i in range(candidates) if i != unmoved]
        for order in itertools.permutations(others):
            moves = [(order[i + 1], order[i]) for i in range(candidates - 2)]
            chains = [(tuple(moves), order[-1])]
            for _ in range(pre_moves - (candidates - 2)):
                # Not the block that was moved last: that would only undo the move.
                chains = [
                    ((*chain, (source, empty)), source)
                    for chain, empty in chains
                    for source in others
                    if source != empty and source != chain[-1][1]
                ]
            found += [(unmoved, (*c, (-1, empty)), order[0]) for c, empty in chains]
    return tuple(found)


def rearrange_block(candidates: int, pre_moves: int) -> Machine:
    """RearrangeBlock: watch which block is never moved, then bring that one to the centre."""
    histories = rearrange_sequences(candidates, pre_moves)
    last = pre_moves + 1

    def observe(state):
        history, stage = state
        if stage > last:
            return ("gap" if stage == last + 1 else "go", None)
        if stage == last:
            return ("press", None)
        # In view: the lamp's step, which patch is empty, which block is marked for moving.
        return ("move", stage, *histories[history][1][stage])

    def actions(seen):
        if seen[0] == "go":
            return tuple(range(candidates))
        return ("hold",) if seen[0] == "gap" else ("do", "spoil")

    def step(state, action):
        history, stage = state
        if stage == last + 2:
            return {SUCCESS if action == histories[history][0] else FAILURE: Fraction(1)}
        return {FAILURE if action == "spoil" else (history, stage + 1): Fraction(1)}

    return Machine(
        "rearrange_block",
        _uniform([(h, 0) for h in range(len(histories))]),
        observe,
        actions,
        step,
        may_wait=lambda state: state[1] <= last,
    )


def with_visible_cue(machine: Machine, cue_of: Callable[[StateId], int]) -> Machine:
    """Returns the reactive twin: the same machine with the cue in sight all the time."""
    return dataclasses.replace(
        machine,
        name=f"{machine.name} with a visible cue",
        observe=lambda state: (machine.observe(state), cue_of(state)),
        actions=lambda seen: machine.actions(seen[0]),
    )


def machine_of(task: str, knobs: Mapping[str, Any]) -> Machine:
    """Returns the abstract machine of a task at the given knobs.

    Raises:
      KeyError: For a task that has none.
    """
    if task in ("lift", "stack"):
        return no_memory_needed(task)
    k = int(knobs["K"])
    if task == "remember_color":
        machine = cue_then_choice(task, k, ("show",), held=True)
    elif task == "put_block_back":
        machine = cue_then_choice(task, k, ("carry", "press"), held=False)
    elif task == "reopen_drawer":
        machine = cue_then_choice(task, k, ("close", "press"), held=False)
    elif task == "rearrange_block":
        moves = int(knobs["pre_moves"])
        machine, histories = rearrange_block(k, moves), rearrange_sequences(k, moves)
        if knobs.get("visible_cue"):
            return with_visible_cue(machine, lambda state: histories[state[0]][0])
    else:
        raise KeyError(f"no abstract machine for {task!r}")
    return (
        with_visible_cue(machine, lambda state: state[0]) if knobs.get("visible_cue") else machine
    )
