"""BlinkCount: how often lamps blink, that no look misses one, and what doesn't tell the number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.parts import LAMP_POS_M
from sims.memory_bench.tasks.blink_count import INFO, LAMP_RGB, OTHER_RGB, BlinkCount
from tests.sims.hands import finish_cue, follow

TASK = "blink_count"


def test_levels():
    assert [(k["N"], k["D"]) for k in INFO.levels.values()] == [(3, 0), (5, 1), (7, 1), (9, 2)]
    assert INFO.ceiling(INFO.knobs("hard")) == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"N": 1}, "knob N .* 2 to 9"), ({"D": 3}, "knob D .* 0 to 2"), ({"N": 9}, "blink_s .* got"),
     ({"blink_s": 0.0}, "blink_s .* 0.05 s")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        BlinkCount(INFO.knobs("easy", knobs))
    BlinkCount(INFO.knobs("easy", {"N": 9, "cue_s": 9.5}))


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_every_blink_and_every_pause_lasts_long_enough(make_env, level):
    env = make_env(TASK, level=level)
    task = env.task
    for seed, cue in itertools.product(range(4), (0, task.n // 2, task.n - 1)):
        env.reset(seed=seed, options={"cue": cue})
        assert len(task.blinks(0)) == cue + 1
        for lamp in range(1 + int(env.knobs["D"])):
            on = task.blinks(lamp)
            assert 1 <= len(on) <= task.n
            edges = np.array([0, *np.stack((on, on + task.blink_ticks), 1).ravel(), task.cue_ticks])
            assert np.diff(edges).min() >= task.blink_ticks


@pytest.mark.sim
def test_intervals_are_uneven_and_the_phase_is_as_long_for_every_number(make_env):
    env = make_env(TASK, level="medium")
    ends, intervals = set(), []
    for cue in range(5):
        env.reset(seed=8, options={"cue": cue})
        intervals += np.diff(env.task.blinks(0)).tolist()
        while env.task.phase == CUE:
            env.advance(np.zeros(7))
        ends.add(env.task.tick)
    assert len(ends) == 1
    assert max(intervals) - min(intervals) > env.task.blink_ticks


@pytest.mark.sim
def test_what_blinks_is_what_is_painted_and_observed(make_env):
    env = make_env(TASK, level="extreme")
    env.reset(seed=5, options={"cue": 6})
    task, seen = env.task, {"signal": [], "other0": [], "other1": []}
    rows = {name: 1 + task.n + i for i, name in enumerate(seen)}
    while task.phase == CUE:
        scalars, entities = task.entity_scalars(), env.observe()["entities"]
        for name, rgb in zip(seen, (LAMP_RGB, *OTHER_RGB), strict=True):
            lit = scalars[name] == 1.0
            painted = env.scene.m.geom(f"{name}_geom").rgba[:3]
            assert lit == bool(np.allclose(painted, rgb, rtol=1e-6))
            assert entities[rows[name], -1] == scalars[name]
            seen[name].append(lit)
        env.advance(np.zeros(7))
    flashes = {n: sum(on for on, _ in itertools.groupby(lit)) for n, lit in seen.items()}
    assert flashes == {n: len(task.blinks(i)) for i, n in enumerate(seen)}
    assert flashes["signal"] == 7
    assert not any(task.entity_scalars().values())


@pytest.mark.sim
def test_other_lamps_tell_nothing_of_the_number(make_env):
    env = make_env(TASK, level="medium")
    others = []
    for cue in range(5):
        env.reset(seed=6, options={"cue": cue})
        others.append(env.task.blinks(1).tolist())
    assert all(other == others[0] for other in others)
    counts, places = set(), set()
    for seed in range(40):
        env.reset(seed=seed, options={"cue": 2})
        counts.add(len(env.task.blinks(1)))
        places.add(env.task.plan["lamp_y"][0])
    assert counts == {1, 2, 3, 4, 5} and len(places) == 3


@pytest.mark.sim
def test_pads_are_numbered_from_the_post(make_env):
    env = make_env(TASK, level="extreme", knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    finish_cue(env, 3, 4)
    away = np.hypot(*(env.task.plan["pos"][:, :2] - np.array(LAMP_POS_M[:2])).T)
    assert (np.diff(away) > 0).all()
    assert env.task.target() == "pad4"
    follow(env, env.task.waypoints())
    assert env.task.phase == EXECUTE and env.task.success


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    np.testing.assert_allclose(env.scene.m.geom("pad2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
