"""RememberColor: rules, certificates in small, and the expert."""

from __future__ import annotations

import collections
import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from sims.memory_bench import task as task_module
from sims.memory_bench.parts import PALETTE
from sims.memory_bench.tasks.remember_color import INFO
from tests.sims.conftest import CAMERAS, assert_equal, at_go, play

LEVELS = tuple(INFO.levels)


def test_levels_and_ceilings():
    assert [INFO.levels[level]["K"] for level in LEVELS] == [3, 5, 9, 12]
    for level in LEVELS:
        assert INFO.ceiling(INFO.knobs(level)) == pytest.approx(1 / INFO.levels[level]["K"])
    with pytest.raises(ConfigError, match="did you mean"):
        INFO.knobs("easy", {"gap_mins": 3})


def test_colours_are_far_apart():
    colours = np.array(list(PALETTE.values()))
    for i, j in itertools.combinations(range(len(colours)), 2):
        assert np.linalg.norm(colours[i] - colours[j]) > 0.25
    lamps = [task_module.LAMP_CUE, task_module.LAMP_GAP, task_module.LAMP_EXECUTE]
    lamps += [*task_module.LAMP_STEPS, task_module.LAMP_BLINK]
    shown = np.minimum(1.45 * np.array(lamps), 1.0)  # what the lamp's glow makes of them
    for i, j in itertools.combinations(range(len(shown)), 2):
        assert np.linalg.norm(shown[i] - shown[j]) > 0.15
    for lamp in shown:
        assert np.linalg.norm(colours - lamp, axis=1).min() > 0.2


@pytest.mark.sim
@pytest.mark.parametrize("level", LEVELS)
def test_scenes_are_well_posed(make_env, level):
    env = make_env(level=level)
    knobs, gaps = env.knobs, set()
    for seed in range(60):
        env.reset(seed=seed)
        plan = env.task.plan
        assert len(set(plan["colours"].tolist())) == knobs["K"]
        gaps.add(env.task.gap_ticks)
        assert 20 * knobs["gap_min_s"] <= env.task.gap_ticks <= 20 * knobs["gap_max_s"]
        between = np.linalg.norm(plan["pos"][:, None] - plan["pos"][None], axis=-1)
        between[np.diag_indices(len(between))] = 1.0
        assert between.min() >= 0.10
    assert len(gaps) > 10


@pytest.mark.sim
@pytest.mark.parametrize(("level", "noise"), [("easy", 0), ("easy", 1), ("extreme", 0)])
def test_expert_succeeds_and_is_brisk(make_env, level, noise):
    env = make_env(level=level)
    for seed in range(100, 106):
        env.reset(seed=seed)
        expert = env.make_expert(seed, noise)
        execute, done = 0, False
        while not done:
            _, _, terminated, truncated, info = env.step(expert.perturb(expert.act()))
            done = terminated or truncated
            execute += info["phase"] == "execute"
        assert info["success"] and terminated and not truncated
        assert info["commit"] == info["target"]
        # With noise the hand is led astray up to three times on its way.
        assert 0.5 < execute / 20 < (6.0 if noise else 3.5)


@pytest.mark.sim
def test_phases_gates_and_info(make_env):
    env = make_env()
    trace = play(env, seed=4)
    infos = trace["info"]
    order = [key for key, _ in itertools.groupby(info["phase"] for info in infos)]
    assert order == ["cue", "gap", "execute"]
    gates = [t for t, info in enumerate(infos) if info["gate"]]
    assert gates == [20, at_go(trace)]
    for info in infos:
        assert info["held"] == (info["phase"] != "execute")
    assert [info["time_s"] for info in infos] == pytest.approx([t / 20 for t in range(len(infos))])
    assert trace["reward"][-1] == 1.0 and not any(trace["reward"][:-1])
    counts = collections.Counter(info["phase"] for info in infos)
    assert counts["gap"] == env.task.gap_ticks


@pytest.mark.render
@pytest.mark.sim
@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("before_go", ["expert", "noise", "extreme"])
def test_go_is_the_same_for_every_cue(make_env, before_go, pixels):
    kwargs = {"observation": "rgbd", "cameras": CAMERAS} if pixels else {}
    env = make_env(level="easy", knobs={"gap_max_s": 2.0, "busy": 1.0}, **kwargs)
    rng = np.random.default_rng(0)
    acts = {
        "expert": None,
        "noise": lambda tick: rng.uniform(-1, 1, 7),
        "extreme": lambda tick: np.where(rng.random(7) < 0.5, -1.0, 1.0),
    }
    traces = [play(env, seed=11, cue=cue, act=acts[before_go]) for cue in range(3)]
    go = at_go(traces[0])
    differs = False
    for other in traces[1:]:
        assert at_go(other) == go
        assert_equal(traces[0]["obs"][go], other["obs"][go])
        assert_equal(traces[0]["state"][go], other["state"][go], skip="hidden_")
        assert traces[0]["info"][go]["instruction"] == other["info"][go]["instruction"]
        for key in traces[0]["obs"][0]:
            differs |= not np.array_equal(traces[0]["obs"][0][key], other["obs"][0][key])
    assert differs, "the cue shows in no observation of the cue phase"
    assert all(t["info"][-1]["success"] for t in traces)


@pytest.mark.sim
def test_reactive_twin_shows_the_cue_at_go(make_env):
    env = make_env(level="easy", knobs={"visible_cue": 1})
    first, second = (play(env, seed=3, cue=cue) for cue in (0, 1))
    go = at_go(first)
    assert not np.array_equal(first["obs"][go]["entities"], second["obs"][go]["entities"])
    assert first["info"][-1]["success"] and second["info"][-1]["success"]


@pytest.mark.sim
def test_doing_nothing_times_out_at_the_horizon(make_env):
    env = make_env(level="easy", knobs={"gap_min_s": 0.5, "gap_max_s": 0.5, "execute_s": 1.0})
    env.reset(seed=0)
    for tick in range(env.horizon):
        _, _, terminated, truncated, info = env.step(np.zeros(7, np.float32))
        assert not terminated
        assert truncated == (tick == env.horizon - 1)
    assert info["failure_kind"] == "timeout" and info["commit"] == ""


@pytest.mark.sim
def test_brushing_past_is_no_commit(make_env):
    env = make_env(level="easy")
    env.reset(seed=1)
    while env.task.held:
        env.step(np.zeros(7, np.float32))
    env.task.vars["touch_ticks"][:] = 4  # 0.2 s is not longer than 0.2 s
    env.step(np.zeros(7, np.float32))
    assert not env.task.decided and not env.task.vars["touch_ticks"].any()


@pytest.mark.sim
def test_bad_knobs_are_refused(make_env):
    for knobs, match in (
        ({"K": 13}, "2 to 12"),
        ({"gap_min_s": 5.0, "gap_max_s": 1.0}, "gap_min_s"),
        ({"busy": 2.0}, "busy"),
        ({"K": "nine"}, "number"),
    ):
        with pytest.raises(ConfigError, match=match):
            make_env(level="easy", knobs=knobs)
