"""Ceilings: the best success that a policy without memory can reach, computed exactly.

A task is reduced to a small finite machine: hidden states (the cue among them), what a policy
without memory sees of each, what it can do, and where that leads. A policy without memory maps
what it sees to actions, always in the same way. Its best success is the ceiling c* printed
beside every score.

Finding the best memoryless policy is hard in general; with a visible phase it isn't. If no
aliased observation (one that several states share) can be met twice in an episode, then
success is linear in the behaviour at each one, so some deterministic choice is best, and for
fixed choices at the aliased observations the rest is an ordinary decision process. So the
solver enumerates choices at aliased observations and solves the rest by dynamic programming,
in exact fractions. Where what is seen tells all that was done before (perfect recall), dynamic
programming over the observations does, and nothing is enumerated. Where an aliased observation can
be met twice it refuses, rather than print a number that a randomising policy might beat.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from typing import Any

SUCCESS, FAILURE = "SUCCESS", "FAILURE"
"""Terminal states of every machine."""

WAIT = "wait"
"""The action that a clocked machine adds: let one clock tick pass."""

_TERMINAL = (SUCCESS, FAILURE)
_MOST_CHOICES = 200_000
"""Joint deterministic choices at aliased observations that are enumerated at most."""

StateId = Hashable
Seen = Hashable
Policy = dict[Seen, Any]


@dataclasses.dataclass(frozen=True)
class Machine:
    """A task reduced to what matters for remembering.

    Attributes:
      name: The task's name, for messages.
      initial: First state -> probability (Fractions that sum to 1).
      observe: State -> what a policy without memory sees of it, the phase included.
      actions: What is seen -> the actions to choose from; one action means no choice.
      step: State, action -> next state -> probability. Next may be SUCCESS or FAILURE.
      may_wait: State -> True where time may pass at will; used by `with_clock` only.
      cue_of: State -> what there is to remember of it; used by the reactive twin only.
    """

    name: str
    initial: Mapping[StateId, Fraction]
    observe: Callable[[Any], Seen]
    actions: Callable[[Any], Sequence[Hashable]]
    step: Callable[[Any, Any], Mapping[StateId, Fraction]]
    may_wait: Callable[[Any], bool] = lambda state: False
    cue_of: Callable[[Any], Hashable] = lambda state: None


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """The answer of a solver.

    Attributes:
      value: Success probability that `policy` reaches.
      upper: A proven bound that no memoryless policy exceeds; equals `value` when exact.
      policy: What is seen -> action, for observations with a choice; or -> action ->
        probability, where only a randomising policy is best (see `mixtures`).
      states: Number of reachable states.
      aliased: Number of observations that several states share and that leave a choice.
    """

    value: Fraction
    upper: Fraction
    policy: Policy
    states: int
    aliased: int

    @property
    def exact(self) -> bool:
        """True when no memoryless policy can do better."""
        return self.value == self.upper


class Graph:
    """All reachable states in topological order, with the transitions of every action."""

    def __init__(self, machine: Machine) -> None:
        if sum(machine.initial.values()) != 1:
            raise ValueError(
                f"{machine.name}: initial probabilities sum to "
                f"{sum(machine.initial.values())}, expected 1"
            )
        self.machine = machine
        self.next: dict[StateId, dict[Hashable, Mapping[StateId, Fraction]]] = {}
        queue = list(machine.initial)
        while queue:
            state = queue.pop()
            if state in self.next or state in _TERMINAL:
                continue
            outcomes = {}
            for action in machine.actions(machine.observe(state)):
                outcome = {s: Fraction(p) for s, p in machine.step(state, action).items()}
                if sum(outcome.values()) != 1:
                    raise ValueError(
                        f"{machine.name}: from {state!r} by {action!r} the "
                        f"probabilities sum to {sum(outcome.values())}, expected 1"
                    )
                outcomes[action] = outcome
                queue.extend(outcome)
            self.next[state] = outcomes
        self.order = self._topological()
        self.groups: dict[Seen, list[StateId]] = {}
        for state in self.order:
            self.groups.setdefault(machine.observe(state), []).append(state)
        self.best = self._full_information()
        self.options = {seen: self._useful(seen) for seen in self.groups}
        self.aliased = [
            seen
            for seen, states in self.groups.items()
            if len(states) > 1 and len(self.options[seen]) > 1
        ]

    def _topological(self) -> list[StateId]:
        """Orders states so that every transition leads forward; refuses cycles."""
        order, mark = [], {}
        for root in self.next:
            stack = [(root, iter(self._successors(root)))] if root not in mark else []
            if stack:
                mark[root] = 1
            while stack:
                state, children = stack[-1]
                child = next(children, None)
                if child is None:
                    mark[state] = 2
                    order.append(state)
                    stack.pop()
                elif mark.get(child) == 1:
                    raise ValueError(
                        f"{self.machine.name}: state {child!r} can be met twice; the exact solver "
                        "needs a machine without cycles (use `evaluate` for a given policy)"
                    )
                elif child not in mark:
                    mark[child] = 1
                    stack.append((child, iter(self._successors(child))))
        return order[::-1]

    def _successors(self, state: StateId) -> list[StateId]:
        # A dictionary keeps the order of the machine; a set's differs between processes.
        found = dict.fromkeys(s for outcome in self.next[state].values() for s in outcome)
        return [s for s in found if s not in _TERMINAL]

    def _full_information(self) -> dict[StateId, Fraction]:
        """Success from each state for a policy that sees the hidden state."""
        value: dict[StateId, Fraction] = {SUCCESS: Fraction(1), FAILURE: Fraction(0)}
        for state in reversed(self.order):
            value[state] = max(_expect(o, value) for o in self.next[state].values())
        return value

    def _useful(self, seen: Seen) -> list[Hashable]:
        """Drops actions that can't succeed from any state that looks like this one."""
        states = self.groups[seen]
        actions = list(self.next[states[0]])
        useful = [
            a for a in actions if any(_expect(self.next[s][a], self.best) > 0 for s in states)
        ]
        return useful or actions[:1]

    def met_twice(self) -> Seen | None:
        """Returns an aliased observation with a choice that an episode can meet twice, or None."""
        for seen in self.aliased:
            group = set(self.groups[seen])
            below: set[StateId] = set()
            for state in self.order:
                if state in group and state in below:
                    return seen
                if state in group or state in below:
                    below.update(self._successors(state))
        return None

    def check_met_once(self) -> None:
        """Raises ValueError if an aliased observation with a choice can be met twice."""
        seen = self.met_twice()
        if seen is not None:
            raise ValueError(
                f"{self.machine.name}: observation {seen!r} can be met twice in an episode, so a "
                "randomising policy may beat every deterministic one; use `best_mixture`, or "
                "make the step that lies between visible (lamp)"
            )

    def solve(self, choices: Mapping[Seen, Hashable]) -> tuple[Fraction, Policy]:
        """Best success and policy with the choices at aliased observations given."""
        value: dict[StateId, Fraction] = {SUCCESS: Fraction(1), FAILURE: Fraction(0)}
        policy: Policy = dict(choices)
        for state in reversed(self.order):
            seen = self.machine.observe(state)
            if seen in choices:
                value[state] = _expect(self.next[state][choices[seen]], value)
                continue
            options = self.options[seen]
            scored = [(_expect(self.next[state][a], value), -i) for i, a in enumerate(options)]
            value[state], index = max(scored)
            if len(options) > 1:
                policy[seen] = options[-index]
        return _expect(self.machine.initial, value), policy

    def reach(self, policy: Mapping[Seen, Hashable]) -> dict[StateId, Fraction]:
        """Probability with which each state is met under a deterministic policy."""
        weight: dict[StateId, Fraction] = dict.fromkeys(self.order, Fraction(0))
        weight.update({s: Fraction(p) for s, p in self.machine.initial.items()})
        for state in self.order:
            if not weight[state]:
                continue
            seen = self.machine.observe(state)
            action = policy.get(seen, self.options[seen][0])
            for child, p in self.next[state][action].items():
                if child not in _TERMINAL:
                    weight[child] += weight[state] * p
        return weight

    def values(self, policy: Mapping[Seen, Hashable]) -> dict[StateId, Fraction]:
        """Success from each state under a deterministic policy."""
        value: dict[StateId, Fraction] = {SUCCESS: Fraction(1), FAILURE: Fraction(0)}
        for state in reversed(self.order):
            seen = self.machine.observe(state)
            value[state] = _expect(self.next[state][policy.get(seen, self.options[seen][0])], value)
        return value


def _with_recall(graph: Graph) -> Ceiling | None:
    """Returns the exact ceiling where every observation tells all earlier choices, else None.

    Then how likely the states behind an observation are, given that it is met, doesn't depend on
    the policy, so the best action at each follows from those at later ones.
    """
    known = _chances(graph)
    if known is None:
        return None
    chance, earlier = known
    value: dict[StateId, Fraction] = {SUCCESS: Fraction(1), FAILURE: Fraction(0)}
    policy: Policy = {}

    def worth(state: StateId) -> Fraction:
        if state not in value:
            seen = graph.machine.observe(state)
            action = policy.get(seen, graph.options[seen][0])
            value[state] = sum(p * worth(s) for s, p in graph.next[state][action].items())
        return value[state]

    def gain(seen: Seen, action: Hashable) -> Fraction:
        outcomes = [(chance[s], graph.next[s][action]) for s in graph.groups[seen] if s in chance]
        return sum(c * p * worth(s) for c, outcome in outcomes for s, p in outcome.items())

    for seen in sorted(earlier, key=lambda seen: len(earlier[seen]), reverse=True):
        policy[seen] = max(graph.options[seen], key=lambda action: gain(seen, action))
    best = sum((p * worth(s) for s, p in graph.machine.initial.items()), Fraction(0))
    return Ceiling(best, best, policy, len(graph.order), len(graph.aliased))


def _chances(
    graph: Graph,
) -> tuple[dict[StateId, Fraction], dict[Seen, tuple[tuple[Seen, Hashable], ...]]] | None:
    """Returns how likely each state is once the choices that lead to it are made, and for each
    observation with a choice the choices before it; None if an observation doesn't tell them.
    """
    chance: dict[StateId, Fraction] = {s: Fraction(p) for s, p in graph.machine.initial.items()}
    made: dict[StateId, tuple] = dict.fromkeys(chance, ())
    earlier: dict[Seen, tuple] = {}
    for state in graph.order:
        if state not in made:
            continue
        seen = graph.machine.observe(state)
        chooses = len(graph.options[seen]) > 1
        if chooses and earlier.setdefault(seen, made[state]) != made[state]:
            return None
        for action in graph.options[seen]:
            now = (*made[state], (seen, action)) if chooses else made[state]
            for child, p in graph.next[state][action].items():
                if child in _TERMINAL or not p:
                    continue
                if made.setdefault(child, now) != now:
                    return None
                chance[child] = chance.get(child, Fraction(0)) + chance[state] * p
    return chance, earlier


def _expect(outcome: Mapping[StateId, Fraction], value: Mapping[StateId, Fraction]) -> Fraction:
    # Failure, worth nothing, is the most frequent outcome: spare it the arithmetic.
    return sum((p * value[s] for s, p in outcome.items() if value[s]), Fraction(0))


def best_memoryless(machine: Machine) -> Ceiling:
    """Returns the exact ceiling of a machine whose aliased observations are met once.

    Raises:
      ValueError: If the machine has a cycle, an aliased observation can be met twice, or there
        are too many joint choices to enumerate.
    """
    graph = Graph(machine)
    if (recalled := _with_recall(graph)) is not None:
        return recalled
    graph.check_met_once()
    spaces = [graph.options[seen] for seen in graph.aliased]
    count = math.prod(len(space) for space in spaces)
    if count > _MOST_CHOICES:
        raise ValueError(
            f"{machine.name}: {count} joint choices at {len(spaces)} aliased observations; at most "
            f"{_MOST_CHOICES} are enumerated. Use `search_memoryless` for bounds"
        )
    best, policy = max(
        (
            graph.solve(dict(zip(graph.aliased, joint, strict=True)))
            for joint in itertools.product(*spaces)
        ),
        key=lambda pair: pair[0],
    )
    return Ceiling(best, best, policy, len(graph.order), len(graph.aliased))


def search_memoryless(machine: Machine, starts: int = 32, seed: int = 0) -> Ceiling:
    """Returns a memoryless policy by alternating best responses from many starts, and a bound.

    The bound is the better of two: what a policy that sees the hidden state reaches, and, when
    nothing before the aliased observations leaves a choice, the sum over aliased observations of
    each one's best action (then they don't interact, and the answer is exact).
    """
    graph = Graph(machine)
    if (recalled := _with_recall(graph)) is not None:
        return recalled
    graph.check_met_once()
    generator = random.Random(seed)
    best, best_policy = Fraction(-1), {}
    for start in range(starts):
        choices = {
            seen: generator.choice(graph.options[seen])
            if start  # the first start goes round the options, which covers them evenly
            else graph.options[seen][index % len(graph.options[seen])]
            for index, seen in enumerate(graph.aliased)
        }
        value, policy = graph.solve(choices)
        while True:
            improved, policy_next = graph.solve(_respond(graph, policy))
            if improved <= value:
                break
            value, policy = improved, policy_next
        if value > best:
            best, best_policy = value, policy
        if best == 1:
            break
    upper = _expect(machine.initial, graph.best)
    if _aliased_are_independent(graph):
        upper = min(upper, graph.solve(_respond(graph, best_policy))[0])
    return Ceiling(best, upper, best_policy, len(graph.order), len(graph.aliased))


def _respond(graph: Graph, policy: Policy) -> dict[Seen, Hashable]:
    """Returns the best choice at each aliased observation while the rest stays as it is."""
    weight, value = graph.reach(policy), graph.values(policy)
    choices = {}
    for seen in graph.aliased:
        scored = {
            a: sum(
                (weight[s] * _expect(graph.next[s][a], value) for s in graph.groups[seen]),
                Fraction(0),
            )
            for a in graph.options[seen]
        }
        top = max(scored.values())
        keep = policy.get(seen)
        choices[seen] = keep if scored.get(keep) == top else max(scored, key=scored.__getitem__)
    return choices


def _aliased_are_independent(graph: Graph) -> bool:
    """True if no aliased observation lies above another and none lies below another choice."""
    aliased = set(graph.aliased)
    above_has_choice: set[StateId] = set()
    for state in graph.order:
        seen = graph.machine.observe(state)
        if seen in aliased and state in above_has_choice:
            return False
        if state in above_has_choice or len(graph.options[seen]) > 1:
            above_has_choice.update(graph._successors(state))
    return True


def with_clock(machine: Machine, limit: int) -> Machine:
    """Returns the machine seen by a policy that also reads a clock running since the reset.

    Each transition takes one clock tick. Where the machine may wait, the policy may let a tick
    pass, up to `limit` ticks in all: that is how a policy without memory could keep the cue in
    the time at which it ends the cue phase.
    """

    def actions(seen):
        below, tick, may_wait = seen
        options = tuple(machine.actions(below))
        return (*options, WAIT) if may_wait and tick < limit else options

    def step(state, action):
        below, tick = state
        if action == WAIT:
            return {(below, tick + 1): Fraction(1)}
        return {
            s if s in _TERMINAL else (s, tick + 1): p
            for s, p in machine.step(below, action).items()
        }

    return Machine(
        f"{machine.name} with a clock",
        {(s, 0): p for s, p in machine.initial.items()},
        lambda state: (machine.observe(state[0]), state[1], machine.may_wait(state[0])),
        actions,
        step,
    )


def evaluate(
    machine: Machine, policy: Mapping[Seen, Mapping[Hashable, float]], tolerance: float = 1e-12
) -> float:
    """Returns the success of a given, possibly randomising, policy; cycles are fine.

    Args:
      machine: The machine.
      policy: What is seen -> action -> probability. Missing observations take the first action.
      tolerance: Probability mass still under way at which the sum stops.
    """
    weight = {s: float(p) for s, p in machine.initial.items()}
    success = 0.0
    while sum(weight.values()) > tolerance:
        following: dict[StateId, float] = {}
        for state, mass in weight.items():
            seen = machine.observe(state)
            mixture = policy.get(seen) or {machine.actions(seen)[0]: 1.0}
            for action, share in mixture.items():
                for child, p in machine.step(state, action).items():
                    if child == SUCCESS:
                        success += mass * share * float(p)
                    elif child != FAILURE:
                        following[child] = following.get(child, 0.0) + mass * share * float(p)
        weight = following
    return success
