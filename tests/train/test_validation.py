"""Success on held seeds while a run goes on: what a curriculum makes of it, and what it leaves."""

import json

import numpy as np
import pytest

from embodied import registry
from embodied.core.rng import VALIDATION_SEED_START
from embodied.train import checkpoint
from embodied.train.config import Component, OptimConfig, Stage
from embodied.train.imitation import train
from embodied.train.logger import read_metrics
from tests.data.fake_env import FakeEnv
from tests.train.test_imitation import (  # noqa: F401
    POLICY,
    assert_equal,
    dataset,
    make_config,
    weights,
)

TICKS = 30
NAME = "validation/fake-easy"


class HalfWon(FakeEnv):
    """Over after a while; won where the seed is even."""

    @property
    def success(self):
        return self.seed_ % 2 == 0


class Rows:
    """Fake environments side by side, as the runner takes them."""

    metadata = {"control_hz": 20.0}

    def __init__(self, task, level, config, num_envs, autoreset):
        assert autoreset == "disabled"
        self.num_envs, self.closed, self.seeds = num_envs, False, []
        self.envs = [HalfWon(task, level, config) for _ in range(num_envs)]
        self.observation_specs = self.envs[0].observation_specs
        self.obs, self.infos = [{}] * num_envs, [{}] * num_envs

    def reset(self, *, seed, options):
        for row in np.flatnonzero(options["reset_mask"]):
            self.seeds.append(seed[row])
            self.obs[row], info = self.envs[row].reset(seed=seed[row])
            self.infos[row] = {**info, "target": str(info["cue"])}
        return self._all()

    def step(self, actions, render, active):
        done = np.zeros(self.num_envs, bool)
        for row in np.flatnonzero(active):
            env = self.envs[row]
            gate = env.advance(actions[row])
            info = env.current_info(gate)
            self.obs[row] = env.observe()
            self.infos[row] = {**info, "target": str(info["cue"])}
            done[row] = env.tick >= TICKS
        obs, infos = self._all()
        return obs, np.zeros(self.num_envs), done, np.zeros(self.num_envs, bool), infos

    def close(self):
        self.closed = True

    def _all(self):
        obs = {key: np.stack([row[key] for row in self.obs]) for key in self.obs[0]}
        return obs, {key: np.array([row[key] for row in self.infos]) for key in self.infos[0]}


@pytest.fixture
def made(monkeypatch):
    """The vector environments that are made."""
    found = []

    def make_vec(task, level, env, **options):
        found.append(Rows(task, level, env, **options))
        return found[-1]

    monkeypatch.setattr(registry, "make_vec", make_vec)
    return found


def staged(dataset, until, **options):  # noqa: F811
    return make_config(
        dataset,
        stages=[Stage(4, [1.0], until=until), Stage(1)],
        policy=Component("memory_vla", {**POLICY, "horizon": 8}),  # a period of the environment
        eval_episodes=4,
        **options,
    )


def starts(path):
    told = json.loads((path / checkpoint.POLICY_FILE).read_text())["train"]["stage_starts"]
    state = json.loads((path / checkpoint.TRAIN_STATE / "state.json").read_text())
    assert state["stage_starts"] == told
    return told


@pytest.mark.parametrize(("until", "begun"), [(0.5, [0, 1]), (0.6, [0, 4])])
def test_success_on_held_seeds_ends_a_stage(dataset, tmp_path, made, until, begun):  # noqa: F811
    path = train(staged(dataset, until, eval_every=1), tmp_path / "run")
    assert starts(path) == begun
    rows = [row for row in read_metrics(tmp_path / "run") if NAME in row]
    assert [row["step"] for row in rows] == list(range(6))
    assert {row[NAME] for row in rows} == {0.5}
    (vector,) = made
    held = [VALIDATION_SEED_START + i for i in range(4)]
    assert sorted(vector.seeds) == sorted(6 * held)
    assert vector.num_envs == 4 and vector.closed


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_validation_changes_nothing_of_what_is_learnt(dataset, tmp_path, made, ema):  # noqa: F811
    optim = OptimConfig(warmup_steps=2, ema=ema)
    watched = train(staged(dataset, 0.6, eval_every=2, optim=optim), tmp_path / "watched")
    alone = train(staged(dataset, 0.0, optim=optim), tmp_path / "alone")
    assert len(made) == 1 and starts(watched) == starts(alone) == [0, 4]
    assert_equal(weights(watched), weights(alone))
    for file in ("weights", "optimizer", "random"):
        name = f"{checkpoint.TRAIN_STATE}/{file}.safetensors"
        assert_equal(checkpoint.read_weights(watched / name), checkpoint.read_weights(alone / name))


def test_environments_are_closed_where_a_run_ends_in_an_error(dataset, tmp_path, made, monkeypatch):  # noqa: F811
    def broken(self, actions, render, active):
        raise RuntimeError("the simulator is gone")

    monkeypatch.setattr(Rows, "step", broken)
    with pytest.raises(RuntimeError, match="the simulator is gone"):
        train(staged(dataset, 0.5, eval_every=1), tmp_path / "run")
    assert [vector.closed for vector in made] == [True]
