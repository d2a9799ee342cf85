"""OddOneOut: what is shown, and that nothing but its colour tells the newcomer."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.entities import COLOR
from sims.memory_bench.tasks.odd_one_out import INFO
from tests.sims.hands import finish_cue

TASK = "odd_one_out"


def test_levels_and_ceilings():
    assert [knobs["K"] for knobs in INFO.levels.values()] == [2, 3, 5, 8]
    for knobs in INFO.levels.values():
        assert INFO.ceiling(knobs) == pytest.approx(1 / (knobs["K"] + 1))


def colours(env, first: int, count: int) -> set[tuple]:
    return {rounded(row) for row in env.observe()["entities"][first : first + count, COLOR]}


def rounded(rgb: np.ndarray) -> tuple:
    return tuple((100 * rgb).round().astype(int).tolist())


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_all_colours_but_the_cue_are_shown(make_env, level):
    env = make_env(TASK, level=level, knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    for seed in range(4):
        env.reset(seed=seed)
        k, cue = env.task.k, env.task.cue
        shown = colours(env, 1, k)
        finish_cue(env, seed)
        later = colours(env, 1 + k, k + 1)
        assert len(shown) == k and len(later) == k + 1
        assert later - shown == {rounded(env.task.colour(cue))}
        assert not env.observe()["entities_mask"][1 : 1 + k].any()


@pytest.mark.sim
def test_the_place_of_a_colour_at_the_start_does_not_tell_the_cue(make_env):
    env = make_env(TASK, level="medium")
    for seed in range(5):
        places = []
        for cue in range(env.task.n_cues):
            env.reset(seed=seed, options={"cue": cue})
            places.append(np.array([env.scene.pos(f"old{i}") for i in range(3)]))
        assert all(np.array_equal(places[0], other) for other in places)
        apart = np.linalg.norm(places[0][:, None] - places[0][None], axis=-1) + np.eye(3)
        assert apart.min() > 0.09


@pytest.mark.sim
def test_reactive_twin_keeps_the_cubes_of_the_start_in_sight(make_env):
    env = make_env(TASK, level="extreme", knobs={"visible_cue": 1, "gap_min_s": 0.2})
    finish_cue(env, 3)
    assert env.observe()["entities_mask"][1 : 1 + env.task.k].all()
    old = np.array([env.scene.pos(f"old{i}") for i in range(env.task.k)])
    apart = np.linalg.norm(old[:, None] - env.task.plan["pos"][None], axis=-1)
    assert apart.min() > 0.06
