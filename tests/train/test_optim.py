"""The schedule, averaged weights, and an optimiser that resumes bit for bit."""

import pytest
import torch
from torch import nn

from embodied.core.errors import CheckpointError, ConfigError
from embodied.train.config import OptimConfig
from embodied.train.optim import (
    Ema,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)


def test_schedule_warms_up_and_decays():
    config = OptimConfig(lr=1.0, warmup_steps=10, final_lr_fraction=0.1)
    assert learning_rate(config, 0, 100) == pytest.approx(0.1)
    assert learning_rate(config, 9, 100) == pytest.approx(1.0)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)
    assert learning_rate(config, 55, 100) == pytest.approx(0.55)


def test_optimizer_state_round_trip():
    def updates(model, optimizer, data):
        for x in data:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    config = OptimConfig()
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    data = torch.randn(6, 5, 3)
    optimizer = make_optimizer(model, config)
    updates(model, optimizer, data[:3])
    tensors, weights = (
        optimizer_tensors(optimizer),
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    updates(model, optimizer, data[3:])

    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    other.load_state_dict(weights)
    resumed = make_optimizer(other, config)
    restore_optimizer(resumed, tensors)
    updates(other, resumed, data[3:])
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_foreign_optimizer_state_is_refused():
    optimizer = make_optimizer(nn.Linear(2, 2), OptimConfig())
    with pytest.raises(CheckpointError, match="another"):
        restore_optimizer(optimizer, {"7.exp_avg": torch.zeros(2)})


def test_ema_follows_and_keeps_integers():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.num_batches_tracked.fill_(7)
    ema.update(model, step=1000)
    assert ema.weights["weight"].tolist() == [2.0, 2.0]
    assert ema.weights["num_batches_tracked"] == 7


def test_bad_options():
    with pytest.raises(ConfigError, match="lr > 0"):
        OptimConfig(lr=0)
