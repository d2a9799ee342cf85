"""TraceRoute: which routes there are, what the marker shows, what counts as drawn."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.abstract import best_memoryless
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.tasks.trace_route import (
    DONE_RGB,
    INFO,
    MARKER,
    PAD_RGB,
    TraceRoute,
    routes,
)
from tests.sims.hands import finish_cue, follow

TASK = "trace_route"
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}


def test_levels_and_ceilings():
    got = [(k["G"], k["L"], round(1 / INFO.ceiling(k))) for k in INFO.levels.values()]
    assert got == [(3, 2, 4), (3, 4, 14), (4, 5, 48), (5, 7, 276)]


@pytest.mark.parametrize(("g", "length"), [(3, 2), (3, 6), (4, 5)])
def test_routes_are_all_that_go_from_pad_to_pad_and_never_back(g, length):
    nodes = list(itertools.product(range(g), repeat=2))
    found = routes(g, length)
    assert len(set(found)) == len(found) and list(found) == sorted(found)
    for route in found:
        assert route[0] == (0, 0) and len(set(route)) == length + 1 and set(route) <= set(nodes)
        assert np.abs(np.diff(np.array(route), axis=0)).sum(axis=1).tolist() == [1] * length
    assert found[0][1] != found[-1][1]
    # Counted by walking, most of which comes back to where it was.
    walks = 0
    for moves in itertools.product(((0, 1), (1, 0), (0, -1), (-1, 0)), repeat=length):
        way = np.vstack(([0, 0], np.cumsum(moves, axis=0)))
        inside = way.min() >= 0 and way.max() < g
        walks += bool(inside and len({tuple(p) for p in way.tolist()}) == length + 1)
    assert walks == len(found)


def test_the_best_without_memory_draws_one_route():
    for g, length in ((3, 3), (4, 4)):
        ceiling = best_memoryless(TraceRoute.machine({"G": g, "L": length}))
        assert ceiling.exact and ceiling.value == Fraction(1, len(routes(g, length)))
        assert ceiling.aliased > length


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"G": 6}, "3 to 5"), ({"L": 1}, "2 to 7"), ({"step_s": 0.1}, "0.4 to 3"),
     ({"G": 5, "tol_m": 0.045}, "0.02 to 0.037")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        TraceRoute(INFO.knobs("easy", knobs))


@pytest.mark.sim
@pytest.mark.parametrize("level", ["easy", "extreme"])
def test_the_marker_goes_along_the_route_and_vanishes(make_env, level):
    env = make_env(TASK, level=level, knobs=BRIEF)
    task = env.task
    for seed, cue in ((1, 0), (2, task.n_cues - 1)):
        env.reset(seed=seed, options={"cue": cue})
        passed = []
        for tick in range(task.cue_ticks + 1):
            task.phase_tick = tick
            assert task.cue_tick() == (tick == task.cue_ticks)
            off = np.hypot(*(task.plan["pads"] - env.scene.pos(MARKER)[:2]).T)
            if off.min() < 0.01 and passed[-1:] != [int(off.argmin())]:
                passed.append(int(off.argmin()))
        assert tuple(passed) == task.route and len(passed) == task.length + 1
        assert passed[0] == task.vars["drawn"][0], "the corner that is marked"
        env.advance(np.zeros(7))
        assert task.phase == GAP and not env.scene.present[MARKER]


@pytest.mark.sim
def test_all_corners_start_routes_and_none_tells_which(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    starts = set()
    for seed in range(16):
        first = set()
        for cue in (0, 5, 13):
            env.reset(seed=seed, options={"cue": cue})
            first.add(env.task.route[0])
        assert len(first) == 1
        starts |= first
    assert starts == {0, 2, 6, 8}


def rgb(env, pad: int) -> np.ndarray:
    return env.scene.m.geom(f"pad{pad}_geom").rgba[:3]


@pytest.mark.sim
def test_pads_that_were_reached_stay_marked_and_a_touch_again_of_the_last_is_none(make_env):
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 4, 3)
    task = env.task
    route = task.route
    follow(env, task.touch_pads(route[1:2]), lambda: task.vars["done"] == 2)
    assert task.vars["drawn"].tolist() == [*route[:2], -1, -1, -1]
    for pad in range(9):
        expected = DONE_RGB if pad in route[:2] else PAD_RGB
        np.testing.assert_allclose(rgb(env, pad), expected, rtol=1e-6)
    follow(env, task.touch_pads(route[1:2]))
    assert not task.decided and task.vars["done"] == 2
    assert set(task.entity_scalars()) == {f"pad{pad}" for pad in route[:2]}
    follow(env, task.touch_pads(route[2:]))
    assert task.success and task.committed == "-".join(map(str, route))


@pytest.mark.sim
@pytest.mark.parametrize("back", [True, False])
def test_the_first_wrong_pad_is_a_failure(make_env, back):
    """Back to where it was, or on to another neighbour."""
    env = make_env(TASK, level="medium", knobs=BRIEF)
    finish_cue(env, 4, 3)
    task = env.task
    follow(env, task.touch_pads(task.route[1:2]), lambda: task.vars["done"] == 2)
    others = [p for p in range(9) if p not in task.route]
    wrong = task.route[0] if back else others[0]
    follow(env, task.touch_pads([wrong]))
    assert task.failure_kind == "wrong_choice" and not task.success
    assert task.committed == f"{task.route[0]}-{task.route[1]}-{wrong}"


@pytest.mark.sim
def test_reactive_twin_shows_all_that_is_left_and_the_next_pad_brightest(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    env.reset(seed=3)
    env.task._snap(EXECUTE)
    task, expert, shown = env.task, env.make_expert(3), set()
    while not task.decided:
        left = task.route[task.vars["done"] :]
        bright = [float(rgb(env, p)[0]) for p in left]
        assert bright[0] == SHOWN_RGB[0] and bright == sorted(bright, reverse=True)
        assert len(set(bright)) == len(left) and min(bright) > PAD_RGB[0] + 0.1
        shown.update(p for p in range(9) if np.allclose(rgb(env, p), SHOWN_RGB, rtol=1e-6))
        env.advance(expert.act())
    assert task.success and shown == set(task.route[1:])
