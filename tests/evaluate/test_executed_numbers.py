"""What is executed, against MemoryVLA's published numbers (cases A5 and A6)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.specs import ActionSpec
from embodied.evaluate.executors import ExecutorConfig, build_executor
from embodied.nn.normalize import ActionNormalizer
from tests.evaluate.fakes import FakePolicy

# ---- A5 and A6: what is executed (2.5) ------------------------------------------------------


def executor(size: int, **options: object):
    """An executor of one row whose chunks hold 12 actions; FakePolicy observes every 8."""
    base = FakePolicy().spec
    spec = dataclasses.replace(base, action=ActionSpec(base.action.kind, size, 12))
    return build_executor(ExecutorConfig(**options), spec, 1)


@pytest.mark.parametrize(
    ("older", "newest", "weights", "blend"),
    [
        ([1, 0], [0, 1], [0.475021, 0.524979], [0.475021, 0.524979]),
        ([-1, 0], [1, 0], [0.450166, 0.549834], [0.099668, 0]),
    ],
)
def test_a5_ensembling(older: list, newest: list, weights: list, blend: list) -> None:
    made = executor(2, name="ensemble", gripper="continuous", ensemble_alpha=0.1)
    row, found = np.ones(1, bool), None
    for action in (older, newest):
        made.accept(np.tile(np.float32(action), (1, 12, 1)), row, {})
        found = made.act({}, row)
    np.testing.assert_allclose(found[0], blend, atol=1e-6)
    np.testing.assert_allclose(found[0], np.array(weights) @ [older, newest], atol=1e-6)


def test_a6_denormalise_and_gripper() -> None:
    normalizer = ActionNormalizer(2)
    # The gripper's quantiles meet nothing else than its own limits: passed through.
    normalizer.set_statistics(torch.tensor([-2.0, -1.0]), torch.tensor([4.0, 1.0]))
    # Published grippers are in {0, 1}, closed from 0.5 on; ours are in [-1, 1], closed from 0
    # on. So a published g is our 2 g - 1: .49 -> -0.02 and .5 -> 0; its answers 0 and 1 are
    # our -1 and 1.
    for n, gripper, physical, closed in ((0.0, 0.49, 1.0, 0), (3.0, 0.5, 4.0, 1)):
        action = normalizer.denormalize(torch.tensor([n, 2 * gripper - 1]))
        assert action[0].item() == physical
        made, row = executor(2), np.ones(1, bool)
        made.accept(np.tile(action.numpy(), (1, 12, 1)), row, {})
        assert made.act({}, row)[0, 1] == 2 * closed - 1


def test_a6_normalise_undoes_denormalise() -> None:
    normalizer = ActionNormalizer(3)
    # The second element is never used (its quantiles meet), so that it is passed through.
    normalizer.set_statistics(torch.tensor([-2.0, 0.0, -1.0]), torch.tensor([4.0, 0.0, 1.0]))
    n = torch.tensor([[-1.0, 0.3, 0.5], [0.25, -0.7, -1.0]])
    physical = normalizer.denormalize(n)
    assert torch.allclose(physical[:, 0], 0.5 * (n[:, 0] + 1) * 6 - 2)
    assert torch.allclose(physical[:, 1:], n[:, 1:])
    assert torch.allclose(normalizer.normalize(physical), n)
    # What no answer could undo is no target: beyond the quantiles it is clipped.
    assert normalizer.normalize(torch.tensor([100.0, 0.0, -3.0])).tolist() == [1.0, 0.0, -1.0]
