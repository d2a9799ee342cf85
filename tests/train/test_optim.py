"""The schedule, averaged weights, and an optimiser that resumes bit for bit."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from embodied.core.errors import CheckpointError, ConfigError
from embodied.train.checkpoint import on_host
from embodied.train.config import OptimConfig, TrainConfig
from embodied.train.learner import Learner
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


def test_the_average_stands_in_for_the_weights_a_while():
    model = nn.Linear(2, 2)
    ema = Ema(model, 0.5)
    first = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    with ema.applied(model):
        assert torch.equal(model.weight, first)
    assert torch.equal(model.weight, first + 1.0)


def test_without_a_decay_no_average_is_kept():
    model = nn.BatchNorm1d(2)
    ema = Ema(model, 0.0)
    with torch.no_grad():
        model.weight.fill_(3.0)
    ema.update(model, step=0)
    assert ema.weights == {}
    for name, value in ema.of(model).items():
        assert value.data_ptr() == model.state_dict()[name].data_ptr()
    with ema.applied(model):
        assert model.weight.tolist() == [3.0, 3.0]


class Made(TorchDispatchMode):
    """Counts the tensors that operations make on a device."""

    def __init__(self):
        super().__init__()
        self.on_device = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        alias = any(result.alias_info for result in func._schema.returns)
        leaves = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and not alias]
        self.on_device += sum(x.device.type == "cuda" for x in leaves)
        return out


def test_a_checkpoint_is_copied_to_the_host_and_nowhere_else():
    with FakeTensorMode(), Made() as made:
        weight = nn.Parameter(torch.empty(3, 2, device="cuda"))
        optimizer = torch.optim.AdamW([weight])
        moments = {name: torch.empty(3, 2, device="cuda") for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[weight] = {"step": torch.tensor(1.0), **moments}
        before = made.on_device
        assert before >= 3
        turned = weight.detach().t()
        saved = {**on_host({"weight": weight, "turned": turned}), **optimizer_tensors(optimizer)}
        assert made.on_device == before
    assert saved.keys() == {"weight", "turned", "0.step", "0.exp_avg", "0.exp_avg_sq"}
    assert all(x.device.type == "cpu" and x.is_contiguous() for x in saved.values())


def test_gradients_are_given_up_before_the_next_forward_pass():
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    learner = Learner(model, TrainConfig(task=["any"]), torch.device("cpu"))
    norm = learner.update(model(torch.ones(1, 2)).square().sum())
    assert norm > 0 and not torch.equal(model.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_options():
    with pytest.raises(ConfigError, match="lr > 0"):
        OptimConfig(lr=0)
