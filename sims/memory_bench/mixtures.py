"""Ceilings of progress tasks, whose one aliased observation is met at every choice.

Such a policy without memory has to randomise, in the same way each time, so its success is a
polynomial, without negative coefficients, in the probabilities of its actions. `best_mixture`
finds the polynomial exactly and maximises it where one of three facts applies:

* one product, c x1^m1 x2^m2 ...: best where each action's probability is its share of the
  exponents (the inequality of arithmetic and geometric means);
* all products of so many different actions, equally weighted (an elementary symmetric
  polynomial): best where all actions are equally likely (Maclaurin's inequality);
* a power of the sum of the probabilities: always the same.

Otherwise `search_mixture` climbs from many starts: a lower bound.
"""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Hashable, Sequence
from fractions import Fraction

from sims.memory_bench.abstract import (
    FAILURE,
    SUCCESS,
    Ceiling,
    Graph,
    Machine,
    Seen,
    StateId,
    best_memoryless,
)

Variable = tuple[Seen, Hashable]
"""The probability of an action where something is seen."""
Monomial = tuple[int, ...]
"""A product of variables: their numbers in ascending order, each as often as it is a factor."""
Polynomial = dict[Monomial, Fraction]
Mixture = dict[Hashable, Fraction]

_CLIMB, _GAIN = 2000, 1e-13


def best_policy(machine: Machine) -> Ceiling:
    """Returns the exact ceiling, by `best_mixture` or by `best_memoryless`, whichever applies.

    Raises:
      ValueError: As they do.
    """
    if Graph(machine).met_twice() is None:
        return best_memoryless(machine)
    return best_mixture(machine)


def best_mixture(machine: Machine) -> Ceiling:
    """Returns the exact ceiling of a machine whose aliased observations are met many times.

    Its `policy` maps what is seen to the probability of each action.

    Raises:
      ValueError: If the machine has a cycle, or its best mixture follows from none of the facts
        above.
    """
    graph = Graph(machine)
    variables, polynomial = _success(graph)
    total, policy = Fraction(0), {}
    for part in _parts(polynomial, variables):
        value, mixtures = _maximum(part, variables, graph)
        total += value
        policy.update(mixtures)
    return Ceiling(total, total, policy, len(graph.order), len(graph.aliased))


def search_mixture(machine: Machine, starts: int = 32, seed: int = 0) -> Ceiling:
    """Returns a good mixture found by climbing from many starts; `value` is a lower bound.

    Each step moves every probability in proportion to its share of the success, which never
    makes a polynomial without negative coefficients smaller. Source: Baum & Eagon, "An
    inequality with applications to statistical estimation", Bull. AMS 73 (1967).
    """
    graph = Graph(machine)
    variables, polynomial = _success(graph)
    generator = random.Random(seed)
    best, best_point = -1.0, [0.0] * len(variables)
    for _ in range(starts):
        point = [generator.expovariate(1.0) for _ in variables]
        value, point = _climb(polynomial, variables, _normalised(point, variables))
        if value > best:
            best, best_point = value, point
    policy: dict[Seen, Mixture] = {}
    for (seen, action), share in zip(variables, best_point, strict=True):
        policy.setdefault(seen, {})[action] = Fraction(share)
    upper = sum((p * graph.best[s] for s, p in machine.initial.items()), Fraction(0))
    return Ceiling(Fraction(best), upper, policy, len(graph.order), len(graph.aliased))


def _climb(
    polynomial: Polynomial, variables: Sequence[Variable], point: list[float]
) -> tuple[float, list[float]]:
    value = -1.0
    for _ in range(_CLIMB):
        shares, reached = [0.0] * len(point), 0.0
        for monomial, factor in polynomial.items():
            term = float(factor) * math.prod(point[v] for v in monomial)
            reached += term
            for v in monomial:
                shares[v] += term
        if reached - value <= _GAIN:
            break
        value = reached
        point = _normalised(shares, variables)
    return reached, point


def _normalised(shares: Sequence[float], variables: Sequence[Variable]) -> list[float]:
    total: dict[Seen, float] = {}
    for (seen, _), share in zip(variables, shares, strict=True):
        total[seen] = total.get(seen, 0.0) + share
    count = collections.Counter(seen for seen, _ in variables)
    # Where nothing depends on what is done, anything is as good.
    return [
        share / total[seen] if total[seen] else 1 / count[seen]
        for (seen, _), share in zip(variables, shares, strict=True)
    ]


# -- the polynomial -------------------------------------------------------------------------


def _success(graph: Graph) -> tuple[list[Variable], Polynomial]:
    """Returns the variables and the success of a policy as a polynomial in them."""
    choices = {seen: options for seen, options in graph.options.items() if len(options) > 1}
    variables = [(seen, action) for seen, options in choices.items() for action in options]
    number = {variable: index for index, variable in enumerate(variables)}
    below: dict[StateId, Polynomial] = {SUCCESS: {(): Fraction(1)}, FAILURE: {}}
    for state in reversed(graph.order):
        seen = graph.machine.observe(state)
        below[state] = {}
        for action in graph.options[seen]:
            factor = (number[seen, action],) if seen in choices else ()
            for child, p in graph.next[state][action].items():
                _add(below[state], below[child], p, factor)
    total: Polynomial = {}
    for state, p in graph.machine.initial.items():
        _add(total, below[state], Fraction(p), ())
    return variables, total


def _add(total: Polynomial, other: Polynomial, weight: Fraction, factor: Monomial) -> None:
    """Adds ``weight * factor * other`` to `total`, in place."""
    for monomial, coefficient in other.items():
        key = tuple(sorted(monomial + factor)) if factor else monomial
        total[key] = total.get(key, Fraction(0)) + weight * coefficient


def _parts(polynomial: Polynomial, variables: Sequence[Variable]) -> list[Polynomial]:
    """Splits a polynomial into parts that share no observation: each has its own maximum."""
    parts: list[tuple[set[Seen], Polynomial]] = []
    for monomial, coefficient in polynomial.items():
        seen = {variables[v][0] for v in monomial}
        joined: Polynomial = {monomial: coefficient}
        apart = []
        for other_seen, other in parts:
            if other_seen & seen:
                seen |= other_seen
                joined |= other
            else:
                apart.append((other_seen, other))
        parts = [*apart, (seen, joined)]
    return [part for _, part in parts]


# -- its maximum ----------------------------------------------------------------------------

Best = tuple[Fraction, dict[Seen, Mixture]]
"""The largest value, and a mixture for each observation that reaches it."""


def _maximum(polynomial: Polynomial, variables: Sequence[Variable], graph: Graph) -> Best:
    """Returns the largest value of a part, and where it is reached."""
    found = _one_product(polynomial, variables, graph) or _symmetric(polynomial, variables, graph)
    if found is not None:
        return found
    looks = sorted({repr(variables[v][0]) for monomial in polynomial for v in monomial})
    raise ValueError(
        f"{graph.machine.name}: the success of a mixture at {', '.join(looks)} is neither one "
        "product, nor an elementary symmetric polynomial, nor a power of a sum; use "
        "`search_mixture` for a lower bound, or make a step between the choices visible"
    )


def _one_product(
    polynomial: Polynomial, variables: Sequence[Variable], graph: Graph
) -> Best | None:
    if len(polynomial) != 1:
        return None
    ((monomial, value),) = polynomial.items()
    degree = collections.Counter(variables[v][0] for v in monomial)
    mixtures: dict[Seen, Mixture] = {
        seen: dict.fromkeys(graph.options[seen], Fraction(0)) for seen in degree
    }
    for v, exponent in collections.Counter(monomial).items():
        seen, action = variables[v]
        mixtures[seen][action] = share = Fraction(exponent, degree[seen])
        value *= share**exponent
    return value, mixtures


def _symmetric(polynomial: Polynomial, variables: Sequence[Variable], graph: Graph) -> Best | None:
    """An elementary symmetric polynomial or a power of the sum, of one observation's actions."""
    seen = {variables[v][0] for monomial in polynomial for v in monomial}
    degrees = {len(monomial) for monomial in polynomial}
    if len(seen) != 1 or len(degrees) != 1:
        return None
    (look,), (degree,) = seen, degrees
    options = graph.options[look]
    flat = all(len(set(monomial)) == degree for monomial in polynomial)
    elementary = flat and len(polynomial) == math.comb(len(options), degree)
    power = len(polynomial) == math.comb(len(options) + degree - 1, degree)
    if not elementary and not power:
        return None
    weights = {
        coefficient if elementary else coefficient / _arrangements(monomial)
        for monomial, coefficient in polynomial.items()
    }
    if len(weights) != 1:
        return None
    even = Fraction(1, len(options))
    value = sum(polynomial.values(), Fraction(0)) * even**degree
    return value, {look: dict.fromkeys(options, even)}


def _arrangements(monomial: Monomial) -> int:
    """Returns how often a monomial occurs in a power of the sum of its variables."""
    repeats = (math.factorial(n) for n in collections.Counter(monomial).values())
    return math.factorial(len(monomial)) // math.prod(repeats)
