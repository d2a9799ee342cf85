"""BindShapeColor: bindings, the probe, and that colours alone don't tell the answer."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from sims.memory_bench.tasks.bind_shape_color import INFO, PROBE_RGB, SHAPES, BindShapeColor
from tests.sims.hands import finish_cue

TASK = "bind_shape_color"


def test_levels():
    got = [(knobs["m"], knobs["K"]) for knobs in INFO.levels.values()]
    assert got == [(1, 3), (2, 4), (4, 6), (5, 9)]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"m": 6}, "1 to 5"), ({"m": 4, "K": 3}, "at most K"), ({"K": 1}, "2 to")],
)
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        BindShapeColor(INFO.knobs("easy", knobs))


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_each_shape_has_its_own_colour_and_the_probe_has_the_cue(make_env, level):
    env = make_env(TASK, level=level)
    for seed in range(6):
        env.reset(seed=seed)
        task = env.task
        bindings = task.bindings()
        assert len(bindings) == env.knobs["m"] and bindings[0][1] == task.cue
        assert len({name for name, _ in bindings}) == len({c for _, c in bindings}) == len(bindings)
        for name, candidate in bindings:
            assert env.scene.present[name]
            painted = env.scene.m.geom(f"{name}_geom").rgba[:3]
            np.testing.assert_allclose(painted, task.colour(candidate), rtol=1e-6)
        assert sum(env.scene.present[name] for name in SHAPES) == len(bindings)


@pytest.mark.sim
def test_at_go_the_probe_stands_alone_and_grey(make_env):
    env = make_env(TASK, level="hard", knobs={"gap_min_s": 0.2, "gap_max_s": 0.3})
    asked = set()
    for seed in range(8):
        finish_cue(env, seed)
        present = [name for name in SHAPES if env.scene.present[name]]
        assert present == [env.task.bindings()[0][0]]
        np.testing.assert_allclose(
            env.scene.m.geom(f"{present[0]}_geom").rgba[:3], PROBE_RGB, rtol=1e-6
        )
        away = np.hypot(*(env.task.plan["pos"][:, :2] - env.scene.pos(present[0])[:2]).T)
        assert away.min() > 0.07
        asked.update(present)
    assert len(asked) > 2


@pytest.mark.sim
def test_colours_shown_are_the_same_set_for_two_answers(make_env):
    """With as many shapes as colours every colour is shown: only the binding tells."""
    env = make_env(TASK, level="medium", knobs={"K": 2, "m": 2})
    shown = []
    for cue in range(2):
        env.reset(seed=3, options={"cue": cue})
        shown.append(sorted(candidate for _, candidate in env.task.bindings()))
    assert shown == [[0, 1], [0, 1]]


@pytest.mark.sim
def test_reactive_twin_shows_the_probe_in_its_colour(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    name = env.task.bindings()[0][0]
    painted = env.scene.m.geom(f"{name}_geom").rgba[:3]
    np.testing.assert_allclose(painted, env.task.colour(2), rtol=1e-6)
