"""InsertAsShown: what the ghost shows, and which manner a peg's way into the socket counts as."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.parts_peg import DEPTH_M, PEG_HALF_M, tips
from sims.memory_bench.tasks.insert_as_shown import (
    GHOST,
    HINT,
    INFO,
    PEG,
    InsertAsShown,
    manner,
    manner_name,
)
from tests.sims.hands import finish_cue

TASK = "insert_as_shown"
REST_Z_M = 0.82
OUTER_M = DEPTH_M + PEG_HALF_M[0]


def test_levels_and_ceilings():
    assert [knobs["m"] for knobs in INFO.levels.values()] == [2, 4, 6, 8]
    for knobs in INFO.levels.values():
        assert INFO.ceiling(knobs) == pytest.approx(1 / knobs["m"])


def test_manners_are_all_different():
    assert {manner(cue) for cue in range(8)} == set(
        itertools.product((0, 1), (0, 1), (False, True))
    )
    assert len({manner_name(*manner(cue)) for cue in range(8)}) == 8


@pytest.mark.parametrize(
    ("knobs", "message"), [({"m": 1}, "2 to 8"), ({"m": 2.5}, "2 to 8"), ({"tol_m": 0.2}, "tol_m")]
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        InsertAsShown(INFO.knobs("easy", knobs))


def ends(env, name: str) -> np.ndarray:
    """Returns where a peg's tips are, from the socket's middle, [2, 3]."""
    body = env.scene.body_id[name]
    found = tips(env.scene.d.xpos[body], env.scene.d.xmat[body].reshape(3, 3))
    return found - (*env.task.plan["socket"], 0.0)


@pytest.mark.sim
def test_the_ghost_shows_end_mouth_and_way(make_env):
    env = make_env(TASK, level="extreme")
    for cue in range(env.task.n_cues):
        env.reset(seed=cue, options={"cue": cue})
        end, mouth, above = manner(cue)
        came_from = None
        assert env.scene.present[GHOST] and not env.scene.present[PEG]
        for tick in range(1, env.task.cue_ticks + 1):
            env.task.phase_tick = tick
            assert env.task.cue_tick() == (tick == env.task.cue_ticks)
            tip = ends(env, GHOST)[end]
            if came_from is None and abs(tip[1]) < DEPTH_M and abs(tip[0]) < 0.01:
                came_from = "above" if tip[2] > 0.845 else "slid"
        assert came_from == ("above" if above else "slid")
        sign = (1, -1)[mouth]
        assert 0.01 < sign * tip[1] < DEPTH_M - 0.02 and abs(tip[0]) < 1e-3
        assert tip[2] == pytest.approx(REST_Z_M, abs=1e-3)
    env.advance(np.zeros(7))
    assert not env.scene.present[GHOST] and env.task.phase == GAP


@pytest.mark.sim
def test_the_peg_need_not_lie_as_the_ghost_did(make_env):
    """Otherwise the turn alone would be enough to remember."""
    env = make_env(TASK)
    turned = {
        round(float(np.ptp(env.task.draw(np.random.default_rng(s))["yaw"]))) for s in range(9)
    }
    assert turned >= {0, 3}


def lower_in(env, xy: np.ndarray, yaw: float, heights_m: np.ndarray) -> None:
    """Moves the real peg by itself, a tick at each height."""
    for height in heights_m:
        env.scene.place(PEG, (*(env.task.plan["socket"] + xy), REST_Z_M + height), yaw)
        env.advance(np.zeros(7))


def slide_in(env, mouth: int, yaw: float, height_m: float = 0.0) -> None:
    sign = (1, -1)[mouth]
    for y in np.linspace(OUTER_M + 0.02, OUTER_M - 0.035, 8):
        lower_in(env, np.array([0.0, sign * y]), yaw, np.array([height_m]))


@pytest.mark.sim
@pytest.mark.parametrize("cue", range(8))
def test_what_counts_as_which_manner(make_env, cue):
    """Moves the peg by no hand: only its way matters."""
    env = make_env(TASK, level="extreme")
    env.reset(seed=2, options={"cue": (cue + 1) % 8})
    env.task._snap(EXECUTE)
    end, mouth, above = manner(cue)
    sign = (1, -1)[mouth]
    yaw = -sign * math.pi / 2 + (0.0 if end else math.pi)
    if above:
        at = np.array([0.0, sign * (OUTER_M - 0.035)])
        lower_in(env, at, yaw, np.linspace(0.1, 0.0, 8))
    else:
        slide_in(env, mouth, yaw)
    assert not env.task.decided
    for _ in range(5):
        if not env.task.decided:
            env.advance(np.zeros(7))
    assert env.task.committed == manner_name(end, mouth, above)
    assert env.task.failure_kind == "wrong_choice"


@pytest.mark.sim
def test_only_an_end_that_lies_in_a_mouth_counts(make_env):
    env = make_env(TASK)
    env.reset(seed=2, options={"cue": 0})
    env.task._snap(EXECUTE)
    slide_in(env, 0, math.pi / 2, height_m=0.05)  # held over the floor
    for _ in range(10):
        lower_in(env, np.array([0.0, OUTER_M - 0.035]), math.pi / 2, np.array([0.05]))
    assert not env.task.decided and env.task.vars["came"].any()
    lower_in(env, np.array([0.2, 0.2]), math.pi / 2, np.array([0.0]))
    assert not env.task.vars["came"].any(), "a tip that left has to come in anew"
    lower_in(env, np.array([0.0, OUTER_M + 0.01]), math.pi / 2, np.zeros(10))
    assert not env.task.decided, "before the mouth is not in it"


@pytest.mark.sim
def test_a_peg_off_the_table_is_a_motor_failure(make_env):
    env = make_env(TASK)
    env.reset(seed=2)
    env.task._snap(EXECUTE)
    env.scene.place(PEG, (0.5, 0.0, REST_Z_M))
    while not env.task.decided:
        env.advance(np.zeros(7))
    assert env.task.failure_kind == "motor"


@pytest.mark.sim
def test_a_peg_that_was_pushed_away_is_fetched(make_env):
    env = make_env(TASK, knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    finish_cue(env, 4)
    expert = env.make_expert(4)
    for tick in range(300):
        if tick == 10:
            env.scene.place(PEG, (0.16, 0.12, REST_Z_M), 0.9)
        env.advance(expert.act())
        if env.task.decided:
            break
    assert env.task.success


@pytest.mark.sim
def test_reactive_twin_shows_end_mouth_and_way(make_env):
    env = make_env(TASK, level="extreme", knobs={"visible_cue": 1})
    heights = []
    for cue in (1, 5):
        env.reset(seed=3, options={"cue": cue})
        env.task._snap(EXECUTE)
        for geom, shown in (("peg_end1", 1), ("peg_end0", 0), ("socket_mouth0", 1)):
            rgb = env.scene.m.geom(f"{geom}_geom").rgba[:3]
            assert np.allclose(rgb, SHOWN_RGB, rtol=1e-6) == bool(shown)
        heights.append(env.scene.pos(HINT)[2])
    assert heights[1] - heights[0] > 0.1
