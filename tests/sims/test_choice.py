"""Control by choice: what a step is, who decides, what is refused; a learner on it."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError
from embodied.core.specs import DISCRETE
from embodied.core.task import EXECUTE, GAP
from sims.memory_bench.catalog import TASKS
from sims.memory_bench.layout import by_place
from sims.memory_bench.machines import task_class
from sims.memory_bench.manipulation import draw_ring
from tests.sims.conftest import assert_equal

pytestmark = pytest.mark.sim

KNOBS = {"gap_min_s": 0.7, "gap_max_s": 0.9}
CHOSEN = (
    "bind_shape_color",
    "blink_count",
    "gather_and_recall",
    "intercept_behind_screen",
    "key_trial",
    "odd_one_out",
    "put_block_back",
    "rearrange_block",
    "remember_color",
    "reopen_drawer",
    "shell_game_swap",
    "stale_fact",
)
"""Tasks that are decided by choosing one thing."""


def choice_env(**kwargs):
    import sims

    return sims.memory_bench_env(
        "remember_color", "choice", observation="state", knobs=KNOBS, **kwargs
    )


def test_a_choice_is_carried_out_to_its_end_and_decides():
    env = choice_env()
    assert env.action_spec.kind == DISCRETE and env.action_space.n == 3
    assert env.metadata["control_hz"] == 2.0
    for seed, chosen in ((3, None), (4, 0), (4, 1), (4, 2)):
        _, info = env.reset(seed=seed)
        steps, oracle = 0, env.make_expert()
        times = [info["time_s"]]
        while not env.over:
            held = info["held"]
            action = oracle.act() if chosen is None else chosen
            _, reward, terminated, truncated, info = env.step(action)
            times.append(info["time_s"])
            steps += 1
            if held:
                assert not env.over and reward == 0.0
        right = info["cue"] if chosen is None else env.task.choice_order()[chosen]
        assert info["success"] == (right == info["cue"]) and reward == info["success"]
        assert info["failure_kind"] == ("" if info["success"] else "wrong_choice")
        assert info["commit"] == env.task.choice_name(right)
        assert steps <= env.horizon
        # Half a second each while held, at most: two looks at the cue, one or two at the gap.
        held_steps = np.diff(times[:-1])
        assert len(held_steps) in (3, 4) and held_steps.max() == 0.5
        assert terminated and not truncated


@pytest.mark.parametrize("task", CHOSEN)
def test_choices_are_numbered_as_seen_and_the_expert_works(task):
    """Whatever was done before go; each choice has its own outcome, and one of them is right."""
    import sims

    env = sims.memory_bench_env(task, "choice", observation="state", knobs=KNOBS)
    committed = set()
    for choice in range(env.action_space.n):
        _, info = env.reset(seed=11)
        assert sorted(env.task.choice_order()) == list(range(env.action_space.n))
        order = list(env.task.choice_order())
        steps = 0
        while not env.over:
            assert info["held"] == (info["phase"] != EXECUTE)  # what else counts is the choice
            _, reward, *_, info = env.step(choice)
            steps += 1
        assert steps <= env.horizon
        assert info["success"] == reward == (order[choice] == info["cue"])
        assert info["failure_kind"] in ("", "wrong_choice")
        committed.add(info["commit"])
    assert len(committed) == env.action_space.n
    env.reset(seed=12)
    oracle = env.make_expert()
    while not env.over:
        *_, info = env.step(oracle.act())
    assert info["success"]


def test_places_keep_their_numbers_while_they_are_shifted_a_little():
    rng = np.random.default_rng(0)
    for _ in range(200):
        places, _ = draw_ring(rng, 4)
        seen = places[by_place(places)]
        sides = np.sign(np.round(seen / 0.1))  # right; near, far; left of the robot
        np.testing.assert_array_equal(sides[:, 1], [-1, 0, 0, 1])
        assert seen[1, 0] < seen[2, 0]


@pytest.mark.parametrize("level", ["medium", "hard", "extreme"])
@pytest.mark.parametrize(
    ("task", "places", "column_m"),
    [("shell_game_swap", "pos", 0.04), ("put_block_back", "patches", 0.105)],
)
def test_columns_are_numbered_one_after_the_other(task, places, column_m, level):
    """A shift of millimetres mixes no column of patches with the next, and swaps no two cups."""
    info = TASKS[task]
    played, rng = task_class(info)(info.knobs(level)), np.random.default_rng(0)
    for _ in range(50):
        played.plan = played.draw(rng)
        x, y = played.plan[places][played.choice_order()][:, :2].T
        step = np.diff(np.round(y / column_m))
        assert (step >= 0).all() and (np.diff(x)[step == 0] > 0).all()


def test_observations_are_those_of_the_moved_arm():
    """Until go nothing differs from an episode of the same seed under control=fast."""
    import sims

    env = choice_env()
    moved = sims.memory_bench_env("remember_color", observation="state", knobs=KNOBS)
    obs, _ = env.reset(seed=7)
    other, _ = moved.reset(seed=7)
    assert_equal(obs, other)
    while env.task.phase != EXECUTE:
        obs, *_, info = env.step(0)
        while moved.task.tick < env.task.tick:
            other, *_ = moved.step(np.zeros(7, np.float32))
        assert_equal(obs, other)
    assert info["gate"] and not info["held"]


def test_bad_choices_and_tasks_are_refused():
    import sims

    env = choice_env()
    env.reset(seed=0)
    with pytest.raises(ActionError, match=r"expected 0 to 2 \(0, 1, 2\), got 3"):
        env.step(3)
    with pytest.raises(ActionError, match="whole numbers"):
        env.step(np.zeros(7, np.float32))
    for task in ("trace_route", "order_recall", "set_recall", "lift"):
        with pytest.raises(ConfigError, match="not decided by choosing one thing"):
            sims.memory_bench_env(task, "choice", observation="state")
    from embodied.commands.certify import Options as Certify
    from embodied.commands.play import Options as Play

    for make in (lambda: Certify(task="x", controls=["choice"]), lambda: Play(control="choice")):
        with pytest.raises(ConfigError, match="nothing to demonstrate"):
            make()


@pytest.mark.parametrize("control", ["choice", "fast"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_saved_and_carried_on(control, workers):
    import sims

    vec = sims.make_vec(
        "remember_color", 2, workers, observation="state", control=control, knobs=KNOBS
    )
    rng = np.random.default_rng(0)

    def act():
        n = vec.num_envs
        return rng.integers(0, 3, n) if control == "choice" else rng.uniform(-1, 1, (n, 7))

    try:
        vec.reset(seed=[5, 6])
        vec.step(act())
        kept, (seen, info) = vec.save_state(), vec.observe()
        assert set(info["phase"]) <= {"cue", GAP}
        actions = [act() for _ in range(6)]
        first = [vec.step(action) for action in actions]
        vec.restore_state(kept)
        again, _ = vec.observe()
        assert_equal(seen, again)
        for action, expected in zip(actions, first, strict=True):
            found = vec.step(action)
            assert_equal(expected[0], found[0])
            for a, b in zip(expected[1:4], found[1:4], strict=True):
                np.testing.assert_array_equal(a, b)
        with pytest.raises(ConfigError, match=r"of \[1\] rows, expected 2"):
            vec.restore_state({name: value[:1] for name, value in kept.items()})
        if control == "choice":
            vec.reset(seed=[5, 6])
            with pytest.raises(ActionError, match="row 1"):
                vec.step(np.array([0, 9]), active=[False, True])
    finally:
        vec.close()


def test_what_could_be_missed_between_two_looks_is_refused():
    """Blinks of 0.4 s, looked at every half second, can't be counted by any memory."""
    import sims

    for level, missed in (("easy", False), ("medium", False), ("hard", True), ("extreme", True)):
        if missed:
            with pytest.raises(ConfigError, match=r"looks every 0.5 s.*0.4 s alone"):
                sims.memory_bench_env("blink_count", "choice", observation="state", level=level)
            continue
        env = sims.memory_bench_env("blink_count", "choice", observation="state", level=level)
        env.close()
