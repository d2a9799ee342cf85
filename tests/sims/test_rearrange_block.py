"""RearrangeBlock: histories, marks, rules, failures and the expert."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.task import EXECUTE
from sims.memory_bench import task as task_module
from sims.memory_bench.manipulation import BLOCK_RGB, CENTRE_XY_M, SHOWN_RGB
from sims.memory_bench.parts import TABLE_TOP_M
from sims.memory_bench.tasks.rearrange_block import INFO, RearrangeBlock, rearrange_sequences
from tests.sims.hands import finish_cue, follow, press_first

TASK = "rearrange_block"
LEVELS = tuple(INFO.levels)


def test_levels_and_ceilings():
    got = [(INFO.levels[level]["K"], INFO.levels[level]["pre_moves"]) for level in LEVELS]
    assert got == [(2, 0), (3, 1), (4, 2), (4, 4)]
    for level in LEVELS:
        assert INFO.ceiling(INFO.knobs(level)) == pytest.approx(1 / INFO.levels[level]["K"])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"K": 5}, "2 to 4"), ({"K": 3}, "pre_moves"), ({"pre_moves": 1}, "pre_moves"),
     ({"K": 4, "pre_moves": 5}, "2 to 4"), ({"tol_m": 0}, "tol_m")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        RearrangeBlock(INFO.knobs("easy", knobs))


@pytest.mark.sim
@pytest.mark.parametrize("level", LEVELS)
def test_cue_phase_moves_every_block_but_the_cue(make_env, level):
    env = make_env(TASK, level=level)
    for seed in range(20):
        env.reset(seed=seed)
        task = env.task
        for i in range(task.k):
            apart = np.delete(task.plan["patches"], i, 0) - task.plan["patches"][i]
            assert np.abs(apart).max(-1).min() > 0.1
        moved = set()
        for step in range(task.n_steps):
            before, after = task._occupants(step), task._occupants(step + 1)
            moved |= {b for place, b in after.items() if before.get(place) != b}
        assert moved == set(range(task.k)) - {task._occupants(0)[task.cue]}
        assert task._occupants(0)[task.cue] == task.cue
        assert set(task._occupants(task.n_steps)) == set(range(task.k))


@pytest.mark.sim
def test_one_block_is_marked_at_each_step_and_none_later(make_env):
    env = make_env(TASK, level="hard")
    env.reset(seed=3)
    task, expert, marks = env.task, env.make_expert(3), []

    def marked():
        colours = [env.scene.m.geom(f"block{i}_geom").rgba[:3] for i in range(4)]
        shown = [i for i, c in enumerate(colours) if np.allclose(c, SHOWN_RGB)]
        assert all(np.allclose(c, BLOCK_RGB) for i, c in enumerate(colours) if i not in shown)
        return shown

    while not task.decided:
        if not marks or marks[-1] != (task.phase, marked()):
            marks.append((task.phase, marked()))
        env.advance(expert.act())
    moved = [task._occupants(s)[task._history()[0][s][0]] for s in range(3)]
    assert marks == [("cue", [b]) for b in moved[:3]] + [("cue", []), ("gap", []), ("execute", [])]


@pytest.mark.sim
def test_lamp_shows_each_step(make_env):
    env = make_env(TASK, level="extreme", knobs={"busy": 0.0, "gap_min_s": 0.2, "gap_max_s": 0.3})
    env.reset(seed=1)
    expert, lamps = env.make_expert(1), []
    while not env.task.decided:
        lamp = tuple(env.scene.lamp_rgb())
        if not lamps or lamps[-1] != lamp:
            lamps.append(lamp)
        env.advance(expert.act())
    expected = (task_module.LAMP_CUE, *task_module.LAMP_STEPS, task_module.LAMP_GAP,
                task_module.LAMP_EXECUTE)  # fmt: skip
    np.testing.assert_allclose(lamps, expected, atol=0.01)


@pytest.mark.sim
def test_press_before_the_step_does_nothing(make_env):
    press_first(make_env(TASK), 2)


@pytest.mark.sim
def test_wrong_block_is_a_wrong_choice_and_a_missed_centre_is_motor(make_env):
    env = make_env(TASK)
    finish_cue(env, 4, 0)
    follow(env, env.task.carry_path(1, CENTRE_XY_M))
    assert (env.task.committed, env.task.failure_kind) == ("patch1", "wrong_choice")
    finish_cue(env, 4, 0)
    follow(env, env.task.carry_path(0, CENTRE_XY_M + 0.075))
    assert (env.task.committed, env.task.failure_kind) == ("patch0", "motor")


@pytest.mark.sim
def test_moving_an_unmarked_block_is_no_step(make_env):
    env = make_env(TASK)
    env.reset(seed=4, options={"cue": 0})
    follow(env, env.task.carry_path(0, CENTRE_XY_M + np.array([0.12, 0.0])))
    assert env.task.vars["steps_done"] == 0 and not env.task.decided
    expert = env.make_expert(4)
    while not env.task.decided:
        env.advance(expert.act())
    assert env.task.success


@pytest.mark.sim
def test_at_go_all_blocks_look_and_stand_alike(make_env):
    env = make_env(TASK, level="hard")
    finish_cue(env, 6)
    assert env.task.phase == EXECUTE
    for i in range(4):
        offset = env.scene.pos(f"block{i}")[:2] - env.task.plan["patches"][i]
        assert np.abs(offset).max() <= 0.006
        np.testing.assert_allclose(
            env.scene.m.geom(f"block{i}_geom").rgba[:3], BLOCK_RGB, rtol=1e-6
        )


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 1)
    for name in ("block1_geom", "patch1_geom"):
        np.testing.assert_allclose(env.scene.m.geom(name).rgba[:3], SHOWN_RGB, rtol=1e-6)


@pytest.mark.sim
def test_what_follows_a_move_is_known_before_the_lamp_counts_it(make_env):
    env = make_env(TASK, level="hard")
    env.reset(seed=6)
    task = env.task
    block_xy = lambda block: env.scene.pos(task.block_names[block])[:2]  # noqa: E731
    for step in range(task.n_steps):
        assert task.vars["steps_done"] == step
        block, goal = task._move()
        # Not done yet, so this move itself.
        np.testing.assert_allclose(task.upcoming()[0].pos_world_m[:2], block_xy(block))
        env.scene.place(task.block_names[block], (*goal, TABLE_TOP_M + 0.025))
        env.scene.settle()
        last = step + 1 == task.n_steps
        other = task.plan["button"] if last else block_xy(task._move(step + 1)[0])
        np.testing.assert_allclose(task.upcoming()[0].pos_world_m[:2], other, atol=1e-6)
        while task.vars["steps_done"] == step:
            env.advance(np.zeros(7))
        np.testing.assert_allclose(task.upcoming()[0].pos_world_m[:2], other, atol=1e-4)


@pytest.mark.parametrize(("k", "pre_moves"), [(2, 0), (3, 1), (4, 2), (4, 4)])
def test_rearrange_histories_leave_exactly_one_block_unmoved(k, pre_moves):
    histories = rearrange_sequences(k, pre_moves)
    counts = [sum(h[0] == c for h in histories) for c in range(k)]
    assert len(set(counts)) == 1
    for unmoved, moves, empty in histories:
        blocks = {p: p for p in range(k) if p != empty}
        moved = set()
        for source, target in moves[:-1]:
            assert target not in blocks and source != -1
            blocks[target] = blocks.pop(source)
            moved.add(blocks[target])
        assert moves[-1][0] == -1 and moves[-1][1] not in blocks
        assert len(moves) == pre_moves + 1
        assert set(blocks.values()) - moved == {unmoved} and blocks[unmoved] == unmoved


def test_rearrange_refuses_too_few_moves():
    with pytest.raises(ValueError, match="pre_moves >= K - 2"):
        rearrange_sequences(4, 1)
