"""Memories on a CUDA device: the same numbers, and nothing that waits for the device."""

from __future__ import annotations

import copy

import pytest
import torch

from embodied.memory import MEMORIES, build_memory
from embodied.memory.base import Memory
from tests.contracts.tools import BATCH, STREAMS, Ticks, assert_close, random_ticks

pytestmark = pytest.mark.gpu
TOLERANCE = 1e-3


def to_device(ticks: Ticks) -> Ticks:
    items = {name: tensor.cuda() for name, tensor in ticks.items.items()}
    rest = (ticks.time_s, ticks.is_first, ticks.valid, ticks.read_mask)
    return Ticks(items, *(tensor.cuda() for tensor in rest))


def learn(memory: Memory, ticks: Ticks, backward: bool = True) -> tuple[dict, dict]:
    value, state = memory.unroll(
        ticks.items, ticks.time_s, memory.initial(BATCH), ticks.is_first, ticks.valid,
        ticks.read_mask,
    )  # fmt: skip
    if backward and any(tensor.requires_grad for tensor in value.values()):
        sum(tensor.square().sum() for tensor in value.values()).backward()
    return value, state


@pytest.mark.parametrize("name", sorted(MEMORIES))
def test_device_equals_cpu_and_never_waits(name: str) -> None:
    torch.manual_seed(0)
    options = {"capacity": 4} if name in ("perceptual_cognitive", "full_history") else {}
    memory = build_memory(name, STREAMS, options)
    ticks = random_ticks(memory, 9, seed=1)
    value, state = learn(memory, ticks, backward=False)
    device_memory, device_ticks = copy.deepcopy(memory).cuda(), to_device(ticks)
    learn(device_memory, device_ticks)  # libraries set themselves up at first use
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, after = learn(device_memory, device_ticks)
        query = {k: v[:, 0] for k, v in device_ticks.items.items()}
        _, stepped = device_memory.step(
            query, device_ticks.time_s[:, 0], after, device_ticks.is_first[:, 0]
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(tensor.is_cuda for tensor in stepped.values())
    assert_close({k: v.cpu() for k, v in found.items()}, value, TOLERANCE)
    assert_close({k: v.cpu() for k, v in after.items()}, state, TOLERANCE)
