"""The vector environment: same results over workers, masks, autoreset, dying workers."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from gymnasium.wrappers.vector import DictInfoToList

from embodied.core.errors import ActionError, ConfigError, SimulatorError
from tests.sims.conftest import assert_equal

pytestmark = pytest.mark.sim

KNOBS = {"gap_min_s": 0.2, "gap_max_s": 0.4, "cue_s": 0.2, "execute_s": 0.5}


@pytest.fixture
def make_vec():
    import sims

    made = []

    def make(num_envs, num_workers=0, **kwargs):
        kwargs = {"level": "easy", "observation": "state", "knobs": KNOBS, **kwargs}
        made.append(sims.make_vec("remember_color", num_envs, num_workers, **kwargs))
        return made[-1]

    yield make
    for vec in made:
        vec.close()


def rollout(vec, ticks=24, **kwargs):
    rng = np.random.default_rng(0)
    vec.reset(seed=list(range(10, 10 + vec.num_envs)))
    out = []
    for _ in range(ticks):
        actions = rng.uniform(-1, 1, (vec.num_envs, 7)).astype(np.float32)
        out.append(vec.step(actions, **kwargs))
    return out


def assert_same_infos(left, right):
    assert left.keys() == right.keys()
    for name, column in left.items():
        if name == "final_obs":  # as an array its dicts would not be entered
            np.testing.assert_equal(list(column), list(right[name]))
        else:
            np.testing.assert_equal(column, right[name], err_msg=name)


@pytest.mark.render
@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_results_do_not_depend_on_workers(make_vec, autoreset):
    runs = [
        rollout(make_vec(3, workers, observation="rgb", autoreset=autoreset)) for workers in (0, 2)
    ]
    for run in runs[1:]:
        for left, right in zip(runs[0], run, strict=True):
            assert_equal(left[0], right[0])
            for a, b in zip(left[1:4], right[1:4], strict=True):
                np.testing.assert_array_equal(a, b)
            assert_same_infos(left[4], right[4])


@pytest.mark.filterwarnings("ignore:.*simulator workers.*")
def test_a_row_plays_what_it_would_play_alone(make_vec):
    from sims.gym_env import MemoryBenchEnv

    steps = rollout(make_vec(2))
    rng = np.random.default_rng(0)
    env = MemoryBenchEnv("remember_color", observation="state", knobs=KNOBS)
    env.reset(seed=11)
    for obs, reward, terminated, truncated, infos in steps:
        if env.over:
            break
        action = rng.uniform(-1, 1, (2, 7)).astype(np.float32)[1]
        alone = env.step(action)
        assert_equal(alone[0], {key: value[1] for key, value in obs.items()})
        assert alone[1:4] == (reward[1], terminated[1], truncated[1])
        assert {name: column[1] for name, column in infos.items()} == alone[4]
    env.close()


def test_finished_rows_wait_for_a_masked_reset(make_vec):
    vec = make_vec(2)
    steps = rollout(vec, ticks=40)
    assert steps[-1][3].all(), "the time limit ends both rows"
    obs, reward, _, truncated, infos = vec.step(np.full((2, 7), 0.5, np.float32))
    assert truncated.all() and not reward.any()
    assert_equal(obs, steps[-1][0])
    obs, infos = vec.reset(seed=[77, 78], options={"reset_mask": [True, False], "cue": [2, 0]})
    assert infos["phase"].tolist() == ["cue", "execute"] and infos["cue"][0] == 2
    assert_equal({k: v[1] for k, v in obs.items()}, {k: v[1] for k, v in steps[-1][0].items()})
    _, _, _, truncated, infos = vec.step(np.zeros((2, 7), np.float32))
    assert truncated.tolist() == [False, True]
    assert infos["time_s"][0] == pytest.approx(0.05)


def test_inactive_rows_stand_still(make_vec):
    vec = make_vec(2)
    vec.reset(seed=0)
    for tick in range(3):
        _, _, _, _, infos = vec.step(np.zeros((2, 7)), active=[True, False])
        assert infos["time_s"].tolist() == pytest.approx([0.05 * (tick + 1), 0.0])


@pytest.mark.parametrize("workers", [0, 2])
def test_same_step_autoreset_equals_separate_episodes(make_vec, make_env, workers):
    vec, seeds = make_vec(2, workers, autoreset="same_step"), [20, 21]
    vec.reset(seed=seeds)
    alone = [make_env(knobs=KNOBS, copy=row) for row in range(2)]
    for env, seed in zip(alone, seeds, strict=True):
        env.reset(seed=seed)
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = rng.uniform(-1, 1, (2, 7)).astype(np.float32)
        obs, reward, terminated, truncated, infos = vec.step(actions)
        for mask in ("_final_obs", "_final_info"):
            np.testing.assert_array_equal(terminated | truncated, infos[mask])
        for row, env in enumerate(alone):
            last = env.step(actions[row])
            assert last[1:4] == (reward[row], terminated[row], truncated[row])
            if env.over:
                assert_equal(infos["final_obs"][row], last[0])
                assert {k: v[row] for k, v in infos["final_info"].items()} == last[4]
                seeds[row] += 2
                last = env.reset(seed=seeds[row])
            else:
                assert infos["final_obs"][row] is None
            assert_equal({k: v[row] for k, v in obs.items()}, last[0])
            assert {k: infos[k][row] for k in last[-1]} == last[-1]
    assert min(seeds) >= 24
    vec.reset()
    assert vec.save_state()["task_seed"].tolist() == [seed + 2 for seed in seeds]


@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_infos_have_gymnasiums_form(make_vec, autoreset):
    as_lists = DictInfoToList(make_vec(2, autoreset=autoreset))
    plain = make_vec(2, autoreset=autoreset)
    _, told = as_lists.reset(seed=[10, 11])
    plain.reset(seed=[10, 11])
    assert [info["cue"] for info in told] == plain.observe()[1]["cue"].tolist()
    finals = 0
    for _ in range(24):
        *_, told = as_lists.step(np.zeros((2, 7)))
        *_, infos = plain.step(np.zeros((2, 7)))
        for row, info in enumerate(told):
            over = autoreset == "same_step" and infos["_final_info"][row]
            assert ("final_info" in info) == ("final_obs" in info) == over
            if over:
                finals += 1
                assert info["final_info"]["phase"] == "execute" and info["final_info"]["time_s"] > 0
                assert_equal(info["final_obs"], infos["final_obs"][row])
            assert info["phase"] == infos["phase"][row]
    assert (finals > 0) == (autoreset == "same_step")


def test_a_finished_row_that_was_restored_starts_again(make_vec):
    steps = rollout(done := make_vec(2))
    assert steps[-1][3].all()
    vec = make_vec(2, autoreset="same_step")
    vec.restore_state(done.save_state())
    _, reward, terminated, truncated, infos = vec.step(np.zeros((2, 7)), active=[True, False])
    assert truncated.tolist() == infos["_final_obs"].tolist() == [True, False]
    assert not terminated.any() and not reward.any()
    assert_equal(infos["final_obs"][0], {k: v[0] for k, v in steps[-1][0].items()})
    assert infos["failure_kind"].tolist() == ["", "timeout"]
    assert vec.save_state()["task_seed"].tolist() == [12, 11]
    _, _, _, truncated, infos = vec.step(np.zeros((2, 7)))
    assert truncated.tolist() == [False, True] and infos["time_s"].tolist() == [0.05, 0.0]
    vec.reset()
    assert vec.save_state()["task_seed"].tolist() == [14, 15]


@pytest.mark.parametrize("workers", [0, 1])
def test_calls_reach_a_row(make_vec, workers):
    vec = make_vec(2, workers)
    vec.reset(seed=[3, 4])
    state = vec.call("save_state", 1)
    vec.step(np.zeros((2, 7)))
    assert vec.call("current_info", 1)["time_s"] == pytest.approx(0.05)
    vec.call("restore_state", 1, state)
    assert vec.call("current_info", 1)["time_s"] == 0.0
    assert vec.call("make_expert", 0, 5, 1.0) is None
    assert vec.call("expert.act", 0).shape == (7,)
    with pytest.raises(ConfigError, match="row"):
        vec.call("save_state", 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_finished_row_that_was_put_back_is_stepped(make_vec, workers):
    vec = make_vec(2, workers)
    vec.reset(seed=[3, 4])
    state, kept = vec.call("save_state", 1), {k: v[1] for k, v in vec.observe()[0].items()}
    while not vec.step(np.zeros((2, 7)))[3].all():
        pass
    vec.call("restore_state", 1, state)
    observation, infos = vec.observe()
    assert_equal({k: v[1] for k, v in observation.items()}, kept)
    assert infos["time_s"][1] == 0.0 < infos["time_s"][0]
    _, _, _, truncated, infos = vec.step(np.zeros((2, 7)))
    assert truncated.tolist() == [True, False] and infos["time_s"][1] == 0.05


@pytest.mark.render
def test_render_gives_pictures_in_state_mode(make_vec):
    vec = make_vec(1)
    vec.reset(seed=0)
    picture = vec.call("render", 0)
    assert picture.shape == (256, 256, 3) and picture.dtype == np.uint8 and picture.std() > 10


@pytest.mark.render
def test_rows_are_drawn_on_request(make_vec):
    vec = make_vec(2, observation="rgb")
    vec.reset(seed=0)
    _, _, _, _, infos = vec.step(np.zeros((2, 7)), render=[True, False])
    assert infos["image_fresh"].tolist() == [True, False]
    for _ in range(3):
        _, _, _, _, infos = vec.step(np.zeros((2, 7)), render=[False, False])
    assert infos["gate"].all() and infos["image_fresh"].all(), "gates are always drawn"


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_input_names_the_row(make_vec, workers):
    vec = make_vec(2, workers)
    with pytest.raises(SimulatorError, match="never reset"):
        vec.step(np.zeros((2, 7)))
    vec.reset(seed=0)
    with pytest.raises(ActionError, match="row 1"):
        vec.step(np.array([[0.0] * 7, [np.nan] * 7]))
    with pytest.raises(ActionError, match="shape"):
        vec.step(np.zeros((1, 7)))
    vec.step(np.array([[0.0] * 7, [np.nan] * 7]), active=[True, False])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_callers_mistake_changes_nothing(make_vec, workers):
    vec = make_vec(2, workers)
    with pytest.raises(SimulatorError, match="no episode to save"):
        vec.save_state()
    vec.reset(seed=[4, 5], options={"cue": [2, None]})
    before = vec.save_state()
    for wrong, match in (
        ({"seed": 0, "options": {"cue": [0, 9]}}, "cue of remember_color: expected 0 to 2, got 9"),
        ({"seed": 0, "options": {"cue": [0, -1]}}, "expected 0 to 2, got -1"),
        ({"seed": 0, "options": {"cue": [0, 0.5]}}, "expected 0 to 2, got 0.5"),
        ({"seed": 0, "options": {"cue": 1}}, "cue: expected one entry .* 2 rows, got a single 1"),
        ({"options": {"reset_mask": True}}, "reset_mask: expected one entry .* a single True"),
        ({"seed": [1, 2, 3]}, r"seed: expected one entry .* got shape \(3,\)"),
        ({"seed": -1}, "seed: expected a whole number from 0 .* got -1"),
        ({"seed": [0, 0.5]}, "seed: expected a whole number from 0 .* got 0.5"),
    ):
        with pytest.raises(ConfigError, match=match):
            vec.reset(**wrong)
    for call, match in (
        (("rendr", 0), "did you mean 'render'"),
        (("expert.act", 1), r"row 1 has no expert; call\('make_expert', 1\)"),
    ):
        with pytest.raises(ConfigError, match=match):
            vec.call(*call)
    with pytest.raises(ConfigError, match="simulator state: expected"):
        vec.restore_state({**before, "mujoco_integration": np.zeros((2, 3))})
    assert_equal(vec.save_state(), before)
    vec.step(np.zeros((2, 7)))
    vec.reset()
    assert vec.save_state()["task_seed"].tolist() == [6, 7]


def test_a_diverging_worker_closes_the_rest(make_vec):
    vec = make_vec(2, 2)
    vec.reset(seed=0)
    processes = list(vec._pool._processes)
    state = vec.call("save_state", 1)
    state["mujoco_integration"][:] = np.nan
    vec.call("restore_state", 1, state)
    with pytest.raises(SimulatorError, match="diverged in remember_color, seed 1"):
        vec.step(np.zeros((2, 7)))
    assert all(process.poll() is not None for process in processes)


def test_a_dead_worker_is_named_and_closes_the_rest(make_vec):
    vec = make_vec(2, 2, autoreset="same_step")
    rollout(vec)
    processes = list(vec._pool._processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    processes[1].wait(timeout=10)
    with pytest.raises(SimulatorError, match=r"rows \[1\] played seeds \[13\]"):
        vec.step(np.zeros((2, 7)))
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(SimulatorError, match="closed"):
        vec.step(np.zeros((2, 7)))


def test_too_many_workers_warn(make_vec):
    with pytest.warns(UserWarning, match="cores"):
        make_vec(1, 500)


def test_wrong_arguments_are_refused(make_vec, capfd):
    with pytest.raises(ConfigError, match="did you mean 'disabled'"):
        make_vec(1, autoreset="disable")
    with pytest.raises(ConfigError, match="num_envs"):
        make_vec(0)
    with pytest.raises(ConfigError, match="did you mean 'easy'"):
        make_vec(1, 1, level="eazy")
    assert "Traceback" not in capfd.readouterr().err, "a worker without rows ends quietly"


def test_shared_memory_that_is_full_is_told_at_once(make_vec, monkeypatch):
    import sims.vector

    processes, fail = [], sims.vector._Pool.close

    def close(pool):
        processes.extend(pool._processes)
        fail(pool)

    monkeypatch.setattr(sims.vector._Pool, "close", close)
    full = lambda dir: open("/dev/full", "r+b")  # noqa: E731, SIM115
    monkeypatch.setattr(sims.vector.tempfile, "TemporaryFile", full)
    with pytest.raises(SimulatorError, match=r"no room for .* that workers share .*--shm-size"):
        make_vec(2, 1)
    assert processes and all(process.poll() is not None for process in processes)
