"""The attacker of certificate 8: its decoder, and a trace that only a push leaves."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.commands import certify as command
from embodied.core.errors import ConfigError
from sims.memory_bench import attack, certify
from sims.memory_bench.catalog import TASKS


def _seen(seeds: int, classes: int, told: float) -> list[list[np.ndarray]]:
    """Returns what is seen: a scene of the seed, and `told` of the class."""
    rng = np.random.default_rng(0)
    scenes = rng.normal(size=(seeds, 30))
    return [[scene + told * np.eye(30)[k] for k in range(classes)] for scene in scenes]


def test_the_decoder_reads_what_is_there_and_guesses_what_is_not() -> None:
    plain, told = _seen(20, 4, 0.0), _seen(20, 4, 100.0)
    assert attack._decode(told[:10], told[10:]) == 40
    # What looks the same is answered alike: exactly one of four is right, without any luck.
    assert attack._decode(plain[:10], plain[10:]) == 10
    same = [[np.zeros(5)] * 3] * 4
    assert attack._decode(same[:2], same[2:]) == 2


def test_the_largest_difference_is_found_in_any_name() -> None:
    gates = [({"a": np.zeros(3)}, {"s": np.array([1, 2], np.uint8)}) for _ in range(3)]
    assert attack._spread_of(gates) == 0.0
    gates[1] = ({"a": np.zeros(3)}, {"s": np.array([1, 5], np.uint8)})
    assert attack._spread_of(gates) == 3.0


@pytest.mark.sim
def test_what_a_gate_forgets_to_put_back_is_found(monkeypatch) -> None:
    """A millionth of where the hand was before the gate stays in a velocity after it."""
    from sims.memory_bench.task import Task

    snap = Task._snap

    def forgetful(self, phase):
        hand = self.scene.eef_pos().copy()
        snap(self, phase)
        self.scene.d.qvel[-3:] = 1e-6 * hand

    monkeypatch.setattr(attack, "GENERATIONS", 1)
    monkeypatch.setattr(attack, "POPULATION", 3)
    tight = certify.attacked(TASKS["pick_times"], "easy", "fast", "state", 4, lambda *_: None)
    assert tight["holds"] and tight["largest_difference"] == 0.0 and tight["accuracy"] == 0.5
    monkeypatch.setattr(Task, "_snap", forgetful)
    loose = certify.attacked(TASKS["pick_times"], "easy", "fast", "state", 4, lambda *_: None)
    assert 1e-8 < loose["largest_difference"] < 1e-5


@pytest.mark.sim
def test_an_attack_that_never_gets_to_go_says_so(monkeypatch) -> None:
    monkeypatch.setattr(attack, "_play", lambda *_: None)
    with pytest.raises(RuntimeError, match="only 0 of 4 seeds could be played to the end"):
        certify.attacked(TASKS["put_block_back"], "easy", "fast", "state", 4, lambda *_: None)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="attack_seeds of 2 or more, or 0 for no attack, got 1"):
        command.Options("remember_color", attack_seeds=1)
    with pytest.raises(ConfigError, match="observation"):
        command.Options("remember_color", attack_sees=["smell"])


@pytest.mark.sim
@pytest.mark.parametrize("task", ["remember_color", "stale_fact"])
def test_where_the_arm_is_held_until_go_there_is_nothing_to_try(task):
    found = certify.attacked(TASKS[task], "easy", "fast", "state", 4, lambda *_: None)
    assert found["holds"] and found["candidates"] == 0 and found["accuracy"] == found["chance"]
