"""What holds for every task of the catalog; a new task gets these tests by its entry alone.

What is special in a task stands in its own test file, certificates in ``test_certify.py``.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import CUE, EXECUTE, GAP, PHASES
from sims import ENV_IDS
from sims.memory_bench import played_rules, rules
from sims.memory_bench.abstract import Graph, best_memoryless, evaluate, search_memoryless
from sims.memory_bench.catalog import TASKS
from sims.memory_bench.machines import machine_of, task_class
from sims.memory_bench.mixtures import best_policy
from sims.memory_bench.task import LAMP_GAP, balanced_cue
from tests.sims.conftest import CAMERAS, assert_equal, at_go, changed, play
from tests.sims.hands import check_common, rising_potential

LEVELS = ("easy", "medium", "hard", "extreme")
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}
EVERY = pytest.mark.parametrize("name", TASKS)
MEMORY = pytest.mark.parametrize(
    "name", [n for n, info in TASKS.items() if info.needs_memory(info.knobs("easy"))]
)
WITH_CUE = pytest.mark.parametrize(
    "name", [n for n, info in TASKS.items() if CUE in task_class(info).phases]
)
EACH_LEVEL = pytest.mark.parametrize(("name", "level"), list(itertools.product(TASKS, LEVELS)))


def brief(name: str, **knobs: float) -> dict[str, float]:
    """Knobs of an episode with a short gap, if the task has one."""
    return {**(BRIEF if GAP in task_class(TASKS[name]).phases else {}), **knobs}


@EVERY
def test_row(name):
    info = TASKS[name]
    assert info.name == name and ENV_IDS[name] == info.env_id and info.summary
    assert tuple(info.levels) == LEVELS
    assert task_class(info).info is info
    with pytest.raises(ConfigError, match="level of"):
        info.knobs("easiest")
    with pytest.raises(ConfigError, match="knob of"):
        info.knobs("easy", {"gap_mins": 3})


@EACH_LEVEL
def test_level(name, level):
    info = TASKS[name]
    knobs = info.knobs(level)
    assert task_class(info)(knobs).n_cues == info.cues(knobs) >= 1


@EACH_LEVEL
def test_ceiling_is_what_its_policy_reaches(name, level):
    info = TASKS[name]
    machine = machine_of(info, info.knobs(level))
    ceiling = best_policy(machine)
    assert ceiling.exact and float(ceiling.value) == pytest.approx(info.ceiling(info.knobs(level)))
    mixtures = {s: a if isinstance(a, dict) else {a: 1.0} for s, a in ceiling.policy.items()}
    assert evaluate(machine, mixtures) == pytest.approx(float(ceiling.value))
    if Graph(machine).met_twice() is None:
        assert search_memoryless(machine, starts=2).upper >= ceiling.value


@MEMORY
def test_ceiling_of_the_reactive_twin_is_one(name):
    info = TASKS[name]
    for level in LEVELS:
        knobs = info.knobs(level, {"visible_cue": 1})
        assert best_memoryless(machine_of(info, knobs)).value == 1 == info.ceiling(knobs)


@EVERY
def test_bad_knobs_are_refused(name):
    info = TASKS[name]
    bad = {"execute_s": 0.0}
    if GAP in task_class(info).phases:
        bad |= {"busy": 2.0, "gap_min_s": 99.0}
    if "cue_s" in info.knobs("easy"):
        bad |= {"cue_s": 0.0}
    if "K" in info.knobs("easy"):
        bad |= {"K": 2.5}
        for value in (0, 1000):
            with pytest.raises(ConfigError, match=r"knob K of \w+: expected \d+ to \d+, got"):
                task_class(info)(info.knobs("easy", {"K": value}))
    for knob, value in bad.items():
        with pytest.raises(ConfigError, match=rf"(?=.*{knob}).*expected.*got {value}"):
            task_class(info)(info.knobs("easy", {knob: value}))
    for knob, value in itertools.product(info.knobs("easy"), (float("inf"), float("nan"))):
        with pytest.raises(ConfigError, match=rf"knob {knob}.*expected.*got {value}"):
            task_class(info)(info.knobs("easy", {knob: value}))
    with pytest.raises(ConfigError, match="expected a number"):
        info.knobs("easy", {"execute_s": "long"})


@EVERY
def test_rules_are_kept(name):
    rules.check(TASKS[name])
    assert len(task_class(TASKS[name]).instructions) >= 3


@pytest.mark.sim
@EVERY
def test_rules_are_kept_when_it_is_played(make_env, name):
    played_rules.check(make_env(name, knobs=brief(name)))


@EACH_LEVEL
def test_cues_are_balanced_over_every_block(name, level):
    n = TASKS[name].cues(TASKS[name].knobs(level))
    if n > 1000:
        pytest.skip("a block of so many cues is longer than any experiment")
    cues = [balanced_cue(name, seed, n) for seed in range(4 * n)]
    for block in range(4):
        assert sorted(cues[block * n : (block + 1) * n]) == list(range(n))


@pytest.mark.sim
@EVERY
def test_saving_dense_reward_and_outcome(make_env, name):
    env = make_env(name, knobs=brief(name))
    check_common(env)
    values = rising_potential(env, 3)
    assert values[-1] == 1.0 and values[0] < 1.0
    assert all(b >= a for a, b in itertools.pairwise(values)), values


@pytest.mark.sim
@EACH_LEVEL
def test_expert_succeeds(make_env, name, level):
    env = make_env(name, level=level, knobs=brief(name))
    for noise, seed in ((0.0, 500), (0.0, 501), (1.0, 502))[: 3 if level == "easy" else 2]:
        env.reset(seed=seed)
        expert = env.make_expert(seed, noise)
        while not env.task.decided:
            env.advance(expert.perturb(expert.act()))
        assert env.task.success, (seed, noise, env.task.failure_kind)
        assert env.task.committed == env.task.target()
        assert len(env.task.committed) <= 32, "save() keeps 32 bytes"


@pytest.mark.sim
@WITH_CUE
def test_phases_gates_and_info(make_env, name):
    env = make_env(name, knobs=brief(name))
    trace = play(env, seed=4)
    infos = trace["info"]
    assert [key for key, _ in itertools.groupby(info["phase"] for info in infos)] == list(PHASES)
    # Gates between the tries of a cue phase are the task's own matter.
    gates = [t for t, info in enumerate(infos) if info["gate"] and info["phase"] != CUE]
    assert gates[1] == at_go(trace) and gates[1] - gates[0] == env.task.gap_ticks
    assert len(gates) == 1 + env.task.n_choices
    for info in infos:
        held = {CUE: env.task.cue_held, GAP: env.task.gap_held, EXECUTE: False}
        assert info["held"] == held[info["phase"]]
    assert [info["time_s"] for info in infos] == pytest.approx([t / 20 for t in range(len(infos))])
    assert trace["reward"][-1] == 1.0 and not any(trace["reward"][:-1])


@pytest.mark.sim
@WITH_CUE
def test_wrong_commit_fails_for_good(make_env, name):
    env = make_env(name, knobs=brief(name))
    env.reset(seed=0, options={"cue": 0})
    task, expert = env.task, env.make_expert(0)
    done = terminated = False
    reward, info = 1.0, {}
    while not done:
        # Only the expert is misled, and only after go.
        task.cue = task.n_cues - 1 if task.phase == EXECUTE else 0
        action = expert.act()
        task.cue = 0
        _, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    assert terminated and reward == 0.0 and not info["success"]
    assert info["failure_kind"] == "wrong_choice"
    assert info["commit"] and info["commit"] != info["target"]
    assert task.potential() == 0.0
    committed = task.committed
    task.commit(task.target(), True)
    assert not task.success and task.committed == committed


@pytest.mark.sim
@pytest.mark.render
@EVERY
def test_every_camera_sees_the_lamp_and_nothing_that_is_parked(make_env, name):
    env = make_env(name, level="extreme", observation="rgb", cameras=CAMERAS, knobs=brief(name))
    env.reset(seed=1)
    expert, seen = env.make_expert(1), set()
    while not env.task.decided:
        if env.task.phase not in seen and env.task.phase_tick <= 1:
            seen.add(env.task.phase)
            shown = env.scene.lamp_rgb()
            lamp = changed(env, lambda: env.scene.set_lamp((1.0, 0.0, 0.0)))
            assert all(lamp[camera] >= 4 for camera in CAMERAS), (env.task.phase, lamp)
            env.scene.set_lamp(shown)
            parked = [part for part, present in env.scene.present.items() if not present]
            for part in parked:
                pixels = changed(env, lambda part=part: env.scene.paint(part, (1.0, 0.0, 1.0)))
                assert not any(pixels.values()), (env.task.phase, part, pixels)
        env.advance(expert.act())
    assert seen == set(env.task.phases)


@pytest.mark.sim
@MEMORY
def test_hidden_phase_keeps_the_lamp_dark(make_env, name):
    env = make_env(name, knobs=brief(name, hidden_phase=1))
    env.reset(seed=0)
    expert = env.make_expert(0)
    while not env.task.decided:
        np.testing.assert_allclose(env.scene.lamp_rgb(), LAMP_GAP)
        env.advance(expert.act())
    assert env.task.success


@pytest.mark.sim
@WITH_CUE
def test_busy_gap_moves_things_but_not_the_scene_at_go(make_env, name):
    states = []
    for busy in (0.0, 1.0):
        env = make_env(name, knobs={"gap_min_s": 2.0, "gap_max_s": 2.0, "busy": busy})
        env.reset(seed=11)
        expert, seen, moved = env.make_expert(11), [], []
        while env.task.phase != EXECUTE:
            env.advance(expert.act())
            if env.task.phase == GAP:
                moved.append(env.scene.eef_pos())
                seen.append(env.observe()["entities"])
        states.append(env.save_state())
        active = bool(busy) or not env.task.gap_held
        assert (np.ptp(np.array(moved), axis=0).max() > 0.03) == active
        assert (np.ptp(np.array(seen), axis=0).max() > 0.05) == active
        assert all(env.observation_space["entities"].contains(rows) for rows in seen)
    assert_equal(*states, skip="hidden_")
