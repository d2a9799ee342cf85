"""How many slots an evaluation gives to a memory that must hold whole episodes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from embodied.core import ticks
from embodied.core.errors import ConfigError
from embodied.evaluate.api import _capacity
from embodied.memory import build_memory
from tests.evaluate.fakes import FakePolicy

HORIZON_S = 30.0  # at 20 Hz and 0.4 s a look: 600 control ticks, of which 75 + 8 observe at most


def full_history(capacity: int, observe_on: str = "period") -> SimpleNamespace:
    """A loaded policy of that memory."""
    memory = build_memory("full_history", {"x": (1, 4)}, {"capacity": capacity})
    spec = dataclasses.replace(FakePolicy().spec, observe_on=observe_on)
    return SimpleNamespace(policy=SimpleNamespace(memory=memory, spec=spec))


def test_full_history_grows_with_the_episodes_and_refuses_less() -> None:
    bound = ticks.most_observations(600, 8)
    assert bound == 83
    assert _capacity(full_history(bound), HORIZON_S, 0) is None
    assert _capacity(full_history(bound - 1), HORIZON_S, 0) is None  # nothing reads the last
    assert _capacity(full_history(40), HORIZON_S, 0) == bound - 1
    assert _capacity(full_history(40), HORIZON_S, asked=90) == 90
    with pytest.raises(ConfigError, match="holds 40 past ticks, but the longest episode has 83"):
        _capacity(full_history(bound), HORIZON_S, asked=40)


def test_decisions_are_not_counted_by_time() -> None:
    assert _capacity(full_history(8, "decision"), HORIZON_S, 0) is None
    assert _capacity(full_history(8, "decision"), HORIZON_S, asked=4) == 4


def test_other_memories_keep_their_number() -> None:
    bank = SimpleNamespace(memory=build_memory("gru", {"x": (1, 4)}), spec=FakePolicy().spec)
    assert _capacity(SimpleNamespace(policy=bank), HORIZON_S, 0) is None


@pytest.mark.parametrize("period", [1, 3, 8])
def test_the_bound_holds(period: int) -> None:
    gate = np.zeros(40, bool)
    gate[[5, 11, 17, 18, 29]] = True
    seen = ticks.observation_ticks(gate, np.zeros(40, bool), ticks.PERIOD, period)
    assert len(seen) <= ticks.most_observations(40, period) <= 40
