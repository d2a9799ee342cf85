"""A cue that can be told at go is found in the data, and chance is not mistaken for it."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.data import check as check_module
from embodied.data.check import check
from embodied.data.leak import FEWEST, GoObservations, Leak
from tests.data import fake_env
from tests.data.conftest import collect_fake

EPISODES = 150
POSTURE_M = 0.004
"""How far the planted posture lies from cue to cue: a tenth of what the seed spreads it by."""


class Leaky(fake_env.FakeEnv):
    """Its hand stands at go a little where the cue was."""

    def advance(self, action: np.ndarray) -> bool:
        gate = super().advance(action)
        if gate and self.phase == "execute":
            self.pos[0] = POSTURE_M * self.cue + self.pos[0] % 1e-3
        return gate


def make_leaky(task, level, config, **kwargs):
    return Leaky(task, level, config, **kwargs)


def test_sound_data_tells_nothing_of_the_cue(tmp_path):
    collect_fake(tmp_path / "fake", EPISODES)
    report = check(tmp_path / "fake", sample=0)
    assert report.ok
    (told,) = [note for note in report.notes if "observed at go" in note]
    assert "the commonest cue makes up" in told


def test_a_posture_that_keeps_the_cue_is_found(tmp_path, monkeypatch):
    collect_fake(tmp_path / "fake", EPISODES, env_factory=make_leaky)
    report = check(tmp_path / "fake", sample=0)
    (problem,) = report.problems
    assert "the cue is told from what is observed at go" in problem
    # Where the cue is in sight at go, or in the instruction, there is nothing to find.
    monkeypatch.setattr(check_module, "_hides_its_cue", lambda settings: False)
    assert check(tmp_path / "fake", sample=0).ok


def test_a_few_episodes_are_not_judged(original):
    report = check(original, sample=0)
    assert report.ok and any("cue was not asked: that takes 60" in note for note in report.notes)
    assert GoObservations().look() is None and FEWEST > 12


@pytest.mark.parametrize(("right", "found"), [(50, False), (64, False), (75, True)])
def test_more_than_luck_is_asked_for(right, found):
    """Of 150 answers at a chance of a third, 64 come up once in a hundred datasets."""
    assert Leak(150, right, 1 / 3).found == found


@pytest.mark.parametrize(
    ("task", "knobs", "hides"),
    [("remember_color", {}, True), ("remember_color", {"visible_cue": 1}, False),
     ("pick_times", {}, False), ("of_a_package_not_installed", {}, True)],
)  # fmt: skip
def test_only_tasks_that_hide_their_cue_are_looked_at(task, knobs, hides):
    assert check_module._hides_its_cue({"task": task, "knobs": knobs}) == hides
