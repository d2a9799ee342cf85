"""Ceilings of randomising policies: against closed forms, a search, and machines to refuse."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from sims.memory_bench.abstract import FAILURE, SUCCESS, Machine, best_memoryless, evaluate
from sims.memory_bench.mixtures import best_mixture, best_policy, search_mixture
from sims.memory_bench.tasks.checklist_inspect import ChecklistInspect
from sims.memory_bench.tasks.order_recall import OrderRecall
from sims.memory_bench.tasks.pick_times import PickTimes


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_placing_n_times(n):
    found = best_mixture(PickTimes.machine({"n_min": n, "n_max": n}))
    assert found.exact and found.value == Fraction(1, n + 1) * Fraction(n, n + 1) ** n
    assert found.policy == {n: {"place": Fraction(n, n + 1), "stop": Fraction(1, n + 1)}}


def test_several_numbers_of_times_are_solved_apart():
    alone = [best_mixture(PickTimes.machine({"n_min": n, "n_max": n})).value for n in (1, 2, 3)]
    assert best_mixture(PickTimes.machine({"n_min": 1, "n_max": 3})).value == sum(alone) / 3


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_a_checklist(k):
    found = best_mixture(ChecklistInspect.machine({"K": k}))
    assert found.value == Fraction(math.factorial(k), (k + 1) ** (k + 1))


@pytest.mark.parametrize(
    ("k", "length", "repeats"), [(4, 4, 0), (4, 2, 0), (5, 3, 0), (3, 4, 1), (4, 2, 1)]
)
def test_an_order(k, length, repeats):
    machine = OrderRecall.machine({"K": k, "L": length, "repeats": repeats})
    found = best_mixture(machine)
    assert found.value == Fraction(1, k**length)
    assert evaluate(machine, found.policy) == pytest.approx(float(found.value))


@pytest.mark.parametrize(
    "machine",
    [
        PickTimes.machine({"n_min": 2, "n_max": 3}),
        ChecklistInspect.machine({"K": 3}),
        OrderRecall.machine({"K": 4, "L": 2, "repeats": 0}),
    ],
    ids=lambda machine: machine.name,
)
def test_a_search_from_many_starts_finds_no_more(machine):
    found, exact = search_mixture(machine, starts=6), best_mixture(machine)
    assert float(found.value) == pytest.approx(float(exact.value))
    assert not found.exact and found.upper == 1
    assert evaluate(machine, found.policy) == pytest.approx(float(found.value))


def _chain(needed: str, weights: tuple[Fraction, ...]) -> Machine:
    """One look, actions a and b; each word of `needed` has its weight and must be spelt."""
    words = needed.split()

    def step(state, action):
        word, at = state
        if words[word][at] != action:
            return {FAILURE: Fraction(1)}
        return {SUCCESS if at + 1 == len(words[word]) else (word, at + 1): Fraction(1)}

    return Machine(
        "spelling",
        {(word, 0): weight for word, weight in enumerate(weights)},
        lambda state: "look",
        lambda seen: ("a", "b"),
        step,
    )


def test_what_no_fact_covers_is_refused_and_searched():
    # 0.5 (a^3 + b^3) is largest at the ends, where a mixture of both is worth less.
    machine = _chain("aaa bbb", (Fraction(1, 2), Fraction(1, 2)))
    with pytest.raises(ValueError, match="search_mixture"):
        best_mixture(machine)
    assert float(search_mixture(machine).value) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="search_mixture"):
        best_mixture(_chain("ab ba aab", (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))))
    # The same products as an elementary polynomial has, but of unequal weight.
    with pytest.raises(ValueError, match="search_mixture"):
        best_mixture(_chain("a b", (Fraction(1, 4), Fraction(3, 4))))


def test_each_kind_of_machine_gets_its_solver():
    plain = OrderRecall.machine({"K": 3, "L": 1, "repeats": 0})
    assert best_policy(plain).value == best_memoryless(plain).value == Fraction(1, 3)
    machine = ChecklistInspect.machine({"K": 2})
    with pytest.raises(ValueError, match="met twice"):
        best_memoryless(machine)
    assert best_policy(machine) == best_mixture(machine)
