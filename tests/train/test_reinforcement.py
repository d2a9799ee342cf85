"""The reinforcement trainer: resuming, curricula, what it refuses, and that it learns."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from embodied import registry
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.rng import VALIDATION_SEED_START
from embodied.core.task import EnvConfig
from embodied.evaluate.api import evaluate
from embodied.train import checkpoint
from embodied.train.config import (
    Component,
    OptimConfig,
    ReinforceConfig,
    Stage,
    TrainConfig,
)
from embodied.train.learner import Learner
from embodied.train.logger import MetricsLogger, read_metrics
from embodied.train.reinforcement import train, update_loss
from embodied.train.rollout import Rollout, interface_of, shares
from policies.hcam.config import HCAMConfig
from policies.hcam.policy import HCAM

CHUNKS = {"chunk": 4, "window": 4, "capacity": 4, "top_k": 2, "heads": 2, "time_encoding": False}
SMALL = {"rows": 8, "ticks": 16, "epochs": 2, "minibatches": 2, "window": 4}


def make_config(**options) -> TrainConfig:
    options = {
        "task": ["recall/t_maze"],
        "level": "length10",
        "algorithm": "ppo",
        "policy": Component("hcam", {"width": 16, "hidden": 16}),
        "memory": Component("hierarchical_chunks", dict(CHUNKS)),
        "steps": 4,
        "log_every": 1,
        "checkpoint_every": 2,
        **options,
    }
    options["reinforce"] = ReinforceConfig(**{**SMALL, **options.get("reinforce", {})})
    return TrainConfig(**options)


def tensors(path) -> dict[str, torch.Tensor]:
    found = checkpoint.read_weights(path / checkpoint.MODEL_FILE)
    for file in (path / checkpoint.TRAIN_STATE).glob("*.safetensors"):
        found |= {f"{file.stem}/{k}": v for k, v in checkpoint.read_weights(file).items()}
    return found


def staged(*stages: Stage, **options) -> dict:
    """Returns options of a run with stages, of two levels."""
    levels = list(registry.task_info("recall/t_maze").levels)[:2]
    return {"task": ["recall/t_maze"] * 2, "levels": levels, "stages": list(stages), **options}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"algorithm": "vtrace", "reinforce": {"storage": "recompute", "loss_on": "all"}},
        {"memory": Component("lstm"), "task": ["recall/visual_match"], "level": "gap30"},
        {
            "task": ["recall/ballet_pixel"],
            "level": "2_delay16",
            "steps": 2,
            "checkpoint_every": 1,
            "reinforce": {"rows": 2, "ticks": 8, "epochs": 1},
        },
        pytest.param(
            {
                "task": ["remember_color"],
                "level": "easy",
                "steps": 2,
                "checkpoint_every": 1,
                "reinforce": {
                    "rows": 2,
                    "ticks": 8,
                    "loss_on": "all",
                    "env": EnvConfig(observation="state"),
                },
            },
            marks=pytest.mark.sim,
        ),
        staged(Stage(2, [1.0, 0.0]), Stage(2, [1.0, 1.0])),
        staged(Stage(2, [1.0, 0.0]), Stage(2, [0.0, 1.0])),
        staged(
            Stage(3, [1.0, 0.0], until=0.01),
            Stage(1, [0.0, 1.0]),
            checkpoint_every=1,
            reinforce={"ticks": 64},
        ),
    ],
    ids=["ppo", "vtrace", "lstm", "pictures", "continuous", "more rows", "another task", "until"],
)
def test_resumed_run_equals_uninterrupted(options, tmp_path, monkeypatch) -> None:
    config = make_config(**options)
    whole = train(config, tmp_path / "whole")

    class Killed(Exception):
        pass

    save = Learner.save

    def save_then_die(*args):
        save(*args)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "save", save_then_die)
        with pytest.raises(Killed):
            train(config, tmp_path / "cut")
    torch.manual_seed(99)
    resumed = train(config, tmp_path / "cut", resume=True)
    first, second = tensors(whole), tensors(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    timed = {"frames_per_s", "cpu_s"}
    rows = [
        [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(tmp_path / name)]
        for name in ("whole", "cut")
    ]
    assert rows[0] == rows[1]
    if config.stages:  # the border lay on the checkpoint that was resumed from
        starts = checkpoint.read_meta(resumed).train["stage_starts"]
        assert starts == [0, config.checkpoint_every]


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path, monkeypatch) -> None:
    update = Learner.update

    def overflow(self, loss):
        norm = update(self, loss)
        if checkpoint.checkpoints(tmp_path):
            next(self.policy.parameters()).data.fill_(torch.inf)
        return norm

    monkeypatch.setattr(Learner, "update", overflow)
    once = {"epochs": 1, "minibatches": 1}  # the loss itself was finite
    with pytest.raises(ConfigError, match=r"not finite after step 2 .*lower optim\.lr"):
        train(make_config(checkpoint_every=1, log_every=4, reinforce=once), tmp_path)
    (kept,) = checkpoint.checkpoints(tmp_path)
    assert checkpoint.load(kept).path.name == "00000001"


def test_a_run_is_not_resumed_with_another_memory(tmp_path) -> None:
    train(make_config(steps=1, checkpoint_every=1), tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    other = make_config(steps=1, checkpoint_every=1, memory=Component("lstm"))
    with pytest.raises(ConfigError, match=r"memory: .*hierarchical_chunks.* in the run, .*lstm"):
        train(other, tmp_path, resume=True)
    assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == before


@pytest.mark.parametrize("memory", ["hierarchical_chunks", "gru"])
def test_acting_and_learning_are_equally_precise(memory, tmp_path) -> None:
    """In bf16 the same weights give an action the same probability, up to the order of sums."""
    chunks = dict(CHUNKS) if memory == "hierarchical_chunks" else {}
    config = make_config(
        memory=Component(memory, chunks), precision="bf16", steps=1, checkpoint_every=1,
        reinforce={"epochs": 1, "minibatches": 1},
    )  # fmt: skip
    train(config, tmp_path)
    (row,) = read_metrics(tmp_path)
    assert 0 <= row["kl"] < 1e-6


def test_environments_and_log_are_closed_where_a_run_ends_in_an_error(
    tmp_path, monkeypatch
) -> None:
    closed = []

    def watch(part):
        close = part.close
        monkeypatch.setattr(part, "close", lambda self: (close(self), closed.append(part)))

    def broken(self, loss):
        raise RuntimeError("the device is gone")

    watch(Rollout)
    watch(MetricsLogger)
    monkeypatch.setattr(Learner, "update", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        train(make_config(), tmp_path)
    assert closed[-2:] == [MetricsLogger, Rollout]


def test_stages_change_the_tasks_and_end_early_by_success(tmp_path) -> None:
    levels = list(registry.task_info("recall/t_maze").levels)[:2]
    config = make_config(
        task=["recall/t_maze"] * 2,
        levels=levels,
        steps=6,
        stages=[Stage(4, [1.0, 0.0], until=0.01), Stage(2, [1.0, 1.0])],
        reinforce={"ticks": 64},
    )
    final = train(config, tmp_path / "run")
    starts = checkpoint.read_meta(final).train["stage_starts"]
    assert len(starts) == 2 and 1 <= starts[1] < 4  # half of episodes succeed by guessing
    rows = read_metrics(tmp_path / "run")
    second = [row for row in rows if row["stage"] == 1]
    assert f"success/recall/t_maze-{levels[1]}" in second[-1]
    assert not any(f"success/recall/t_maze-{levels[1]}" in r for r in rows if r["stage"] == 0)


@pytest.mark.parametrize(
    ("weights", "rows", "expected"),
    [
        ([1, 1], 8, [4, 4]),
        ([1, 0], 8, [8, 0]),
        ([3, 1], 8, [6, 2]),
        ([1, 1, 1], 8, [3, 3, 2]),
        ([100, 1], 8, [7, 1]),
        ([1.0, 1e-9, 1e-9], 3, [1, 1, 1]),
    ],
)
def test_rows_are_shared_out(weights, rows, expected) -> None:
    assert shares(weights, rows) == expected


def test_more_tasks_than_rows_are_refused() -> None:
    with pytest.raises(SpecMismatch, match="too few for 3 tasks"):
        shares([1, 1, 1], 2)


def make_rollout(**options) -> Rollout:
    config = ReinforceConfig(**{**SMALL, **options})
    env = registry.make_vec("recall/t_maze", "length10", config.env, num_envs=1)
    torch.manual_seed(0)
    policy = HCAM(HCAMConfig(width=16, hidden=16, memory_config=dict(CHUNKS)), interface_of(env))
    return Rollout(policy, config, [("recall/t_maze", "length10")], [1.0], torch.device("cpu"))


def test_success_is_unknown_until_an_episode_ended() -> None:
    rollout = make_rollout(window=1)
    assert rollout.success() == {}
    rollout.results[0].append(True)
    assert rollout.success() == {("recall/t_maze", "length10"): 1.0}


def test_experience_is_what_happened() -> None:
    """Rewards, ends and what was seen next agree with a replay of the actions."""
    rollout = make_rollout(ticks=40)
    experience = rollout.collect(torch.Generator().manual_seed(0))
    segment = experience.segment
    env = registry.make_vec("recall/t_maze", "length10", rollout.config.env, num_envs=8)
    seeds = np.arange(8)
    obs, info = env.reset(seed=seeds.tolist())
    paid, decided = np.zeros(8), np.zeros(8, int)
    for t in range(40):
        for key, seen in segment.obs.items():
            assert np.array_equal(seen[:, t].numpy(), obs[key])
        assert np.array_equal(segment.act_mask[:, t].numpy(), ~info["held"])
        decided += ~info["held"]
        actions = segment.chunk[:, t, 0].argmax(-1).numpy()
        obs, reward, terminated, truncated, info = env.step(actions)
        paid += reward
        over = terminated | truncated
        if t < 39:
            assert np.array_equal(segment.is_first[:, t + 1].numpy(), over)
        if over.any():
            seeds = seeds + 8 * over
            obs, info = env.reset(seed=seeds.tolist(), options={"reset_mask": over})
    assert segment.is_first[:, 0].all()
    assert np.array_equal(experience.decisions.real.sum(1).numpy(), decided)
    lossless = make_rollout(ticks=40, gamma=1.0).collect(torch.Generator().manual_seed(0))
    # With no discount, what is paid before the first decision alone belongs to none.
    assert (lossless.decisions.reward.sum(1).numpy() <= paid + 1e-6).all()
    assert lossless.decisions.reward.sum() > 0


def test_what_is_seen_is_copied_once_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def collected(rollout: Rollout) -> list[torch.Tensor]:
        noise = torch.Generator().manual_seed(0)
        found = [rollout.collect(noise) for _ in range(2)]
        return [
            *(tensor for one in found for tensor in one.segment.obs.values()),
            *(getattr(one.segment, k) for one in found for k in ("time_s", "act_mask", "chunk")),
            *(x for one in found for x in (one.log_prob, one.value, one.beyond)),
            *(one.decisions.reward for one in found),
        ]

    rollout, make = make_rollout(ticks=40), registry.make_vec
    views = collected(rollout)
    (game,) = (env.game for env in rollout.envs)
    for key, seen in rollout._seen[0][0].items():
        assert np.shares_memory(seen, game.obs[key])
    monkeypatch.setattr(registry, "make_vec", lambda *a, **k: make(*a, **{**k, "copy": True}))
    copies = collected(make_rollout(ticks=40))
    assert len(views) == len(copies)
    assert all(torch.equal(a, b) for a, b in zip(views, copies, strict=True))


def test_training_seeds_never_reach_those_of_validation() -> None:
    rollout = make_rollout(ticks=64)
    rollout.seeds += VALIDATION_SEED_START - 12
    rollout.collect(torch.Generator().manual_seed(0))
    assert rollout.seeds.max() >= VALIDATION_SEED_START  # went on counting
    assert max(rollout._seeds(slice(0, 8))) < VALIDATION_SEED_START
    assert rollout.envs[0].game.seed.max() < VALIDATION_SEED_START


@pytest.mark.parametrize("algorithm", ["ppo", "vtrace"])
def test_updates_raise_the_chance_of_what_pays(algorithm) -> None:
    rollout = make_rollout(ticks=64, entropy=0.0)
    experience = rollout.collect(torch.Generator().manual_seed(0))
    policy, decisions = rollout.policy, experience.decisions
    right = decisions.take(experience.segment.chunk[:, :, 0, 1])  # pretend that choice 1 pays
    decisions.reward = right
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
    for _ in range(5):
        optimizer.zero_grad()
        update_loss(policy, experience, rollout.config, algorithm)[0].backward()
        optimizer.step()
    after = policy.evaluate(experience.segment, experience.entry).log_prob
    moved = decisions.take(after) - decisions.take(experience.log_prob)
    assert moved[decisions.real & (right > 0)].mean() > 0.02
    assert moved[decisions.real & (right == 0)].mean() < -0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": Component("memory_vla")}, "does not learn by reinforcement"),
        ({"task": ["recall/t_maze", "recall/pairs"], "levels": ["length10", "3_gap2"]}, "differ"),
        ({"level": "easy"}, "level of recall/t_maze"),
        ({"task": ["recall/nothing"]}, "recall/"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    options, message, tmp_path
) -> None:
    if "levels" in options:
        levels = [next(iter(registry.task_info(t).levels)) for t in options["task"]]
        options = {**options, "levels": levels}
    with pytest.raises((ConfigError, SpecMismatch), match=message):
        train(make_config(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "reinforce.rows must be >= 1"),
        ({"rows": 6, "minibatches": 4}, "must divide"),
        ({"gamma": 1.5}, "reinforce.gamma must be within"),
        ({"clip": 0.0}, "reinforce.clip must be > 0"),
        ({"entropy": -1.0}, "reinforce.entropy must be >= 0"),
        ({"loss_on": "some"}, "reinforce.loss_on"),
        ({"storage": "disk"}, "reinforce.storage"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ReinforceConfig(**options)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithm"):
        make_config(algorithm="a3c")


@pytest.mark.slow
def test_it_learns_to_remember_and_its_twin_does_not(tmp_path) -> None:
    config = make_config(
        steps=20,
        optim=OptimConfig(lr=3e-3, warmup_steps=5, weight_decay=0.0, ema=0.5),
        reinforce={"rows": 64, "ticks": 48, "epochs": 4, "minibatches": 4, "window": 200},
    )
    for memory in (config.memory, Component("none")):
        run = tmp_path / memory.name
        train(dataclasses.replace(config, memory=memory), run)
        out = evaluate(run, episodes=200, out=str(run / "eval"), videos=0, progress=False)
        [row] = json.loads((out / "results.json").read_text())["rows"]
        if memory.name == "none":
            assert row["low"] <= row["ceiling"] <= row["high"]
        else:
            assert row["success"] >= 0.95
