"""The trainer: resumes bit for bit, refuses what does not fit, logs once."""

import dataclasses
import json

import pytest
import torch

from embodied.core.errors import CheckpointError, ConfigError, DataError
from embodied.evaluate.api import check_fresh_seeds
from embodied.train import checkpoint
from embodied.train.config import Component, OptimConfig, TrainConfig
from embodied.train.imitation import train
from embodied.train.learner import Learner
from embodied.train.logger import read_metrics
from tests.data.conftest import collect_fake

POLICY = {
    "width": 16,
    "readout_queries": 2,
    "horizon": 4,
    "head": {"dit": {"depth": 1, "hidden": 16, "heads": 2}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "fake"
    collect_fake(out)
    return out


def make_config(dataset, **options):
    options = {
        "steps": 6,
        "batch_episodes": 3,
        "log_every": 2,
        "checkpoint_every": 3,
        "optim": OptimConfig(warmup_steps=2),
        "policy": Component("memory_vla", POLICY),
        **options,
    }
    return TrainConfig(task=["fake"], data=[str(dataset)], **options)


def weights(path):
    return checkpoint.read_weights(path / checkpoint.MODEL_FILE)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def train_cut(config, run, monkeypatch):
    """Trains and dies after the first checkpoint."""

    class Killed(Exception):
        pass

    save = Learner.save

    def save_then_die(*args):
        save(*args)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "save", save_then_die)
        with pytest.raises(Killed):
            train(config, run)


def train_cut_and_resumed(config, run, monkeypatch):
    """Trains, dies after the first checkpoint, and carries on."""
    train_cut(config, run, monkeypatch)
    return train(config, run, resume=True)


@pytest.mark.parametrize("ema", [0.995, 0.0])
def test_resumed_run_equals_uninterrupted(dataset, tmp_path, monkeypatch, ema):
    config = make_config(dataset, optim=OptimConfig(warmup_steps=2, ema=ema))
    whole = train(config, tmp_path / "whole")
    resumed = train_cut_and_resumed(config, tmp_path / "cut", monkeypatch)
    assert_equal(weights(whole), weights(resumed))
    for file in ("weights", "optimizer", "random"):
        name = f"{checkpoint.TRAIN_STATE}/{file}.safetensors"
        assert_equal(checkpoint.read_weights(whole / name), checkpoint.read_weights(resumed / name))

    own = checkpoint.read_weights(whole / checkpoint.TRAIN_STATE / "weights.safetensors")
    averaged = any(not torch.equal(own[name], tensor) for name, tensor in weights(whole).items())
    assert averaged == (ema > 0)

    def losses(run):
        return [(row["step"], row["loss"]) for row in read_metrics(run)]

    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


def test_training_lowers_the_loss(dataset, tmp_path):
    optim = OptimConfig(lr=5e-3, warmup_steps=10)
    config = make_config(dataset, steps=100, log_every=20, checkpoint_every=100, optim=optim)
    train(config, tmp_path / "run")
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_existing_run_is_not_written_over(dataset, tmp_path):
    config = make_config(dataset, steps=1)
    train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="already exists"):
        train(config, tmp_path / "run")
    other = dataclasses.replace(config, seed=5)
    with pytest.raises(ConfigError, match="seed: 0 in the run, 5 asked for"):
        train(other, tmp_path / "run", resume=True)


def test_nothing_to_resume(dataset, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(make_config(dataset), tmp_path / "new", resume=True)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        train(make_config(tmp_path / "nowhere"), tmp_path / "run")


def test_init_starts_from_weights_alone(dataset, tmp_path, capsys):
    first = train(make_config(dataset), tmp_path / "first")
    config = make_config(dataset, steps=1, init=str(first), optim=OptimConfig(lr=1e-9))
    second = train(config, tmp_path / "second")
    for name, tensor in weights(first).items():
        torch.testing.assert_close(weights(second)[name], tensor, atol=1e-5, rtol=0)
    assert described(second)["init"] == str(first)


def described(path):
    return json.loads((path / checkpoint.POLICY_FILE).read_text())["train"]


def test_a_run_carries_on_with_its_own_data_alone(tmp_path, monkeypatch):
    data, run = tmp_path / "data", tmp_path / "run"
    content = collect_fake(data).content_sha256
    config = make_config(data)
    train_cut(config, run, monkeypatch)
    collect_fake(data, 14)  # extends it
    with pytest.raises(DataError, match=f"{data} is not the data .* expected {content[:16]}"):
        train(config, run, resume=True)
    (cut,) = checkpoint.checkpoints(run)
    assert described(cut)["data_sha256"] == [content]
    # A run from before the content was kept is not held up.
    meta = json.loads((cut / checkpoint.POLICY_FILE).read_text())
    del meta["train"]["data_sha256"]
    (cut / checkpoint.POLICY_FILE).write_text(json.dumps(meta))
    assert train(config, run, resume=True).name == "00000006"


def test_seeds_of_the_run_before_are_not_fresh(dataset, tmp_path, monkeypatch):
    first = train(make_config(dataset, steps=1), tmp_path / "first")
    collect_fake(tmp_path / "other", seed_start=100)
    config = make_config(tmp_path / "other", init=str(tmp_path / "first"))
    second = train_cut_and_resumed(config, tmp_path / "second", monkeypatch)
    assert described(first)["data_seeds"] == [0, 11]
    assert described(second)["data_seeds"] == [0, 111]
    for seed in (5, 105):
        with pytest.raises(ConfigError, match=r"overlap the seeds 0\.\.111"):
            check_fresh_seeds(checkpoint.load(second), seed, 1)
    check_fresh_seeds(checkpoint.load(second), 112, 1)


def test_bad_options_are_named(dataset):
    with pytest.raises(ConfigError, match="steps must be >= 1"):
        make_config(dataset, steps=0)
    with pytest.raises(ConfigError, match="precision"):
        make_config(dataset, precision="fp8")
    with pytest.raises(ConfigError, match="task is empty"):
        TrainConfig(task=[])


def test_a_policy_that_does_not_imitate_is_refused(dataset, tmp_path):
    config = dataclasses.replace(make_config(dataset), policy=Component("hcam"))
    with pytest.raises(ConfigError, match="policy=hcam does not learn by imitation"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
