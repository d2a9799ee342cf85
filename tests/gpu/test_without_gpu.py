"""What a device asks of the code, checked where there is none.

Tensors on the meta device have no values: reading one back, or choosing a shape by one, is an
error, as is mixing them with tensors of the CPU. So whatever runs there neither waits for its
device nor forgets it.
"""

from __future__ import annotations

import contextlib

import pytest
import torch

from embodied.config import from_plain
from embodied.core.errors import ConfigError
from embodied.data.segments import SegmentDataset
from embodied.device import torch_device
from embodied.memory import timeline
from policies.memory_vla import policy as memory_vla
from policies.memory_vla.config import MemoryVLAConfig
from tests.gpu.small import POLICY, make_data, make_segment

MEMORIES = (
    "none",
    "perceptual_cognitive",
    "gru",
    "recurrent_tokens",
    "full_history",
    "lstm",
    "gated_transformer_xl",
    "hierarchical_chunks",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("gpu") / "data")


@pytest.fixture(scope="module")
def segment(data):
    return make_segment(data)


def make_policy(data, memory="perceptual_cognitive", store="raw", **options):
    torch.manual_seed(0)
    small = {
        "perceptual_cognitive": {"capacity": 3},
        "hierarchical_chunks": {"chunk": 2, "window": 2, "eviction": "least_selected"},
    }
    capacity = small.get(memory, {})
    options = {**POLICY, "memory": memory, "memory_config": capacity, "store": store, **options}
    interface = SegmentDataset(data).interface
    return memory_vla.MemoryVLA(from_plain(MemoryVLAConfig, options), interface)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("store", ["raw", "fused"])
@pytest.mark.parametrize("head", ["flow", "ddim"])
def test_learning_and_acting_read_nothing_back(data, segment, monkeypatch, memory, store, head):
    # The meta device knows no autocast, which the bank turns off around one product.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    options = {**POLICY["head"], "kind": head}
    policy = make_policy(data, memory, store, head=options).to("meta")
    there = segment.map(lambda x: x.to("meta"))
    out = policy.loss(there, policy.initial_state(4))
    out.loss.backward()
    assert out.loss.is_meta and all(metric.is_meta for metric in out.metrics.values())
    obs = {key: value[:, 0] for key, value in there.obs.items()}
    action, state = policy.step(
        obs,
        there.time_s[:, 0],
        policy.initial_state(4),
        there.is_first[:, 0],
        torch.randn(4, *policy.spec.noise_shape, device="meta"),
    )
    assert action.chunk.is_meta
    for found in (state, out.state):
        assert all(tensor.is_meta for tensor in found.values())
        assert {name: tensor.shape for name, tensor in found.items()} == {
            name: tensor.shape for name, tensor in policy.initial_state(4).items()
        }


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("store", ["raw", "fused"])
def test_whole_rows_with_masks_learn_the_same(data, segment, monkeypatch, memory, store):
    """Other devices compute every row; the loss and its gradients are those of the CPU's few."""
    policy = make_policy(data, memory, store)
    with torch.no_grad():  # outputs that start at zero would hide what lies behind them
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    # The numbers of noisy rows differ, so only noise without chance can be compared.
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.full(tuple(shape), 0.3))
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full((size,), 0.4))
    found = []
    for few in (True, False):
        for module in (memory_vla, timeline):
            monkeypatch.setattr(module, "looks_at_data", lambda _, few=few: few)
        policy.zero_grad()
        out = policy.loss(segment, policy.initial_state(4))
        out.loss.backward()
        gradients = {
            name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None
        }
        found.append((out.metrics, gradients))
    (metrics, gradients), (others, other_gradients) = found
    for name, value in metrics.items():
        torch.testing.assert_close(others[name], value, atol=1e-5, rtol=1e-4)
    for name, value in gradients.items():
        torch.testing.assert_close(other_gradients[name], value, atol=1e-5, rtol=1e-3)


def test_padding_weighs_nothing_when_every_row_is_computed(data, segment, monkeypatch):
    for module in (memory_vla, timeline):
        monkeypatch.setattr(module, "looks_at_data", lambda _: False)
    policy = make_policy(data)
    other = segment.map(torch.clone)
    idle = ~(segment.act_mask & segment.valid)
    other.chunk[idle], other.chunk_valid[idle] = 0.9, True
    other.extras["goal_pos_world_m"][idle], other.extras["goal_valid"][idle] = 5.0, True
    other.obs["front_image_u8"][~segment.valid] = 255
    losses = [
        policy.loss(one, policy.initial_state(4), torch.Generator().manual_seed(1)).loss
        for one in (segment, other)
    ]
    assert torch.equal(*losses)


def test_devices_are_named():
    assert torch_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="did you mean 'cuda'"):
        torch_device("cudda")
    with pytest.raises(ConfigError, match="unknown device 'cuda:x'"):
        torch_device("cuda:x")
    with pytest.raises(ConfigError, match="choose device=cpu"):
        torch_device("cuda:99")
