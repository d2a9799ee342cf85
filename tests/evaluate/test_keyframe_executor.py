"""The keyframe executor: paths, arrival, contact, failures, fingers, asking, independence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError, SpecMismatch
from embodied.core.specs import EE_DELTA_CHUNK, KEYFRAME, ActionSpec
from embodied.evaluate.api import command
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.executors import (
    ExecutorConfig,
    KeyframeConfig,
    KeyframeExecutor,
    build_executor,
    resolved,
)
from embodied.evaluate.executors.motion import Servo, rotation_between
from tests.evaluate.robots import COMMANDS, DOWN, FORGETS, KEYFRAME_SPEC, Robot, turned

KINDS = pytest.mark.parametrize("kind", [COMMANDS, FORGETS])
OPEN, CLOSE, LIFTED, STRAIGHT = -1.0, 1.0, 0.0, 1.0


def executor(batch=1, **options) -> KeyframeExecutor:
    config = ExecutorConfig(keyframe=KeyframeConfig(**options))
    made = build_executor(config, KEYFRAME_SPEC, batch)
    assert isinstance(made, KeyframeExecutor)
    return made


def keyframe(pos, gripper=CLOSE, flag=STRAIGHT, quat=DOWN) -> np.ndarray:
    return np.array([[[*pos, *quat, gripper, flag]]], np.float32)


def random_keyframes(batch: int, flag: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pos = rng.uniform([-0.2, -0.3, 0.85], [0.25, 0.3, 1.15], (batch, 3))
    quat = turned(np.tile(DOWN, (batch, 1)), rng.uniform(-0.5, 0.5, (batch, 3)))
    quat *= rng.choice([-1, 1], (batch, 1))  # both name the same orientation
    gripper, flags = rng.choice([-1.0, 1.0], (batch, 1)), np.full((batch, 1), flag)
    return np.hstack((pos, quat, gripper, flags))[:, None].astype(np.float32)


def run(made: KeyframeExecutor, robot: Robot, answer: np.ndarray, most: int = 200) -> dict:
    """Drives every row until it asks again; returns what happened, a list entry a tick."""
    rows = np.ones(robot.batch, bool)
    made.accept(answer, rows, robot.observation())
    trace: dict = {"pos": [robot.pos.copy()], "action": [], "ended": np.zeros(robot.batch, int)}
    for tick in range(1, most + 1):
        action = made.act(robot.observation(), rows)
        soon = made.soon()
        robot.step(action, rows)
        done = made.decisions(robot.observation())
        assert not (done & ~soon & rows).any(), "a decision came without notice"
        trace["action"].append(action)
        trace["pos"].append(robot.pos.copy())
        trace["ended"] = np.where(rows & done, tick, trace["ended"])
        rows &= ~done
        if not rows.any():
            break
    assert not rows.any(), "some row never asked again"
    trace["tally"] = [made.tally(row) for row in range(robot.batch)]
    return {k: np.array(v) if k in ("pos", "action") else v for k, v in trace.items()}


def only(tally: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in tally.items() if count}


# ---- getting there --------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("flag", [STRAIGHT, LIFTED])
def test_poses_are_reached_exactly_by_either_robot(kind, flag):
    made, robot = executor(12), Robot(kind, 12)
    for seed in range(3):  # from wherever the last one ended
        answer = random_keyframes(12, flag, seed)
        trace = run(made, robot, answer)
        assert [only(t) for t in trace["tally"]] == [{"reached": 1}] * 12
        assert np.linalg.norm(robot.pos - answer[:, 0, :3], axis=1).max() < 0.005
        assert np.linalg.norm(rotation_between(robot.quat, answer[:, 0, 3:7]), axis=1).max() < 0.05
        assert (made.hand.forgets() == (kind == FORGETS)).all()
    assert trace["ended"].max() < (70 if kind == COMMANDS else 110)


def test_a_load_keeps_no_hand_off_its_pose():
    robot = Robot(FORGETS, load_m=0.0025)  # 1 cm, if nothing were done about it
    made, goal = executor(), np.array([0.1, 0.0, 1.1])
    assert only(run(made, robot, keyframe(goal))["tally"][0]) == {"reached": 1}
    assert np.linalg.norm(robot.pos[0] - goal) < 0.005


@KINDS
def test_a_straight_path_is_straight_and_a_lifted_one_clears_both_ends(kind):
    start, goal = np.array([0.0, 0.0, 1.0]), np.array([0.2, -0.25, 0.9])
    path = run(executor(), Robot(kind), keyframe(goal))["pos"][:, 0]
    along = (goal - start) / np.linalg.norm(goal - start)
    aside = path - start - ((path - start) @ along)[:, None] * along
    assert np.linalg.norm(aside, axis=1).max() < 0.005
    path = run(executor(clearance_m=0.06), Robot(kind), keyframe(goal, flag=LIFTED))["pos"][:, 0]
    sideways = np.minimum(np.hypot(*(path - start)[:, :2].T), np.hypot(*(path - goal)[:, :2].T))
    assert path[sideways > 0.02, 2].min() > 1.06 - 0.015
    assert path[:, 2].max() < 1.06 + 0.02


@KINDS
def test_no_lift_straight_down_nor_out_of_the_workspace(kind):
    down = run(executor(), Robot(kind), keyframe([0.005, 0, 0.9], flag=LIFTED))["pos"][:, 0]
    assert down[:, 2].max() < 1.001
    high = {"workspace_high_m": (0.3, 0.4, 1.03)}
    path = run(executor(**high), Robot(kind), keyframe([0.2, 0, 0.95], flag=LIFTED))["pos"][:, 0]
    assert 1.02 < path[:, 2].max() < 1.04


def test_a_lifted_hand_turns_only_once_it_is_up():
    quat = turned(DOWN[None], np.array([[0, 0, 0.6]]))[0]
    trace = run(executor(), Robot(COMMANDS), keyframe([0.2, 0, 0.9], flag=LIFTED, quat=quat))
    turning, height = trace["action"][:, 0, 5] > 0.01, trace["pos"][:-1, 0, 2]
    assert turning.sum() > 10 and height[turning].min() > 1.06  # and comes down only then


@KINDS
def test_speed_on_the_way_and_close_to_the_end(kind):
    goal = np.array([0.0, 0.35, 1.0])
    path = run(executor(speed_m_s=0.2, final_speed_m_s=0.1), Robot(kind), keyframe(goal))["pos"]
    step = np.linalg.norm(np.diff(path[:, 0], axis=0), axis=1)
    left = np.linalg.norm(path[:-1, 0] - goal, axis=1)
    assert 0.009 < step[left > 0.07].max() < 0.0125  # 0.2 m/s are 1 cm a tick
    assert step[left < 0.04].max() < 0.0075


@KINDS
def test_positions_beyond_the_workspace_are_clipped_and_counted(kind):
    made, robot = executor(workspace_high_m=(0.1, 0.42, 1.25)), Robot(kind)
    tally = run(made, robot, keyframe([0.5, 0.0, 1.0]))["tally"][0]
    assert only(tally) == {"reached": 1, "clipped": 1}
    assert abs(robot.pos[0, 0] - 0.1) < 0.005
    assert only(made.tally(0)) == {}  # counting starts anew


# ---- contact and failure --------------------------------------------------------------------


@KINDS
def test_a_pose_behind_a_surface_is_reached_by_contact_when_close(kind):
    made, robot = executor(), Robot(kind, floor_m=0.92)
    trace = run(made, robot, keyframe([0, 0, 0.91]))
    assert only(trace["tally"][0]) == {"contact": 1}
    assert robot.opening[0] == 0.0, "the gripper closes on arrival by contact too"
    # The next keyframe isn't thrown off by how hard the hand pressed.
    trace = run(made, robot, keyframe([0, 0, 1.1]))
    assert only(trace["tally"][0]) == {"reached": 1} and trace["pos"][:, 0, 2].max() < 1.12


@KINDS
def test_a_hand_held_far_from_its_pose_has_stalled(kind):
    made, robot = executor(), Robot(kind, floor_m=0.96)
    trace = run(made, robot, keyframe([0, 0, 0.9]))
    assert only(trace["tally"][0]) == {"stalled": 1}
    assert robot.opening[0] == 1.0 and trace["ended"][0] < 40
    trace = run(made, robot, keyframe([0.1, 0, 1.1]))
    assert only(trace["tally"][0]) == {"reached": 1}


def test_a_hand_that_finds_no_rest_runs_out_of_time():
    class Restless(Robot):
        def step(self, action, rows=None):
            super().step(action, rows)
            self.pos[:, 1] += 0.004 * (-1) ** int(self.pos[0, 1] > 0)

    made = executor(limit_s=2.0)
    trace = run(made, Restless(FORGETS), keyframe([0.1, 0, 1.0]))
    assert only(trace["tally"][0]) == {"timeout": 1} and trace["ended"][0] == 40


def test_the_wrist_is_told_what_the_hand_found_out():
    """Small turns alone say nothing about the robot."""
    made, robot = executor(), Robot(FORGETS)
    run(made, robot, keyframe([0.2, 0, 1.0]))
    quat = turned(DOWN[None], np.array([[0, 0, 0.08]]))[0]
    trace = run(made, robot, keyframe([0.2, 0, 1.0], quat=quat))
    assert only(trace["tally"][0]) == {"reached": 1}
    assert np.linalg.norm(rotation_between(robot.quat, quat[None])) < 0.015


def test_the_command_is_reckoned_exactly_over_a_change_of_mind():
    made, robot, row = executor(), Robot(COMMANDS), np.ones(1, bool)
    for goal in ([0.2, 0, 1.0], [0, 0.2, 1.1]):  # the second while the hand still moves
        made.accept(keyframe(goal), row, robot.observation())
        for _ in range(4):
            before = robot.pos.copy()
            robot.step(made.act(robot.observation(), row))
            made.decisions(robot.observation())
            np.testing.assert_allclose(made.hand.lead, robot.command - before, atol=1e-6)


def test_a_hand_that_is_held_back_is_asked_on_without_end():
    servo, row, still = Servo(1, 0.05), np.ones(1, bool), np.zeros(1, bool)
    error, step = np.array([[0.5, 0, 0]]), np.array([0.02])
    for _ in range(100):
        action = servo.drive(error, np.full((1, 3), 1e-4), step, still, row)
    np.testing.assert_allclose(action, [[0.4, 0, 0]], atol=1e-3)


# ---- fingers --------------------------------------------------------------------------------


@KINDS
def test_the_gripper_keeps_its_command_on_the_way_and_changes_on_arrival(kind):
    made, robot = executor(), Robot(kind, width=0.5)
    for gripper, before in ((CLOSE, 0.0), (OPEN, CLOSE), (OPEN, OPEN)):
        goal = [0.1 * gripper, 0.1, 1.0 + 0.05 * before]
        trace = run(made, robot, keyframe(goal, gripper))
        commands = trace["action"][:, 0, 6]
        near = np.linalg.norm(trace["pos"][:-1, 0] - goal, axis=1) < 0.005
        assert (commands[~near] == before).all()
        assert commands[-1] == (gripper if before != gripper else before)
    assert robot.opening[0] == 1.0


def test_fingers_that_start_late_are_waited_for_but_not_for_ever():
    for deaf, least in ((0, 5), (6, 11)):
        robot = Robot(COMMANDS, deaf_ticks=deaf)
        trace = run(executor(), robot, keyframe([0.1, 0, 1.0]))
        assert robot.opening[0] == 0.0
        assert (trace["action"][:, 0, 6] == CLOSE).sum() >= least
    robot = Robot(COMMANDS, width=1.0)  # cannot close at all
    trace = run(executor(grip_s=0.5), robot, keyframe([0.1, 0, 1.0]))
    assert only(trace["tally"][0]) == {"reached": 1}
    assert (trace["action"][:, 0, 6] == CLOSE).sum() == 10
    robot = Robot(COMMANDS)  # open already: nothing to wait for
    trace = run(executor(grip_s=0.5), robot, keyframe([0.1, 0, 1.0], OPEN))
    assert (trace["action"][:, 0, 6] == OPEN).sum() == 2


# ---- asking, clearing, independence ---------------------------------------------------------


def test_a_row_without_an_answer_stands_still_and_asks_once_it_is_to_move():
    made, robot = executor(2), Robot(COMMANDS, 2)
    first = np.array([True, False])
    assert not made.decisions(robot.observation()).any()
    np.testing.assert_array_equal(made.act(robot.observation(), first), np.zeros((2, 7)))
    assert made.soon().tolist() == made.decisions(robot.observation()).tolist() == [True, False]
    made.clear(first)  # held again
    assert not made.decisions(robot.observation()).any()


def test_a_finished_row_asks_until_it_is_answered_and_stands_still():
    made, robot = executor(), Robot(COMMANDS)
    run(made, robot, keyframe([0.05, 0, 1.0]))
    action = made.act(robot.observation(), np.ones(1, bool))
    np.testing.assert_array_equal(action[0], [0, 0, 0, 0, 0, 0, CLOSE])
    assert made.decisions(robot.observation()).all()
    made.accept(keyframe([0.1, 0, 1.0]), np.ones(1, bool), robot.observation())
    assert not made.decisions(robot.observation()).any()


def test_a_decision_is_judged_once_a_tick():
    """Asking twice counts no tick of rest twice."""
    made, robot, row = executor(settle_ticks=3, stall_ticks=3), Robot(COMMANDS), np.ones(1, bool)
    made.accept(keyframe([0, 0, 1.0], OPEN), row, robot.observation())
    for tick in (1, 2, 3):
        robot.step(made.act(robot.observation(), row))
        for _ in range(3):
            made.decisions(robot.observation())
        assert made.rest[0] == tick


def test_clear_leaves_nothing_behind():
    made, robot, row = executor(), Robot(FORGETS, floor_m=0.95), np.ones(1, bool)
    run(made, robot, keyframe([0.1, 0, 0.94]))
    made.act(robot.observation(), row)
    made.clear(row)
    fresh, other = executor(), Robot(FORGETS)
    robot = Robot(FORGETS)
    for one, body in ((made, robot), (fresh, other)):
        one.accept(keyframe([-0.1, 0.2, 0.9], OPEN), row, body.observation())
    for _ in range(60):
        actions = [o.act(b.observation(), row) for o, b in ((made, robot), (fresh, other))]
        np.testing.assert_array_equal(*actions)
        for body, action in zip((robot, other), actions, strict=True):
            body.step(action)
        assert made.decisions(robot.observation()) == fresh.decisions(other.observation())


@KINDS
def test_what_is_done_in_a_row_depends_on_no_other_row(kind):
    answer = random_keyframes(5, LIFTED)
    together = run(executor(5), Robot(kind, 5, floor_m=0.9), answer)
    alone = run(executor(), Robot(kind, floor_m=0.9), answer[3:4])
    ticks = alone["ended"][0]
    assert together["ended"][3] == ticks and together["tally"][3] == alone["tally"][0]
    np.testing.assert_array_equal(together["action"][:ticks, 3], alone["action"][:, 0])


def test_rows_that_do_not_move_are_left_as_they_are():
    made, robot, both = executor(2), Robot(COMMANDS, 2), np.ones(2, bool)
    answer = np.concatenate([keyframe([0.1, 0, 1.0])] * 2)
    made.accept(answer, both, robot.observation())
    first = np.array([True, False])
    for _ in range(5):
        action = made.act(robot.observation(), first)
        np.testing.assert_array_equal(action[1], 0)
        robot.step(action, first)
        assert not made.decisions(robot.observation()).any()
    assert made.ticks.tolist() == [5, 0] and made.rest[1] == 0


# ---- refusals and configuration -------------------------------------------------------------


def test_broken_answers_are_refused_only_where_they_count():
    made, robot = executor(2), Robot(COMMANDS, 2)
    good = np.concatenate([keyframe([0.1, 0, 1.0])] * 2)
    for index, message in ((1, "NaN"), (slice(3, 7), "length 0")):
        bad = good.copy()
        bad[1, 0, index] = np.nan if index == 1 else 0.0
        made.accept(bad, np.array([True, False]), robot.observation())
        with pytest.raises(ActionError, match=rf"{message}.*\[1\]"):
            made.accept(bad, np.ones(2, bool), robot.observation())
    with pytest.raises(ActionError, match=r"\[2, 1, 9\]"):
        made.accept(good[:, :, :8], np.ones(2, bool), robot.observation())
    blind = {k: v for k, v in robot.observation().items() if k != "gripper_opening"}
    with pytest.raises(SpecMismatch, match="gripper_opening"):
        made.accept(good, np.ones(2, bool), blind)


def test_configurations_that_cannot_be_are_refused():
    for name, action, message in (
        ("prefix", ActionSpec(KEYFRAME, 9, 2), "9 numbers"),
        ("prefix", ActionSpec(KEYFRAME, 8, 1), "9 numbers"),
        ("ensemble", ActionSpec(KEYFRAME, 9, 1), "keyframe"),
        ("keyframe", ActionSpec(EE_DELTA_CHUNK, 7, 8), "ee_delta_chunk"),
    ):
        spec = dataclasses.replace(KEYFRAME_SPEC, action=action)
        with pytest.raises(ConfigError, match=message):
            build_executor(ExecutorConfig(name), spec, 1)
    for options in ({"speed_m_s": 0.0}, {"near_m": 0.001}, {"workspace_low_m": (0.0, 1.0, 0.0)}):
        with pytest.raises(ConfigError, match="expected"):
            KeyframeConfig(**options)


def test_what_ran_is_recorded_and_can_be_asked_for_again():
    config = ExecutorConfig(keyframe=KeyframeConfig(speed_m_s=0.3, workspace_low_m=(0, 0, 0.5)))
    asked = EvaluateConfig("run", executor=resolved(config, KEYFRAME_SPEC))
    assert command(asked) == (
        "embodied evaluate run executor.name=keyframe "
        "executor.keyframe.workspace_low_m=0,0,0.5 executor.keyframe.speed_m_s=0.3"
    )
