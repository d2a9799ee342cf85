"""The environments around the rules: Gymnasium, autoreset, saving, errors, commands."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from gymnasium.wrappers.vector import DictInfoToList

import sims
from embodied import play, registry
from embodied.cli import main
from embodied.core.errors import ActionError, ConfigError, SimulatorError
from embodied.core.task import EnvConfig
from sims.recall import paint
from sims.recall.catalog import TASKS
from sims.recall.game import RecallInfo
from sims.recall.gym_env import RecallEnv
from sims.recall.vector_env import RecallVectorEnv

LITE = "recall/ballet_lite"
SHORT = {"level": "2_delay2_dances4", "knobs": {"dancers": 1, "delay": 1, "dances": 2}}
"""Episodes of 17 steps."""


def assert_equal(left: dict, right: dict) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


# -- registration -----------------------------------------------------------------------------


def test_importing_and_making_loads_no_simulator():
    code = (
        "import sys, sims; env = sims.make_vec('recall/ballet_pixel', 2); env.reset(seed=0); "
        "print(sorted({'mujoco', 'robosuite', 'torch', 'OpenGL', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_tasks_are_registered_and_listed(capsys):
    assert {name: info.env_id for name, info in TASKS.items()}.items() <= sims.ENV_IDS.items()
    assert TASKS.keys() == {name for name in sims.ENV_IDS if name.startswith(sims.RECALL)}
    assert set(TASKS) <= set(registry.task_names())
    assert set(TASKS) == set(registry.task_names("reinforcement"))
    assert not set(TASKS) & set(registry.task_names("imitation"))
    assert main(["list", "tasks"]) == 0
    out = capsys.readouterr().out
    assert "recall/ballet_lite" in out and "8_delay48" in out


@pytest.mark.parametrize("task", list(TASKS))
def test_gymnasium_checker_passes(task):
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(TASKS[task].env_id, render_mode="rgb_array")
    assert env.unwrapped.info.name == task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=False)
    env.close()


def test_the_registry_makes_both_kinds_with_knobs_alone():
    config = EnvConfig(observation="state", cameras=["wrist"], knobs={"delay": 5})
    env = registry.make_env(LITE, "2_delay16", config).unwrapped
    assert env.knobs["delay"] == 5 and env.horizon == 2 * 20 + 1
    vec = registry.make_vec(LITE, "2_delay16", config, num_envs=3, num_workers=2, copy=False)
    assert vec.num_envs == 3 and vec.spec_dict()["knobs"]["delay"] == 5
    json.dumps(vec.spec_dict())
    with pytest.raises(ConfigError, match="did you mean '2_delay16'"):
        registry.make_vec(LITE, "2_delay61")
    with pytest.raises(ConfigError, match="did you mean 'recall/ballet_lite'"):
        registry.make_env("recall/ballet_light", "2_delay16")


def test_a_task_of_another_package_is_made_by_its_row():
    import dataclasses

    row = dataclasses.replace(TASKS[LITE], name="own_ballet", env_id="Own/Ballet-v0")
    assert isinstance(row, RecallInfo)
    assert isinstance(sims.make_env(row, level="2_delay16"), RecallEnv)
    assert isinstance(sims.make_vec(row, 2, level="2_delay16"), RecallVectorEnv)


# -- vector env -------------------------------------------------------------------------------


def test_finished_rows_wait_for_a_masked_reset():
    vec = RecallVectorEnv(LITE, 3, **SHORT)
    first, _ = vec.reset(seed=10)
    action = np.zeros(3, np.int64)
    for _ in range(vec.horizon):
        obs, _, terminated, truncated, infos = vec.step(action)
    assert terminated.all() and not truncated.any()
    again = vec.step(np.full(3, 99))  # not even looked at
    assert_equal(obs, again[0])
    assert again[2].all() and not again[1].any()
    assert_equal(infos, again[4])
    obs, infos = vec.reset(seed=[10, 99, 98], options={"reset_mask": [True, False, False]})
    assert infos["phase"].tolist() == ["cue", "execute", "execute"]
    for key, value in obs.items():
        np.testing.assert_array_equal(value[0], first[key][0])
        np.testing.assert_array_equal(value[1:], again[0][key][1:])
    *_, terminated, _, infos = vec.step(action)
    assert terminated.tolist() == [False, True, True]
    assert infos["time_s"][0] == pytest.approx(0.1)


def test_inactive_rows_stand_still():
    for task in TASKS:
        vec = RecallVectorEnv(task, 3)
        alone = RecallVectorEnv(task, 1)
        vec.reset(seed=[5, 6, 7])
        alone.reset(seed=[6])
        rng = np.random.default_rng(0)
        for tick in range(60):
            actions = rng.integers(0, vec.action_spec.size, 3)
            before = vec.save_state()
            active = [tick % 3 == 0, True, False]
            obs, reward, *_, infos = vec.step(actions, active=active)
            for name, value in vec.save_state().items():
                if name != "reward":
                    np.testing.assert_array_equal(value[2], before[name][2], err_msg=name)
                    if not active[0]:
                        np.testing.assert_array_equal(value[0], before[name][0], err_msg=name)
            assert reward[2] == 0.0
            other, gained, *_, told = alone.step(actions[1:2])
            for key, value in other.items():
                np.testing.assert_array_equal(obs[key][1], value[0], err_msg=f"{task} {key}")
            assert gained[0] == reward[1]
            assert {k: v[1] for k, v in infos.items()} == {k: v[0] for k, v in told.items()}


@pytest.mark.parametrize("task", list(TASKS))
def test_same_step_autoreset_equals_separate_episodes(task):
    vec = RecallVectorEnv(task, 3, autoreset="same_step")
    obs, infos = vec.reset(seed=[20, 21, 22])
    alone = [RecallEnv(task) for _ in range(3)]
    seeds = [20, 21, 22]
    last = [env.reset(seed=seed) for env, seed in zip(alone, seeds, strict=True)]
    rng = np.random.default_rng(0)
    for _ in range(2 * vec.horizon + 5):
        actions = rng.integers(0, vec.action_spec.size, 3)
        obs, reward, terminated, truncated, infos = vec.step(actions)
        for mask in ("_final_obs", "_final_info"):
            np.testing.assert_array_equal(terminated | truncated, infos[mask])
        for row, env in enumerate(alone):
            stepped = env.step(int(actions[row]))
            assert stepped[1:4] == (reward[row], terminated[row], truncated[row])
            if env.over:
                assert_equal(infos["final_obs"][row], stepped[0])
                assert {k: v[row] for k, v in infos["final_info"].items()} == stepped[4]
                seeds[row] += 3
                last[row] = env.reset(seed=seeds[row])
            else:
                assert infos["final_obs"][row] is None
                last[row] = (stepped[0], stepped[4])
            assert_equal({k: v[row] for k, v in obs.items()}, last[row][0])
            assert {k: infos[k][row] for k in last[row][1]} == last[row][1]
    assert min(seeds) >= 23
    vec.reset()
    assert vec.game.seed.tolist() == [seed + 3 for seed in seeds]


def test_a_finished_row_that_was_restored_starts_again_when_it_is_stepped():
    done = RecallVectorEnv(LITE, 2, **SHORT)
    done.reset(seed=10)
    for _ in range(done.horizon):
        _, _, terminated, _, _ = done.step(np.zeros(2, np.int64))
    assert terminated.all()
    vec = RecallVectorEnv(LITE, 2, autoreset="same_step", **SHORT)
    vec.restore_state(done.save_state())
    _, reward, terminated, _, infos = vec.step(np.zeros(2, np.int64), active=[True, False])
    assert terminated.tolist() == infos["_final_obs"].tolist() == [True, False]
    assert not reward.any() and vec.game.seed.tolist() == [12, 11]
    assert infos["phase"].tolist() == ["cue", "execute"]
    _, _, terminated, _, infos = vec.step(np.zeros(2, np.int64))
    assert terminated.tolist() == [False, True] and vec.game.seed.tolist() == [12, 13]


@pytest.mark.parametrize("autoreset", ["disabled", "same_step"])
def test_infos_have_gymnasiums_form(autoreset):
    vec = RecallVectorEnv(LITE, 2, autoreset=autoreset, **SHORT)
    as_lists = DictInfoToList(vec)
    _, told = as_lists.reset(seed=0, options={"reset_mask": [True, False]})
    assert [info["phase"] for info in told] == ["cue", ""]
    as_lists.reset(seed=0)
    for _ in range(vec.horizon):
        *_, told = as_lists.step(np.zeros(2, np.int64))
    if autoreset == "disabled":
        assert [info["phase"] for info in told] == ["execute", "execute"]
        assert not any("final_info" in info or "final_obs" in info for info in told)
    else:
        assert [info["phase"] for info in told] == ["cue", "cue"]
        assert [info["final_info"]["phase"] for info in told] == ["execute", "execute"]
        assert all(info["final_obs"].keys() == vec.game.obs.keys() for info in told)
        *_, told = as_lists.step(np.zeros(2, np.int64))
        assert not any("final_info" in info or "final_obs" in info for info in told)


def test_copies_and_views():
    kept, _ = (vec := RecallVectorEnv(LITE, 2, **SHORT)).reset(seed=0)
    before = {key: value.copy() for key, value in kept.items()}
    vec.step(np.zeros(2, np.int64))
    assert_equal(kept, before)
    view, _ = (vec := RecallVectorEnv(LITE, 2, copy=False, **SHORT)).reset(seed=0)
    obs, *_ = vec.step(np.zeros(2, np.int64))
    assert obs["homes_token"] is view["homes_token"]


def test_seedless_resets_go_on():
    vec = RecallVectorEnv(LITE, 2, **SHORT)
    vec.reset(seed=7)
    vec.reset()
    assert vec.game.seed.tolist() == [9, 10]
    vec.reset(options={"reset_mask": [True, False]})
    vec.reset()
    assert vec.game.seed.tolist() == [13, 12]
    other = RecallVectorEnv(LITE, 2, **SHORT)
    other.reset(seed=[3, 6], options={"reset_mask": [True, False]})
    other.reset()
    assert other.game.seed.tolist() == [5, 8], "a row that played none goes on as it was told"
    other.restore_state(vec.save_state())
    other.reset()
    assert other.game.seed.tolist() == [15, 14]
    env = RecallEnv(LITE, **SHORT)
    runs = []
    for _ in range(2):
        env.reset(seed=42)
        runs.append([int((env.reset(), env.game.seed[0])[1]) for _ in range(3)])
    assert runs[0] == runs[1] and len(set(runs[0])) == 3
    assert RecallVectorEnv(LITE, 2).reset()[0]["homes_token"].shape == (2, 8)


@pytest.mark.parametrize("task", list(TASKS))
def test_restored_episodes_go_on_bit_for_bit(task):
    vec = RecallVectorEnv(task, 4, autoreset="same_step")
    vec.reset(seed=3)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, vec.action_spec.size, (90, 4))
    for action in actions[:40]:
        vec.step(action)
    state = vec.save_state()
    futures = []
    for player in (vec, RecallVectorEnv(task, 4, autoreset="same_step")):
        player.restore_state(state)
        futures.append([player.step(action) for action in actions[40:]])
    for left, right in zip(*futures, strict=True):
        assert_equal(left[0], right[0])
        for a, b in zip(left[1:4], right[1:4], strict=True):
            np.testing.assert_array_equal(a, b)
        for name, value in left[4].items():
            if name == "final_obs":  # as an array its dicts would not be entered
                np.testing.assert_equal(list(value), list(right[4][name]))
            else:
                np.testing.assert_equal(value, right[4][name], err_msg=name)
    with pytest.raises(ConfigError, match="saved state does not fit"):
        RecallVectorEnv(task, 3).restore_state(state)


def test_calls_reach_a_row():
    vec = RecallVectorEnv(LITE, 2, **SHORT)
    vec.reset(seed=0)
    assert vec.call("picture", 1, "front", 64).shape == (64, 64, 3)
    assert vec.call("render", 0).shape == (297, 297, 3) and len(vec.render()) == 2
    assert vec.call("current_info", 1)["phase"] == "cue"
    assert vec.evidence().tolist() == [[[0, 15]], [[0, 15]]]
    with pytest.raises(ConfigError, match="row: expected 0 to 1"):
        vec.call("render", 2)
    with pytest.raises(ConfigError, match="did you mean 'picture'"):
        vec.call("pictures", 0)
    with pytest.raises(ConfigError, match="did you mean 'front'"):
        vec.call("picture", 0, "frnt", 64)


# -- errors -----------------------------------------------------------------------------------


def test_bad_actions_are_refused():
    vec, env = RecallVectorEnv(LITE, 3, **SHORT), RecallEnv(LITE, **SHORT)
    good = np.zeros(3, np.int64)
    with pytest.raises(SimulatorError, match=r"rows \[0, 1, 2\] were never reset"):
        vec.step(good)
    with pytest.raises(SimulatorError, match="call reset"):
        env.step(0)
    vec.reset(seed=0)
    env.reset(seed=0)
    before = vec.save_state()
    for actions, match in (
        (np.zeros(2, np.int64), r"shape \(3,\), got int64\[2\]"),
        (np.zeros(3), "whole numbers of shape"),
        (np.array([0, 8, 0]), r"action of row 1 .*expected 0 to 7 \(N, NE, .*got 8"),
        (np.array([0, 0, -1]), "row 2 .*got -1"),
    ):
        with pytest.raises(ActionError, match=match):
            vec.step(actions)
    assert_equal(before, vec.save_state())
    vec.step(np.array([0, 99, 0]), active=[True, False, True])
    vec.step(np.zeros(3, np.uint8))
    for action in (8, -1, 0.5, [0]):
        with pytest.raises(ActionError, match="0 to 7"):
            env.step(action)
    for _ in range(env.horizon):
        env.step(np.int64(0))
    with pytest.raises(SimulatorError, match="after the episode ended"):
        env.step(0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: RecallEnv("recall/balet_lite"), "did you mean 'recall/ballet_lite'"),
        (lambda: RecallEnv(LITE, "16_delay2"), "level of recall/ballet_lite"),
        (lambda: RecallEnv(LITE, render_mode="human"), "render_mode"),
        (lambda: RecallVectorEnv(LITE, 0), "num_envs >= 1"),
        (lambda: RecallVectorEnv(LITE, 2, autoreset="next_step"), "did you mean 'same_step'"),
        (lambda: RecallEnv(LITE).reset(seed=0, options={"cue": 2}), "expected 0 to 1, got 2"),
        (lambda: RecallEnv(LITE).reset(seed=0, options={"cue": -1}), "expected 0 to 1, got -1"),
        (lambda: RecallEnv(LITE).reset(seed=0, options={"cue": 0.5}), "expected 0 to 1, got 0.5"),
        (lambda: RecallEnv(LITE).reset(seed=2**63), "seed: expected"),
        (lambda: RecallEnv(LITE).reset(seed=0, options={"cues": 1}), "did you mean 'cue'"),
        (lambda: RecallVectorEnv(LITE, 2).reset(seed=[1]), "seed: expected one entry"),
        (lambda: RecallVectorEnv(LITE, 2).reset(seed=-5), "seed: expected .* from 0"),
        (lambda: RecallVectorEnv(LITE, 2).reset(seed=2**63), "seed: expected"),
        (lambda: RecallVectorEnv(LITE, 2).reset(options={"mask": 1}), "reset_mask"),
        (lambda: RecallVectorEnv(LITE, 2).reset(options={"cue": 1}), "one entry .* a single 1"),
        (
            lambda: RecallVectorEnv(LITE, 2).reset(seed=0, options={"cue": [1, 3]}),
            "expected 0 to 1, got 3",
        ),
    ],
)
def test_bad_calls_are_refused(call, match):
    with pytest.raises(ConfigError, match=match):
        call()


# -- pictures and commands --------------------------------------------------------------------


@pytest.mark.parametrize("task", list(TASKS))
def test_pictures_show_what_happens(task):
    env = RecallEnv(task, render_mode="rgb_array")
    env.reset(seed=1)
    expert = env.make_expert()
    pictures = [env.render()]
    while not env.over:
        env.step(expert.act())
        pictures.append(env.picture(size=96))
    assert pictures[0].shape == (297, 297, 3) and pictures[0].dtype == np.uint8
    assert all(p.shape == (96, 96, 3) and p.std() > 2 for p in pictures[1:])
    assert len({p.tobytes() for p in pictures[1:]}) > 3


def test_words_are_written():
    canvas = paint.canvas(120)
    paint.write(canvas, "watch 0123456789 ?", 100, 20)
    assert (canvas[100:] == 236).any() and not (canvas[:100] == 236).any()
    paint.write(canvas, "far too long for the picture " * 9, 0, 20)
    assert not (canvas[:100] == 236).any()


def test_the_expert_can_be_noisy():
    env = RecallEnv(LITE, "8_delay16")
    env.reset(seed=0)
    expert = env.make_expert(3, 0.5)
    moved = [expert.perturb(2) != 2 for _ in range(2000)]
    assert abs(np.mean(moved) - 0.5 * 7 / 8) < 0.05
    assert all(env.make_expert(0, 0.0).perturb(2) == 2 for _ in range(50))


@pytest.mark.parametrize("task", [LITE, "recall/pairs"])
def test_episodes_are_filmed(task, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["play", task, "episodes=2", "size=64", "cue=1"]) == 0
    out = capsys.readouterr().out
    assert out.count("cue 1:") == 2 and out.count("success") == 2
    assert f"embodied train task={task}" in out
    (video,) = (tmp_path / "plays").iterdir()
    assert video.name.startswith("expert-recall-") and video.stat().st_size > 1000


def test_keys_choose(tmp_path: Path):
    hints: list[str] = []

    def show(frame, info, hint):
        assert frame.shape == (64, 64, 3)
        hints.append(hint)

    def run(keys: str, name: str):
        out = tmp_path / name
        config = EnvConfig(knobs={"delay": 1})
        task, level = "recall/ballet_grid", "2_delay16"
        return play.play_keyboard(task, level, config, 0, out, iter(keys), show, size=64)

    target = RecallEnv("recall/ballet_grid", "2_delay16", {"delay": 1})
    target.reset(seed=0)
    key = str(target.make_expert().act())
    assert run(f"?{key}{key}{key}", "a.mp4").outcomes[0][2]
    assert run(f"{key}x", "b.mp4").outcomes[0][3] == "no choice: left early"
    assert hints[0].startswith("0 N  1 NE") and (tmp_path / "b.mp4").exists()


@pytest.mark.parametrize(
    "words", [["collect", f"task={LITE}", "level=2_delay16"], ["certify", LITE]]
)
def test_what_needs_an_arm_says_so(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "learned by reinforcement" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
