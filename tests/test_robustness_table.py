"""Disturbances around the runner, and a table of them that goes on where it was killed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from embodied.core.files import read_json
from embodied.evaluate.runner import run
from tests.evaluate.fakes import FakePolicy, FakeVecEnv
from tests.test_bench import script  # noqa: F401

SEEDS = list(range(3000, 3008))


@pytest.fixture
def disturb(script: Any) -> Any:  # noqa: F811
    return script("robustness.disturb")


class Rows:
    """So many rows, and nothing else of an environment."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs


def ticks(disturbance: Any, count: int, first: int = 1) -> list[float]:
    """What a row does where action i moves by i, closing the gripper; the other row rests."""
    active, found = np.array([True, False]), []
    for value in range(first, first + count):
        actions = np.zeros((2, 7), np.float32)
        actions[0, 0], actions[0, 6] = value, 1.0
        done = disturbance.done(actions, active)
        assert not done[1].any()
        found.append(float(done[0, 0]))
    return found


def bound(disturbance: Any, seed: int = 5) -> Any:
    disturbance.bind(Rows(2))
    for row in range(2):
        disturbance.start(row, seed)
        disturbance.begin(row)
    return disturbance


def test_an_action_that_misses_its_tick_is_the_last_one_again(disturb: Any) -> None:
    done = ticks(bound(disturb.Jitter(0.5)), 60)
    assert all(value in (index, index + 1) for index, value in enumerate(done))
    missed = sum(value == index for index, value in enumerate(done))
    assert 15 < missed < 45
    assert done == ticks(bound(disturb.Jitter(0.5)), 60)  # the seed's own misfortune
    assert done != ticks(bound(disturb.Jitter(0.5), seed=6), 60)
    assert ticks(bound(disturb.Jitter(1.0)), 4) == [0, 1, 2, 3]


def test_late_answers_are_done_later_or_in_part(disturb: Any) -> None:
    hold = bound(disturb.LatencyHold(2))
    assert ticks(hold, 4) == [0, 0, 1, 2]
    hold.begin(0)  # a gate: nothing that was decided before it is done any more
    assert ticks(hold, 3, first=7) == [0, 0, 7]
    skip = bound(disturb.LatencySkip(2))
    skip.lost(np.zeros(2))
    assert ticks(skip, 4) == [0, 0, 3, 4]
    skip.lost(np.zeros(2))  # it observes again
    active, actions = np.array([True, False]), np.zeros((2, 7), np.float32)
    assert skip.done(actions, active)[0].tolist() == [0, 0, 0, 0, 0, 0, 1.0]  # the hand stays shut


def outcomes(disturb: Any, disturbance: Any, batch: int = 4) -> list[Any]:
    env = disturb.DisturbedEnv(FakeVecEnv(batch), disturbance)
    policy = disturb.DisturbedPolicy(FakePolicy(), disturbance)
    return [r.outcome() for r in run(policy, env, SEEDS, progress=False)]


def test_without_a_disturbance_nothing_changes(disturb: Any) -> None:
    plain = [r.outcome() for r in run(FakePolicy(), FakeVecEnv(4), SEEDS, progress=False)]
    for disturbance in (disturb.Disturbance(), disturb.Jitter(0.0), disturb.Loss(0.0),
                        disturb.LatencyHold(0), disturb.LatencySkip(0)):  # fmt: skip
        assert outcomes(disturb, disturbance) == plain
    assert outcomes(disturb, disturb.LatencyHold(6)) != plain


def test_a_lost_observation_never_reaches_memory(disturb: Any) -> None:
    assert not any(row["success"] for row in outcomes(disturb, disturb.Loss(1.0)))
    some = outcomes(disturb, disturb.Loss(0.5))
    assert some == outcomes(disturb, disturb.Loss(0.5), batch=3)  # from seed and tick alone
    lengths = [row["length"] for row in some]
    assert np.mean(lengths) > np.mean([r["length"] for r in outcomes(disturb, disturb.Loss(0.0))])


@pytest.mark.sim
@pytest.mark.render
def test_cameras_and_light_change_pictures_and_nothing_for_good(
    disturb: Any, monkeypatch: Any
) -> None:
    from embodied import registry
    from embodied.core.errors import ConfigError
    from embodied.core.task import EnvConfig

    vector = registry.make_vec("remember_color", "easy", EnvConfig(), num_envs=1)
    key, told = "front_image_u8", "front_cam_to_world"

    def first(disturbance: Any, seed: int = 9) -> dict[str, np.ndarray]:
        env = disturb.DisturbedEnv(vector, disturbance)
        obs, _ = env.reset(seed=[seed], options={"reset_mask": np.ones(1, bool)})
        disturbance.release()
        return {k: np.array(v[0]) for k, v in obs.items()}

    plain = first(disturb.Disturbance())
    knocked, known = (first(disturb.Camera("shift", 4.0, told=t)) for t in (False, True))
    assert np.array_equal(knocked[key], known[key]) and not np.array_equal(plain[key], known[key])
    assert np.allclose(knocked[told], plain[told], atol=1e-6)
    moved = known[told][:3, 3] - plain[told][:3, 3]
    assert np.linalg.norm(moved) == pytest.approx(0.04, abs=1e-5)
    assert np.allclose(known[told][:3, :3], plain[told][:3, :3], atol=1e-6)
    turned = first(disturb.Camera("turn", 4.0, told=True))
    relative = plain[told][:3, :3].T @ turned[told][:3, :3]
    assert np.rad2deg(np.arccos((np.trace(relative) - 1) / 2)) == pytest.approx(4.0, abs=0.01)
    assert np.allclose(turned[told][:3, 3], plain[told][:3, 3], atol=1e-6)
    assert not np.array_equal(first(disturb.Camera("turn", 4.0), seed=10)[told], turned[told])
    dark = first(disturb.Light(0.5, 0.5, 0.5))
    assert 0.4 < dark[key].mean() / plain[key].mean() < 0.6
    assert np.array_equal(first(disturb.Disturbance())[key], plain[key])
    monkeypatch.setattr(vector, "spec_dict", lambda: {"observation": "state"})
    with pytest.raises(ConfigError, match="without pictures"):
        disturb.Light(1, 1, 1).bind(vector)
    vector.close()


@pytest.mark.sim
def test_a_killed_table_goes_on_where_it_was(script: Any, tmp_path: Any, monkeypatch: Any) -> None:  # noqa: F811
    from tests.evaluate.checkpoints import untrained

    grid, table = script("robustness.grid"), importlib.import_module("robustness_table")
    runs = [str(untrained(tmp_path / name, name)) for name in ("gru", "none")]
    measured: list[str] = []

    def episodes(config: Any, loaded: Any, *rest: Any) -> list[Any]:
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(loaded.meta.config["memory"])
        return run(FakePolicy(), FakeVecEnv(2), list(rest[-1]), progress=False)

    monkeypatch.setattr(grid.api, "make_vec", lambda *_: FakeVecEnv(2))
    monkeypatch.setattr(grid.api, "run_episodes", episodes)
    monkeypatch.setitem(
        grid.KINDS, "jitter", grid.dataclasses.replace(grid.KINDS["jitter"], levels=(40,))
    )
    words = [runs[0], "jitter", "--twin", runs[1], "--episodes", "2", "--batch", "2"]
    words += ["--out", str(tmp_path / "out")]
    with pytest.raises(KeyboardInterrupt):
        table.main(words)
    file = tmp_path / "out" / "disturbed-gru.json"
    before = read_json(file)["rows"]
    assert len(before) == 3
    measured.clear()
    assert table.main(words) == 0
    assert measured == ["none"]
    result = read_json(file)
    assert result["rows"][:3] == before
    assert [(r["kind"], r["role"]) for r in result["rows"]] == [
        ("none", "with memory"), ("none", "memoryless"),
        ("jitter", "with memory"), ("jitter", "memoryless"),
    ]  # fmt: skip
    assert all(len(r["outcomes"]) == 2 and r["low"] <= r["success"] <= r["high"] for r in before)
    text = file.with_suffix(".md").read_text()
    assert "| `jitter`" in text and "40 %" in text
    assert file.with_suffix(".svg").read_text().count("<polyline") == 2
    assert table.main([*words[:1], "noise", *words[2:]]) != 0
    assert table.main([*words[:1], "brightness", *words[2:]]) != 0
    monkeypatch.setattr(grid, "DEFINITION", 2)  # what it means has changed: nothing holds
    measured.clear()
    with pytest.raises(KeyboardInterrupt):
        table.main(words)


def test_cells_are_the_kinds_asked_for(script: Any) -> None:  # noqa: F811
    grid = script("robustness.grid")
    every = grid.cells([], pictures=True)
    assert len(every) == len(set(every)) == 1 + sum(len(k.levels) for k in grid.KINDS.values())
    assert not any(grid.KINDS[c.kind].pictures for c in grid.cells([], pictures=False)[1:])
    assert [c.level for c in grid.cells(["latency_hold"], True)] == [0, 100, 200, 300, 400]
