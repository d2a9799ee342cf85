"""The Gymnasium environment: API, errors, determinism, saving."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError, SimulatorError, SpecMismatch
from sims.memory_bench.catalog import TASKS
from tests.sims.conftest import KEPT, assert_equal, play

EPISODE = """
import hashlib, sys
import numpy as np
from sims.gym_env import MemoryBenchEnv

env = MemoryBenchEnv("remember_color", observation="rgb", control=sys.argv[1],
                     knobs={"gap_min_s": 0.5, "gap_max_s": 0.5, "cue_s": 0.2, "busy": 1.0})
digest = hashlib.sha256()
obs, info = env.reset(seed=7)
expert = env.make_expert(7, 1.0)
done = False
while not done:
    for key in sorted(obs):
        digest.update(obs[key].tobytes())
    for key, value in sorted(env.save_state().items()):
        digest.update(np.ascontiguousarray(value).tobytes())
    obs, _, terminated, truncated, info = env.step(expert.perturb(expert.act()))
    done = terminated or truncated
print(digest.hexdigest(), info["success"])
"""


def test_importing_sims_loads_nothing_heavy():
    code = (
        "import sys, sims; sims.task_infos(); from sims.memory_bench import catalog; "
        "print(sorted({'mujoco', 'robosuite', 'torch', 'OpenGL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_ids_match_the_task_table():
    import sims

    infos = sims.task_infos()
    assert {name: info.env_id for name, info in infos.items()}.items() <= sims.ENV_IDS.items()
    assert all(name == info.name for name, info in infos.items())


@pytest.mark.sim
@pytest.mark.parametrize(
    ("task", "observation"),
    [
        *((task, "state") for task in TASKS),
        pytest.param("remember_color", "rgb", marks=pytest.mark.render),
    ],
)
def test_gymnasium_checker_passes(task, observation):
    import gymnasium
    from gymnasium.utils.env_checker import check_env

    import sims  # noqa: F401  registers the ids

    env = gymnasium.make(TASKS[task].env_id, level="easy", observation=observation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*render.*")
        check_env(env.unwrapped, skip_render_check=observation == "state")
    env.close()


@pytest.mark.sim
def test_unknown_names_give_the_nearest():
    from sims.gym_env import MemoryBenchEnv

    for kwargs, match in (
        ({"task": "remember_colour"}, "did you mean 'remember_color'"),
        ({"task": "remember_color", "level": "eazy"}, "did you mean 'easy'"),
        ({"task": "remember_color", "observation": "rbg"}, "did you mean 'rgb"),
        ({"task": "remember_color", "cameras": ("frontal",)}, "did you mean 'front'"),
        ({"task": "remember_color", "control": "slow"}, "fast, osc"),
        ({"task": "remember_color", "visuals": "light"}, "lite, full"),
        ({"task": "remember_color", "reward": "spars"}, "did you mean 'sparse'"),
        ({"task": "remember_color", "cameras": ()}, "at least one camera"),
        ({"task": "remember_color", "image_size": 4}, "pixels"),
    ):
        with pytest.raises(ConfigError, match=match):
            MemoryBenchEnv(**kwargs)


@pytest.mark.sim
def test_bad_actions_and_calls_are_refused(make_env):
    env = make_env()
    env.reset(seed=0)
    for action, match in (
        (np.zeros(6), "shape"),
        (np.full(7, np.nan), "finite"),
        (np.array([0, 0, 0, 0, 0, 0, np.inf]), "finite"),
        (np.array([0, 1.01, 0, 0, 0, 0, 0]), r"dy=1\.01"),
    ):
        with pytest.raises(ActionError, match=match):
            env.step(action)
    env.step(np.full(7, 1.0 + 5e-7))  # rounding is forgiven
    for cue in (3, -1, 1.7, "red"):
        with pytest.raises(ConfigError, match=f"cue of remember_color: .* 0 to 2, got {cue!r}"):
            env.reset(seed=0, options={"cue": cue})
    with pytest.raises(ConfigError, match="seed: expected a whole number"):
        env.reset(seed=2**63)
    with pytest.raises(ConfigError, match="reset option"):
        env.reset(seed=0, options={"cues": 1})
    play(env, seed=0)
    with pytest.raises(SimulatorError, match="reset"):
        env.step(np.zeros(7))


@pytest.mark.sim
def test_observations_match_specs_and_hide_the_phase(make_env):
    env = make_env()
    trace = play(env, seed=5)
    for obs in trace["obs"]:
        assert obs.keys() == env.observation_specs.keys()
        for key, spec in env.observation_specs.items():
            spec.check(key, obs[key])
        assert env.observation_space.contains(obs)
        text = bytes(obs["instruction_u8"]).rstrip(b"\0").decode()
        assert text == trace["info"][0]["instruction"]
        masked = ~obs["entities_mask"]
        assert not obs["entities"][masked].any()
    with pytest.raises(SpecMismatch):
        env.observation_specs["entities"].check("entities", np.zeros((3, 3), np.float32))
    json.dumps(env.spec_dict())


@pytest.mark.sim
def test_hand_quaternion_does_not_flip(make_env):
    quats = np.array([o["eef_quat_xyzw"] for o in play(make_env(), seed=6)["obs"]])
    assert np.abs(np.diff(quats, axis=0)).max() < 0.5


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("control", ["fast", "osc"])
def test_same_seed_same_episode_in_any_process(control, tmp_path):
    script = tmp_path / "episode.py"
    script.write_text(EPISODE)
    command = [sys.executable, str(script), control]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True, env=_env(threads))
        for threads in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout and runs[0].stdout.strip().endswith("True")


def _env(threads: str) -> dict[str, str]:
    import os
    import pathlib

    root = str(pathlib.Path(__file__).resolve().parents[2])
    return {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": root}


@pytest.mark.sim
@pytest.mark.parametrize("control", ["fast", "osc"])
@pytest.mark.parametrize("at_tick", [3, 30, 58])
def test_restore_is_bit_exact_in_this_and_another_env(make_env, control, at_tick):
    knobs = {"gap_min_s": 1.0, "gap_max_s": 1.0, "busy": 1.0}
    envs = [make_env(control=control, knobs=knobs, copy=copy) for copy in (0, 1)]
    env, other = envs
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (at_tick + 20, 7)).astype(np.float32)
    env.reset(seed=9)
    for action in actions[:at_tick]:
        env.step(action)
    saved = env.save_state()
    futures = []
    other.reset(seed=1)
    other.step(actions[0])
    for player in (env, env, other):
        player.restore_state(saved)
        assert_equal(player.save_state(), saved)
        future = [player.observe()]
        for action in actions[at_tick:]:
            future.append(player.step(action)[0])
        futures.append((future, player.save_state(), player.current_info()))
    for future, state, info in futures[1:]:
        for left, right in zip(futures[0][0], future, strict=True):
            assert_equal(left, right)
        assert_equal(futures[0][1], state)
        assert futures[0][2] == info


@pytest.mark.sim
def test_state_has_the_same_layout_at_every_tick(make_env):
    states = play(make_env(), seed=8)["state"]
    layout = {key: (v.shape, v.dtype) for key, v in states[0].items()}
    for state in states:
        assert {key: (v.shape, v.dtype) for key, v in state.items()} == layout
        assert all(v.dtype.kind in "fiub" for v in state.values())


@pytest.mark.sim
def test_foreign_state_is_refused(make_env):
    env = make_env(level="easy")
    env.reset(seed=0)
    saved = env.save_state()
    with pytest.raises(ConfigError, match="simulator state"):
        make_env(level="hard").restore_state(saved)


@pytest.mark.sim
def test_a_state_that_does_not_fit_changes_nothing(make_env):
    """States of scenes with as many parts, of another controller, of another cue, with gaps."""
    env = make_env("stale_fact")
    env.reset(seed=7, options={"cue": 1})
    before, told = env.save_state(), env.current_info()
    others = {
        "task_var_tried": make_env("key_trial"),
        "scene_rgba": make_env("stale_fact", control="osc"),
    }
    wrong = {}
    for name, other in others.items():
        other.reset(seed=3)
        wrong[name] = other.save_state()
    wrong |= {
        "a cue of stale_fact, 0 to 2, got 3": {**before, "hidden_cue": np.array(3)},
        "task_seed": {name: value for name, value in before.items() if name != "task_seed"},
        "mujoco_integration": {},
    }
    for match, state in wrong.items():
        with pytest.raises(ConfigError, match=f"simulator state: expected {match}"):
            env.restore_state(state)
        assert_equal(env.save_state(), before)
        assert env.current_info() == told


@pytest.mark.sim
def test_expert_can_be_rolled_out_ahead_and_put_back(make_env):
    env = make_env()
    env.reset(seed=10)
    expert = env.make_expert(3, 1.0)
    reference = []
    digest = hashlib.sha256()
    for branch in (False, True):
        env.reset(seed=10)
        expert.reset()
        track = []
        for tick in range(120):
            if env.over:
                break
            clean = expert.act()
            if branch and tick % 8 == 0:
                state, mind = env.save_state(), expert.state()
                ahead = clean
                for _ in range(12):
                    if env.over:
                        break
                    env.advance(ahead)
                    ahead = expert.act()
                env.restore_state(state)
                expert.restore(mind)
            executed = expert.perturb(clean)
            track.append(np.concatenate((clean, executed)))
            env.advance(executed)
        digest.update(np.array(track).tobytes())
        reference.append(np.array(track))
    np.testing.assert_array_equal(*reference)


@pytest.mark.sim
def test_seedless_resets_follow_the_first_seed(make_env):
    env = make_env()
    runs = []
    for _ in range(2):
        env.reset(seed=42)
        runs.append([env.reset()[1]["instruction"] + str(env.task.seed) for _ in range(3)])
    assert runs[0] == runs[1] and len(set(runs[0])) > 1


def test_the_tests_keep_only_the_last_environments(make_env, monkeypatch):
    closed = []

    class Fake:
        def __init__(self, task, **kwargs):
            self.task = task

        def close(self):
            closed.append(self.task)

    monkeypatch.setattr("sims.gym_env.MemoryBenchEnv", Fake)
    made = [make_env(f"fake {index}") for index in range(KEPT)]
    assert make_env("fake 0") is made[0]
    make_env("one more")
    assert closed == ["fake 1"]
