"""The three tasks of MemoryBench under the lettered cases that SAM2Act is held to, kk to nn.

As this suite's rules change them: an expert is measured on hundreds of episodes, aliasing is exact
instead of below the noise, and the ceiling is that of any policy without memory. Each case here is
small and fresh; what is stored is held to more in ``test_certify.py``.
"""

from __future__ import annotations

import pytest

from embodied.core.task import EXECUTE
from sims.memory_bench import certify
from sims.memory_bench.abstract import best_memoryless
from sims.memory_bench.aliasing import BEHAVIOURS
from sims.memory_bench.catalog import TASKS
from sims.memory_bench.machines import machine_of
from tests.sims.conftest import assert_equal
from tests.sims.hands import finish_cue, press_first

CHANCE = {"put_block_back": 4, "rearrange_block": 2, "reopen_drawer": 3}
"""Task -> its cue values at ``easy``; all are equally frequent."""
BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}
EVERY = pytest.mark.parametrize("name", CHANCE)


def finish(env, guess: int | None = None) -> bool:
    """Plays on after go, misled to `guess`; returns the success."""
    task, cue = env.task, env.task.cue
    expert = env.make_expert(0)
    while not task.decided:
        task.cue = cue if guess is None else guess
        action = expert.act()
        task.cue = cue
        env.advance(action)
    return task.success


@pytest.mark.sim
@EVERY
def test_kk_the_expert_succeeds_with_every_cue(make_env, name):
    """How many keyframes it takes is in ``tests/data/test_keyframes.py``, of the same letter."""
    env = make_env(name, knobs=BRIEF)
    assert env.task.n_cues == CHANCE[name]
    for cue in range(CHANCE[name]):
        env.reset(seed=700 + cue, options={"cue": cue})
        expert = env.make_expert(cue)
        while not env.task.decided:
            env.advance(expert.act())
        assert env.task.success, (cue, env.task.failure_kind)
    for level, proof in certify.load(name)["levels"].items():
        measured = proof["expert"]["fast"]
        assert measured["episodes"] >= 200 and measured["success"] >= 0.99, level


@pytest.mark.sim
@pytest.mark.render
@EVERY
def test_ll_aliased_pairs_are_equal_bit_for_bit(make_env, name):
    env = make_env(name, observation="rgbd", cameras=("front", "wrist"), image_size=32, knobs=BRIEF)
    seen = []
    for cue in (0, CHANCE[name] - 1):
        finish_cue(env, 11, cue)
        seen.append({key: value.copy() for key, value in env.observe().items()})
    assert {"front_image_u8", "wrist_depth_m", "eef_pos_world_m", "instruction_u8"} <= set(seen[0])
    assert_equal(*seen)
    stored = certify.load(name)["levels"]["easy"]["aliasing"]["fast"]
    assert stored["holds"]
    assert all(stored["behaviours"][behaviour]["pairs"] > 0 for behaviour in BEHAVIOURS)


@EVERY
def test_mm_who_sees_the_phase_alone_is_at_chance(name):
    info = TASKS[name]
    ceiling = best_memoryless(machine_of(info, info.knobs("easy")))
    assert ceiling.exact and ceiling.value == pytest.approx(1 / CHANCE[name])


@pytest.mark.sim
@EVERY
def test_mm_one_choice_for_all_cues_succeeds_with_one_of_them(make_env, name):
    """The expert with the true phase and without the cue, over balanced cues."""
    env = make_env(name, knobs=BRIEF)
    outcomes = []
    for cue in range(CHANCE[name]):
        finish_cue(env, 30, cue)
        outcomes.append(finish(env, guess=0))
        assert env.task.failure_kind == ("" if cue == 0 else "wrong_choice")
    assert outcomes == [cue == 0 for cue in range(CHANCE[name])]


@pytest.mark.sim
@EVERY
def test_nn_an_outcome_is_latched(make_env, name):
    env = make_env(name, knobs=BRIEF)
    for guess, success in ((None, True), (0, False)):
        finish_cue(env, 31, 1)
        assert finish(env, guess) is success
        outcome = env.outcome()
        env.task.commit("another", not success)
        assert env.outcome() == outcome and env.task.success is success


@pytest.mark.sim
@EVERY
def test_nn_steps_count_in_their_order_alone(make_env, name):
    """ReopenDrawer's originally, here all three: no press counts before its steps are done."""
    env = make_env(name, knobs=BRIEF)
    press_first(env, 2)
    # Nor does doing the end first: go comes after the press, and nothing is decided before it.
    env.reset(seed=2)
    expert, steps = env.make_expert(2), []
    while env.task.phase != EXECUTE:
        env.advance(expert.act())
        steps.append(env.task.vars["steps_done"] if env.task.phase == "cue" else 0)
        assert not env.task.decided and env.task.committed == ""
    assert max(steps) == env.task.n_steps
