"""What counts as following the memory of another episode, in every task."""

from __future__ import annotations

import pytest

from embodied.core.task import EXECUTE
from sims.memory_bench.catalog import TASKS

BRIEF = {"gap_min_s": 0.2, "gap_max_s": 0.3}
LEVELS = ("easy", "extreme")
NAMES = [
    name
    for name, info in TASKS.items()
    # Passes differ in speed, so a motion can't be done again there.
    if info.needs_memory(info.knobs("easy")) and name != "stop_at_nth_pass"
]

pytestmark = pytest.mark.sim


def begin(env, seed, cue):
    """Starts an episode; returns its expert."""
    env.reset(seed=seed, options={"cue": cue})
    return env.make_expert(seed)


def to_the_point(env, expert, point):
    """Lets the expert act up to the moment of the swap, ``"swap_point"`` or ``"donor_point"``."""
    points = lambda: env.task.swap_points()  # noqa: E731
    here = lambda: points()[point] if points() else env.task.phase == EXECUTE  # noqa: E731
    while not here():
        assert not env.task.decided, env.task.failure_kind
        env.advance(expert.act())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("task", NAMES)
def test_whoever_acts_on_the_other_memory_follows_it(make_env, task, level):
    """The other cue's motion from go on is done again where everything looks the same at go."""
    info = TASKS[task]
    # A gap that is full of work keeps its length.
    env = make_env(task, level=level, knobs={} if task == "gather_and_recall" else BRIEF)
    cues = env.task.n_cues
    for seed in (3, 4):
        env.reset(seed=seed)
        # Of progress the most choices, so that there is one before the last.
        own = cues - 1 if info.progress else env.task.cue
        others = own if info.progress else (own + 1) % cues
        expert = begin(env, seed, others)
        to_the_point(env, expert, "donor_point")
        cue, target, actions = env.task.cue, env.task.target(), []
        while not env.task.decided:
            actions.append(expert.act())
            env.advance(actions[-1])
        assert env.task.success

        expert = begin(env, seed, own)
        to_the_point(env, expert, "swap_point")
        for action in actions:
            if not env.task.decided:
                env.advance(action)
        assert env.task.committed and not env.task.success
        assert env.task.follows(cue, target), (env.task.committed, target)
        assert env.follows(cue, target)

        expert = begin(env, seed, own)
        while not env.task.decided:
            env.advance(expert.act())
        assert env.task.success and not env.task.follows(cue, target)


@pytest.mark.parametrize("level", LEVELS)
def test_whoever_counts_one_less_stops_the_slider_a_pass_late(make_env, level):
    env = make_env("stop_at_nth_pass", level=level, knobs=BRIEF)
    task, expert = env.task, begin(env, 3, 0)
    to_the_point(env, expert, "donor_point")
    target = task.target()
    to_the_point(env, expert, "swap_point")
    while not task.decided:
        task.cue += 1  # for the expert alone: to count one less is to wait for one more
        action = expert.act()
        task.cue -= 1
        env.advance(action)
    assert target == "pass" and task.committed == f"stop {task.times + 1}"
    assert not task.success and task.follows(0, target)
    expert = begin(env, 3, 0)
    to_the_point(env, expert, "swap_point")
    while not task.decided:
        env.advance(expert.act())
    assert task.success and not task.follows(0, target)
