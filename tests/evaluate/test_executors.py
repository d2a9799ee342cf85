"""Executors: chunk prefix, adaptive ensembling, clearing, grippers, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError
from embodied.core.specs import KEYFRAME, ActionSpec
from embodied.evaluate.executors import ExecutorConfig, build_executor
from tests.evaluate.fakes import FakePolicy

ALL = np.ones(2, bool)
FIRST = np.array([True, False])


def spec(horizon=12, size=7, observe_on="period", kind=None):
    base = FakePolicy().spec
    action = ActionSpec(kind or base.action.kind, size, horizon)
    return dataclasses.replace(base, action=action, observe_on=observe_on)


def chunks(seed=0, horizon=12):
    return np.random.default_rng(seed).uniform(-1, 1, (2, horizon, 7)).astype(np.float32)


def test_prefix_runs_the_first_actions_of_the_newest_chunk():
    executor = build_executor(ExecutorConfig(gripper="continuous"), spec(), 2)
    old, new = chunks(0), chunks(1)
    executor.accept(old, ALL, {})
    for k in range(8):  # 0.4 s at 20 Hz
        assert not executor.decisions({}).any()
        np.testing.assert_array_equal(executor.act({}, ALL), old[:, k])
    assert executor.decisions({}).all()
    executor.accept(new, FIRST, {})
    out = executor.act({}, ALL)
    np.testing.assert_array_equal(out[0], new[0, 0])
    # Used up: the second row stands still and holds its gripper.
    np.testing.assert_array_equal(out[1, :6], 0)
    assert out[1, 6] == old[1, 7, 6]


def test_rows_that_do_not_move_keep_their_place():
    executor = build_executor(ExecutorConfig(gripper="continuous"), spec(), 2)
    chunk = chunks()
    executor.accept(chunk, ALL, {})
    out = executor.act({}, FIRST)
    np.testing.assert_array_equal(out[1], 0)
    np.testing.assert_array_equal(executor.act({}, ALL), [chunk[0, 1], chunk[1, 0]])


@pytest.mark.parametrize("name", ["prefix", "ensemble"])
def test_clear_forgets_motion_and_gripper(name):
    executor = build_executor(ExecutorConfig(name), spec(), 2)
    executor.accept(chunks(0), ALL, {})
    executor.act({}, ALL)
    executor.clear(FIRST)
    out = executor.act({}, ALL)
    np.testing.assert_array_equal(out[0], 0)
    assert np.abs(out[1]).sum() > 0
    fresh = build_executor(ExecutorConfig(name), spec(), 2)
    fresh.accept(chunks(1), ALL, {})
    executor.accept(chunks(1), FIRST, {})
    for _ in range(8):
        np.testing.assert_array_equal(executor.act({}, ALL)[0], fresh.act({}, ALL)[0])


def test_whole_chunk_runs_when_observing_on_decisions():
    executor = build_executor(ExecutorConfig(), spec(5, observe_on="decision"), 2)
    assert executor.decisions({}).all()
    executor.accept(chunks(horizon=5), ALL, {})
    for k in range(5):
        assert not executor.decisions({}).any()
        executor.act({}, ALL)
        assert (executor.soon() == (k == 4)).all()
    assert executor.decisions({}).all()
    assert executor.tally(0) is None  # chunks have no outcome to count


def test_ensemble_weighs_by_cosine_to_the_newest():
    config = ExecutorConfig("ensemble", "continuous", ensemble_chunks=2, ensemble_alpha=0.1)
    executor = build_executor(config, spec(), 2)
    answers = [chunks(seed) for seed in range(3)]
    for answer in answers:
        executor.accept(answer, ALL, {})
        for _ in range(8):
            out = executor.act({}, ALL)
    # Now 7 ticks into the newest chunk; the one before is 15 ticks in, beyond its end.
    np.testing.assert_allclose(out, answers[2][:, 7], rtol=1e-6)
    executor.accept(answers[0], ALL, {})
    out = executor.act({}, ALL)[0]
    newest, older = answers[0][0, 0].astype(float), answers[2][0, 8].astype(float)
    cosine = newest @ older / (np.linalg.norm(newest) * np.linalg.norm(older))
    weights = np.exp(0.1 * np.array([1.0, cosine]))
    weights /= weights.sum()
    np.testing.assert_allclose(out, weights[0] * newest + weights[1] * older, rtol=1e-5)


@pytest.mark.parametrize(
    ("horizon", "observe_on"), [(8, "period"), (12, "decision")], ids=["period", "decision"]
)
def test_ensemble_of_chunks_that_never_overlap_is_refused(horizon, observe_on):
    message = rf"answers {horizon} actions and is asked again after {horizon} control ticks\. Train"
    with pytest.raises(ConfigError, match=message):
        build_executor(ExecutorConfig("ensemble"), spec(horizon, observe_on=observe_on), 2)
    build_executor(ExecutorConfig(), spec(horizon, observe_on=observe_on), 2)
    build_executor(ExecutorConfig("ensemble"), spec(9), 2)


def test_ensemble_of_one_chunk_is_the_prefix():
    one = build_executor(ExecutorConfig("ensemble", ensemble_chunks=1), spec(), 2)
    prefix = build_executor(ExecutorConfig(), spec(), 2)
    for seed in range(3):
        for executor in (one, prefix):
            executor.accept(chunks(seed), ALL, {})
        for _ in range(8):
            np.testing.assert_allclose(one.act({}, ALL), prefix.act({}, ALL), rtol=1e-6)


def test_binary_gripper_and_limits():
    executor = build_executor(ExecutorConfig(), spec(), 2)
    chunk = np.zeros((2, 12, 7), np.float32)
    chunk[0, 0], chunk[1, 0] = 3.0, -3.0
    executor.accept(chunk, ALL, {})
    out = executor.act({}, ALL)
    np.testing.assert_array_equal(out, [[1] * 7, [-1] * 7])
    assert out.dtype == np.float32


def test_refusals():
    with pytest.raises(ConfigError, match="run out of actions"):
        build_executor(ExecutorConfig(), spec(horizon=4), 2)
    with pytest.raises(ConfigError, match="keyframe"):
        build_executor(ExecutorConfig(), spec(kind=KEYFRAME), 2)
    with pytest.raises(ConfigError, match="prefix"):
        ExecutorConfig("prefx")
    with pytest.raises(ConfigError, match="binary"):
        ExecutorConfig(gripper="binery")
    executor = build_executor(ExecutorConfig(), spec(), 2)
    with pytest.raises(ActionError, match=r"\[2, 12, 7\]"):
        executor.accept(np.zeros((2, 12, 6), np.float32), ALL, {})
    bad = chunks()
    bad[1, 3, 2] = np.nan
    executor.accept(bad, FIRST, {})
    with pytest.raises(ActionError, match=r"\[1\]"):
        executor.accept(bad, ALL, {})
