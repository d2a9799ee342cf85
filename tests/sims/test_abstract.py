"""The ceiling solver against closed forms, brute force and machines it must refuse."""

import itertools
import random
from fractions import Fraction

import pytest

from sims.memory_bench.abstract import (
    FAILURE,
    SUCCESS,
    Machine,
    best_memoryless,
    evaluate,
    search_memoryless,
    with_clock,
)
from sims.memory_bench.machines import cue_then_choice


def test_randomising_reaches_the_same_and_no_more():
    machine = cue_then_choice("t", 4, ("carry", "press"), held=False)
    share = dict.fromkeys(range(4), 0.25)
    assert evaluate(machine, {("go", None): share}) == pytest.approx(0.25)


def test_a_clock_defeats_an_interactive_cue_but_not_a_held_one():
    interactive = cue_then_choice("t", 5, ("carry", "press"), held=False)
    held = cue_then_choice("t", 5, ("show",), held=True)
    with_time = search_memoryless(with_clock(interactive, 10))
    assert with_time.exact and with_time.value == 1
    assert search_memoryless(with_clock(held, 10)).value == Fraction(1, 5)
    assert best_memoryless(with_clock(held, 10)).value == Fraction(1, 5)


def test_too_little_slack_for_the_clock():
    # One press step with room for one waiting tick: the clock can tell two groups of cues apart.
    machine = cue_then_choice("t", 5, ("press",), held=False)
    assert search_memoryless(with_clock(machine, 1)).value == Fraction(2, 5)
    assert best_memoryless(with_clock(machine, 1)).value == Fraction(2, 5)


def test_an_ungated_machine_needs_no_memory():
    # The block's offset at the centre still shows where it came from: no aliasing, no ceiling.
    def step(state, action):
        cue, stage = state
        if stage == 1:
            return {SUCCESS if action == cue else FAILURE: Fraction(1)}
        return {(cue, 1): Fraction(1)}

    machine = Machine(
        "leaky",
        {(c, 0): Fraction(1, 3) for c in range(3)},
        lambda state: state,
        lambda seen: (0, 1, 2) if seen[1] == 1 else ("do",),
        step,
    )
    ceiling = best_memoryless(machine)
    assert ceiling.value == 1 and ceiling.aliased == 0


@pytest.mark.parametrize("seed", range(12))
def test_against_brute_force_on_random_layered_machines(seed):
    machine, seen_actions = _random_machine(seed)
    everything = [
        dict(zip(seen_actions, joint, strict=True))
        for joint in itertools.product(*seen_actions.values())
    ]
    brute = max(evaluate(machine, {s: {a: 1.0} for s, a in p.items()}) for p in everything)
    ceiling = best_memoryless(machine)
    assert float(ceiling.value) == pytest.approx(brute)
    found = search_memoryless(machine, starts=16, seed=seed)
    assert found.value <= ceiling.value <= found.upper


def _random_machine(seed):
    """Three layers of four states behind two observations each, two actions, random leads."""
    generator = random.Random(seed)
    layers, width = 3, 4
    table, look = {}, {}
    for layer in range(layers):
        for state in range(width):
            look[layer, state] = (layer, generator.randrange(2))
            for action in range(2):
                if layer == layers - 1:
                    p = Fraction(generator.randrange(5), 4)
                    table[(layer, state), action] = {SUCCESS: p, FAILURE: 1 - p}
                else:
                    a, b = generator.sample(range(width), 2)
                    p = Fraction(generator.randrange(1, 4), 4)
                    table[(layer, state), action] = {(layer + 1, a): p, (layer + 1, b): 1 - p}
    machine = Machine(
        f"random {seed}",
        {(0, s): Fraction(1, width) for s in range(width)},
        look.__getitem__,
        lambda seen: (0, 1),
        lambda state, action: table[state, action],
    )
    return machine, dict.fromkeys(sorted(set(look.values())), (0, 1))


@pytest.mark.parametrize("depth", [2, 9])
def test_what_is_seen_tells_all_that_was_done(depth):
    """A way to guess step by step, in sight as far as it goes; the last step is a loaded coin.

    Nine steps have 2^511 joint choices: only perfect recall solves that.
    """

    def following(way):
        if len(way) == depth - 1:
            return {(way, 0): Fraction(1, 4), (way, 1): Fraction(3, 4)}
        return {(way, right): Fraction(1, 2) for right in range(2)}

    def step(state, action):
        way, right = state
        if action != right:
            return {FAILURE: Fraction(1)}
        return {SUCCESS: Fraction(1)} if len(way) == depth - 1 else following((*way, right))

    machine = Machine("t", following(()), lambda state: state[0], lambda seen: (0, 1), step)
    ceiling = best_memoryless(machine)
    assert ceiling.exact and ceiling.value == Fraction(3, 4) / 2 ** (depth - 1)
    assert ceiling.aliased == 2**depth - 1 and len(ceiling.policy) == ceiling.aliased
    mixture = {seen: {action: 1.0} for seen, action in ceiling.policy.items()}
    assert evaluate(machine, mixture) == pytest.approx(float(ceiling.value))
    assert search_memoryless(machine, starts=1).upper == ceiling.value


def test_refuses_an_aliased_observation_that_returns():
    # Two coins in a row behind one look: randomising (1/4) beats every fixed choice (0).
    def step(state, action):
        if state == "first":
            return {"second" if action == "a" else FAILURE: Fraction(1)}
        return {SUCCESS if action == "b" else FAILURE: Fraction(1)}

    machine = Machine("t", {"first": Fraction(1)}, lambda s: "same", lambda o: ("a", "b"), step)
    with pytest.raises(ValueError, match="met twice"):
        best_memoryless(machine)
    assert evaluate(machine, {"same": {"a": 0.5, "b": 0.5}}) == pytest.approx(0.25)


def test_refuses_cycles_and_bad_probabilities():
    loop = Machine("t", {0: Fraction(1)}, lambda s: s, lambda o: ("a",), lambda s, a: {0: 1})
    with pytest.raises(ValueError, match="without cycles"):
        best_memoryless(loop)
    short = Machine("t", {0: Fraction(1, 2)}, lambda s: s, lambda o: ("a",), lambda s, a: {})
    with pytest.raises(ValueError, match="sum to 1/2"):
        best_memoryless(short)
    leak = Machine("t", {0: Fraction(1)}, lambda s: s, lambda o: ("a",), lambda s, a: {})
    with pytest.raises(ValueError, match="expected 1"):
        best_memoryless(leak)
