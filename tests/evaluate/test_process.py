"""Process rates: which stage of remembering a planted fault is blamed on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from embodied.core.errors import DataError
from embodied.core.types import Working
from embodied.evaluate.process import NEEDED, STAGES, process_rates
from embodied.evaluate.runner import run
from tests.evaluate.fakes import CUES, FakePolicy, FakeVecEnv

SEEDS = range(9000, 9120)


class DropsWrites(FakePolicy):
    """Nothing reaches its memory."""

    def observe(self, obs: Any, time_s: Any, state: Any, reset: Any) -> Any:
        working, new = super().observe(obs, time_s, state, reset)
        return working, {**new, "seen": torch.zeros_like(new["seen"])}


class Decays(FakePolicy):
    """What was seen is gone a tick later, once nothing is seen any more."""

    def observe(self, obs: Any, time_s: Any, state: Any, reset: Any) -> Any:
        working, new = super().observe(obs, time_s, state, reset)
        shown = obs["cue"].sum(-1, keepdim=True) > 0
        return working, {**new, "seen": torch.where(shown, new["seen"], 0.0)}


class WrongKey(FakePolicy):
    """Finds the next cue's place where its own is asked for."""

    def observe(self, obs: Any, time_s: Any, state: Any, reset: Any) -> Any:
        working, new = super().observe(obs, time_s, state, reset)
        features = dict(working.features)
        features["seen"] = features["seen"].roll(1, dims=-1)
        return Working(features), new


class Stuck(FakePolicy):
    """Knows where to go and stays where it is."""

    def act(self, working: Any, noise: Any) -> Any:
        action = super().act(working, noise)
        return dataclasses.replace(action, chunk=torch.zeros_like(action.chunk))


def rates(policy: FakePolicy) -> dict[str, Any]:
    episodes = [
        episode
        for kind in NEEDED
        for episode in run(policy, FakeVecEnv(8), list(SEEDS), intervene=kind, n_cues=CUES)
    ]
    return process_rates(episodes)


@pytest.mark.parametrize(
    ("policy", "stage"),
    [(DropsWrites, "stored"), (Decays, "kept"), (WrongKey, "recalled"), (Stuck, "executed")],
)
def test_a_planted_fault_is_blamed_on_its_stage(policy: type[FakePolicy], stage: str) -> None:
    found = rates(policy())
    failures = sum(found["blamed"].values())
    assert failures >= 50 and found["blamed"][stage] >= 0.95 * failures
    for earlier in STAGES[: STAGES.index(stage)]:
        if stage != "executed":  # a hand that never moves tells nothing of what is remembered
            assert found[earlier]["rate"] >= 0.95
    assert found[stage]["rate"] <= 0.05


def test_a_sound_policy_passes_every_stage() -> None:
    found = rates(FakePolicy())
    assert all(found[stage]["rate"] == 1.0 and found[stage]["n"] == len(SEEDS) for stage in STAGES)
    assert found["blamed"] == {} and found["kept"]["low"] > 0.96


def test_a_twin_stores_nothing() -> None:
    found = rates(FakePolicy(remember=False))
    assert found["stored"]["rate"] == found["kept"]["rate"] == 0.0
    assert 0.2 < found["recalled"]["rate"] < 0.5 and set(found["blamed"]) == {"stored"}


def test_a_missing_intervention_is_named() -> None:
    some = run(FakePolicy(), FakeVecEnv(4), [1, 2], n_cues=CUES)
    with pytest.raises(DataError, match="missing: swapped, rewound, swapped_rewound"):
        process_rates(some)
