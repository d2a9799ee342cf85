"""The time of a decision: measured for one row, and left out where it would mean something else."""

from __future__ import annotations

import time

import pytest

from embodied.core.errors import ConfigError
from embodied.evaluate.latency import step_ms
from tests.evaluate.fakes import FakePolicy, FakeVecEnv


class SlowPolicy(FakePolicy):
    """Sleeps when it acts, and counts rows."""

    def __init__(self, ms: float, fixed: bool = False) -> None:
        super().__init__()
        self.ms, self.fixed, self.rows = ms, fixed, []

    def initial_state(self, batch, capacity=None):
        if self.fixed:
            raise ConfigError("a bundle without a graph for one row")
        return super().initial_state(batch, capacity)

    def act(self, working, noise):
        self.rows.append(len(noise))
        time.sleep(self.ms / 1e3)
        return super().act(working, noise)


def test_one_row_is_timed() -> None:
    policy, seen = SlowPolicy(5.0).train(), FakeVecEnv(4).obs
    assert 5.0 <= step_ms(policy, seen) < 50.0
    assert set(policy.rows) == {1} and policy.training


def test_a_slow_policy_is_not_called_for_minutes(monkeypatch) -> None:
    monkeypatch.setattr("embodied.evaluate.latency.LONGEST_S", 0.05)
    policy = SlowPolicy(20.0)
    assert step_ms(policy, FakeVecEnv(1).obs) >= 20.0
    assert 4 <= len(policy.rows) < 10


def test_what_can_not_take_one_row_has_no_time() -> None:
    assert step_ms(SlowPolicy(0.0, fixed=True), FakeVecEnv(2).obs) is None


@pytest.mark.parametrize("capacity", [None, 7])
def test_memory_has_the_size_that_is_evaluated(capacity) -> None:
    asked = []

    class Sized(FakePolicy):
        def initial_state(self, batch, capacity=None):
            asked.append((batch, capacity))
            return super().initial_state(batch)

    assert step_ms(Sized(), FakeVecEnv(2).obs, capacity) > 0
    assert asked[0] == (1, capacity)
