"""StaleFact: the moves, what is seen of them, and what an old fact is worth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE
from sims.memory_bench import certify
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.tasks.stale_fact import INFO, StaleFact, write_once
from tests.sims.hands import finish_cue

TASK = "stale_fact"


def test_levels():
    got = [(k["K"], k["R"], k["D"]) for k in INFO.levels.values()]
    assert got == [(3, 1, 0), (4, 2, 1), (6, 4, 2), (9, 6, 4)]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"K": 2}, "3 to 9"), ({"R": 0}, "1 to 6"), ({"D": 7}, "0 to 6"), ({"move_s": 9}, "0.6 to 3")],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        StaleFact(INFO.knobs("easy", knobs))


@pytest.mark.parametrize(("k", "moves"), [(3, 1), (3, 2), (4, 2), (4, 3), (6, 4)])
def test_worth_of_a_memory_that_never_updates(k, moves):
    ends = [0] * k
    for steps in itertools.product(range(1, k), repeat=moves):
        ends[sum(steps) % k] += 1
    assert write_once({"K": k, "R": moves}) == pytest.approx(max(ends) / sum(ends))


def test_it_stands_beside_the_ceiling():
    knobs = INFO.knobs("medium")
    assert certify.ceiling(INFO, knobs)["baselines"] == {"write_once": write_once(knobs)}


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_moves_end_at_the_cue_and_leave_from_where_the_last_one_led(make_env, level):
    env = make_env(TASK, level=level)
    knobs = env.knobs
    for seed, cue in itertools.product(range(10), (0, env.task.n_cues - 1)):
        env.reset(seed=seed, options={"cue": cue})
        at = {}
        moves = env.task.moves()
        for name, source, target in moves:
            assert source == at.get(name, -1) and source != target
            at[name] = target
        assert at["ball"] == cue and ("decoy" in at) == bool(knobs["D"])
        count = [sum(name == kind for name, _, _ in moves) for kind in ("ball", "decoy")]
        assert count == [knobs["R"] + 1, knobs["D"] + 1 if knobs["D"] else 0]


@pytest.mark.sim
def test_what_moves_last_and_first_bins_tell_nothing(make_env):
    env = make_env(TASK, level="medium")
    last, first = set(), {cue: set() for cue in range(4)}
    for seed in range(60):
        env.reset(seed=seed)
        last.add(env.task.moves()[-1][0])
        first[env.task.cue].add(env.task.ball_bins()[0])
    assert last == {"ball", "decoy"}
    assert all(bins == set(range(4)) for bins in first.values())


@pytest.mark.sim
def test_balls_are_seen_on_their_way_and_hidden_in_bins(make_env):
    env = make_env(TASK, level="medium")
    env.reset(seed=5)
    task, ways, before = env.task, [], None
    row = {"ball": 1 + task.k, "decoy": 2 + task.k}
    while task.phase == CUE:
        env.advance(np.zeros(7))
        mask = env.observe()["entities_mask"]
        now = [name for name in row if mask[row[name]]]
        assert len(now) <= 1
        if now and now != before:
            ways.append([now[0], None])
        if now:
            ways[-1][1] = env.scene.pos(now[0])[:2]
        before = now
    assert [name for name, _ in ways] == [name for name, _, _ in task.moves()]
    for (_, end), (_, _, target) in zip(ways, task.moves(), strict=True):
        assert np.abs(end - task.plan["pos"][target, :2]).max() < 0.005


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    np.testing.assert_allclose(env.scene.m.geom("bin2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
