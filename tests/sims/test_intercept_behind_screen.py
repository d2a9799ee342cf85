"""InterceptBehindScreen: the ball's way tells lane and speed, and only while it can be seen."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.tasks.intercept_behind_screen import (
    _EXIT_Y_M,
    INFO,
    SPEEDS_M_S,
    InterceptBehindScreen,
)
from tests.sims.hands import finish_cue

TASK = "intercept_behind_screen"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}


def test_levels_and_ceilings():
    got = [(k["K"], k["V"], INFO.ceiling(k)) for k in INFO.levels.values()]
    assert got == [(3, 1, 1 / 3), (3, 2, 1 / 6), (4, 2, 1 / 8), (5, 3, 1 / 15)]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"V": 4}, "1 to 3"), ({"screen_m": 0.3}, "0.06 to 0.2"), ({"jitter": 0.3}, "0 to 0.15")],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        InterceptBehindScreen(INFO.knobs("easy", knobs))


def test_speeds_are_told_apart_at_every_jitter_allowed():
    for speeds in SPEEDS_M_S.values():
        for slow, fast in itertools.pairwise(speeds):
            assert 1.15 * slow < 0.85 * fast


def watch(env, seed: int, cue: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ticks at which the ball can be seen, and where it is then [n, 2]."""
    env.reset(seed=seed, options={"cue": cue})
    task, seen = env.task, []
    for tick in range(task.cue_ticks + 1):
        task.phase_tick = tick
        assert task.cue_tick() == (tick == task.cue_ticks)
        if env.scene.present["ball"]:
            seen.append((tick, *env.scene.pos("ball")[:2]))
    rows = np.array(seen)
    assert len(rows) < task.cue_ticks, "the ball never got out of sight"
    return rows[:, 0], rows[:, 1:]


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_the_way_that_is_seen_tells_lane_and_speed(make_env, level):
    """A straight line through what is seen, drawn on to the exit, hits the lane of the cue."""
    env = make_env(TASK, level=level, knobs=BRIEF)
    for seed, cue in ((1, 0), (2, env.task.n_cues - 1), (3, env.task.n_cues // 2)):
        ticks, xy = watch(env, seed, cue)
        moving = np.flatnonzero(np.hypot(*np.diff(xy, axis=0).T) > 1e-6) + 1
        first, last = xy[moving[0]], xy[moving[-1]]
        assert last[1] < _EXIT_Y_M - env.task.knobs.screen_m + 0.03
        at_exit = first + (last - first) * (_EXIT_Y_M - first[1]) / (last[1] - first[1])
        lanes = env.task.plan["pos"][:: env.task.speeds, 0]
        assert np.abs(lanes - at_exit[0]).argmin() == cue // env.task.speeds
        speed = np.hypot(*(last - first)) / (ticks[moving[-1]] - ticks[moving[0]]) * 20
        kinds = np.array(SPEEDS_M_S[env.task.speeds])
        assert np.abs(np.log(kinds / speed)).argmin() == cue % env.task.speeds


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_where_the_ball_vanishes_does_not_tell_its_lane(make_env, level):
    """Balls of neighbouring lanes go in at one place, so one picture is not enough."""
    env = make_env(TASK, level=level, knobs=BRIEF)
    places: dict[int, list[float]] = {}
    for seed in range(8 * env.task.k):
        cue = env.task.speeds * (seed % env.task.k)
        places.setdefault(seed % env.task.k, []).append(watch(env, seed, cue)[1][-1, 0])
    ranges = [(min(xs), max(xs)) for _, xs in sorted(places.items())]
    assert all(low[1] > high[0] for low, high in itertools.pairwise(ranges))


@pytest.mark.sim
def test_the_screen_hides_the_ball_from_every_camera(make_env):
    env = make_env(TASK, level="extreme", knobs=BRIEF)
    env.reset(seed=1)
    half = env.scene.m.geom("screen_geom").size
    assert half[2] * 2 > 0.04, "higher than the ball"
    lanes = env.task.plan["pos"][:, 0]
    assert np.abs(lanes - env.scene.pos("screen")[0]).max() + 0.02 < half[0]
    assert np.abs(env.task.plan["start_x"]) + 0.02 < half[0]


@pytest.mark.sim
def test_one_catch_and_no_second(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 4, cue=3)
    assert not env.scene.present["ball"] and not env.task.decided
    expert = env.make_expert(4)
    env.task.cue = 2  # the right lane, the other speed
    action = expert.act()
    while not env.task.decided:
        env.task.cue = 3
        env.advance(action)
        env.task.cue = 2
        action = expert.act()
    assert (env.task.committed, env.task.failure_kind) == ("pad2", "wrong_choice")
    rest = env.scene.pos("ball") - env.task.plan["pos"][3]
    assert np.abs(rest[:2]).max() < 1e-6 and env.scene.present["ball"]


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    env.reset(seed=3, options={"cue": 2})
    env.task._snap(EXECUTE)
    np.testing.assert_allclose(env.scene.m.geom("pad2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
