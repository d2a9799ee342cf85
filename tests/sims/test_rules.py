"""A task of another package that breaks a rule is refused, and the rule is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, TaskInfo
from sims.memory_bench import certify, rules
from tests.examples import own_task

EASY = own_task.INFO.levels["easy"]


class Told(own_task.RememberSide):
    """Says where the cube was."""

    instructions = ("touch the left cube", "touch the cube on the side where it was")


class Quoting(own_task.RememberSide):
    """Says it with a comma behind."""

    instructions = ("touch the left, then wait", "touch the cube on the side where it was")


class Terse(own_task.RememberSide):
    """Says it in one way only."""

    instructions = ("touch the cube", "touch the cube")


def row(cls: type | None = None, **changes: Any) -> TaskInfo:
    """Returns the example's row with something broken."""
    if cls is None:
        return dataclasses.replace(own_task.INFO, **changes)
    cls.info = dataclasses.replace(own_task.INFO, entry=f"{__name__}:{cls.__name__}")
    return cls.info


def without_gap(knobs: Mapping[str, Any]) -> float:
    return knobs["cue_s"] + knobs["execute_s"]


BROKEN = [
    (lambda: row(Told), "no instruction holds the answer", "'touch the left cube' says 'left'"),
    (lambda: row(Quoting), "no instruction holds the answer", "then wait' says 'left'"),
    (lambda: row(Terse), "an instruction has paraphrases", "expected 2 or more that differ"),
    (lambda: row(ceiling=lambda k: 1.0), "the ceiling is below 1", "does not go with 2 cue"),
    (lambda: row(ceiling=lambda k: 1.5), "the ceiling is below 1", "at most 1 at 'easy', got 1.5"),
    (lambda: row(horizon_s=without_gap), "lasts as long as the row says", "an episode's"),
    (lambda: row(levels={"easy": {**EASY, "execute_s": 0.0}}), "every level can be made", "> 0"),
    (lambda: row(levels={"easy": EASY, "hard": {**EASY, "K": 3}}), "the same knobs", "'K' is in"),
    (lambda: row(levels={}), "the same knobs", "it has none"),
]  # fmt: skip


class Drifting(own_task.RememberSide):
    """Counts what it places, and places by that: nothing of it is saved."""

    placed = 0

    def draw(self, rng):
        Drifting.placed += 1
        plan = super().draw(rng)
        plan["pos"][:, 0] += 1e-6 * Drifting.placed
        return plan


class Patient(own_task.RememberSide):
    """Takes standing still for a choice."""

    def execute_tick(self):
        super().execute_tick()
        if self.phase_tick > 80:
            self.commit("left", self.cue == 0)


class Generous(own_task.RememberSide):
    """Rewards more than success is worth."""

    def potential(self):
        return 1.5 * super().potential() + 0.9 * (self.phase != EXECUTE)


class Forgetful(own_task.RememberSide):
    """Moves a cube by a count that no saved state holds."""

    count = 0

    def reset(self, seed, cue=None):
        self.count = 0
        super().reset(seed, cue)

    def execute_tick(self):
        self.count += 1
        self.scene.place("left", self.plan["pos"][0] + (1e-6 * self.count, 0, 0))
        super().execute_tick()


PLAYED = [
    (Drifting, "the seed alone decides how an episode starts", "differs between two starts"),
    (Patient, "doing nothing times out", "without a motion it ended as committed to 'left'"),
    (Generous, "the reward leads from below 1 to 1", "the dense reward is 1."),
    (Forgetful, "a restored state goes on bit for bit", "ends otherwise when tick"),
]


@pytest.mark.sim
@pytest.mark.parametrize(("cls", "rule", "found"), PLAYED, ids=[p[0].__name__ for p in PLAYED])
def test_the_rule_is_named_when_it_is_played(cls, rule, found):
    info = row(cls)
    with pytest.raises(ConfigError) as error:
        certify.certify_task(info, effort=certify.Effort())
    assert f"{info.name} breaks the rule" in str(error.value)
    assert rule in str(error.value) and found in str(error.value)


@pytest.mark.parametrize(("make", "rule", "found"), BROKEN, ids=[row[2] for row in BROKEN])
def test_the_rule_is_named(make, rule, found):
    info = make()
    with pytest.raises(ConfigError) as error:
        certify.certify_task(info)
    assert f"{info.name} breaks the rule" in str(error.value)
    assert rule in str(error.value) and found in str(error.value)


def test_the_example_keeps_them():
    rules.check(own_task.INFO)
