"""The fusion gate; the numbers are those of MemoryVLA's parity cases (gate family)."""

from __future__ import annotations

import math

import pytest
import torch

from embodied.core.errors import ConfigError
from embodied.nn.fusion import GateFusion

PRESENT, MEMORY = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])


def fusion(direction: str = "present", weight: list[list[float]] | None = None, bias: float = 0.0):
    made = GateFusion(2, direction=direction)
    with torch.no_grad():
        made.linear.weight.copy_(torch.tensor(weight or [[0.0] * 4] * 2))
        made.linear.bias.fill_(bias)
    return made


def check(fused: torch.Tensor, expected: list[float]) -> None:
    assert torch.allclose(fused, torch.tensor(expected), atol=1e-5)


def test_gate_zero_weights_is_the_mean_and_equals_add() -> None:
    check(fusion()(PRESENT, MEMORY), [2.0, 0.0])
    check(GateFusion(2, mode="add")(PRESENT, MEMORY), [2.0, 0.0])


def test_gate_bias_ln3_in_both_directions() -> None:
    check(fusion(bias=math.log(3))(PRESENT, MEMORY), [1.5, 1.0])
    check(fusion("memory", bias=math.log(3))(PRESENT, MEMORY), [2.5, -1.0])


def test_gate_picks_inputs() -> None:
    weight = [[1.0, 0, 0, 0], [0, 0, 0, 1.0]]
    check(fusion(weight=weight).gate(PRESENT, MEMORY), [0.731059, 0.119203])
    check(fusion(weight=weight)(PRESENT, MEMORY), [1.537883, -1.523188])
    check(fusion("memory", weight)(PRESENT, MEMORY), [2.462117, 1.523188])


@pytest.mark.parametrize("direction", ["present", "memory"])
def test_gate_of_equal_inputs_is_the_input(direction: str) -> None:
    weight = torch.randn(2, 4).tolist()
    assert torch.equal(fusion(direction, weight, 0.3)(PRESENT, PRESENT), PRESENT)


def test_gate_starts_near_one_half() -> None:
    torch.manual_seed(0)
    made = GateFusion(16)
    assert (made.gate(torch.randn(50, 16), torch.randn(50, 16)) - 0.5).abs().max() < 0.02


def test_gate_reports_the_weight_on_the_present_in_both_directions() -> None:
    """Directions are the same function with g turned into 1 - g."""
    code, paper = fusion(bias=1.0), fusion("memory", bias=-1.0)
    assert torch.allclose(code.gate(PRESENT, MEMORY), paper.gate(PRESENT, MEMORY))
    assert torch.allclose(code(PRESENT, MEMORY), paper(PRESENT, MEMORY))


def test_add_has_no_parameters() -> None:
    made = GateFusion(8, mode="add")
    assert not list(made.parameters())
    assert torch.equal(made.gate(PRESENT, MEMORY), torch.tensor([0.5, 0.5]))


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown fusion mode 'gates'; did you mean 'gate'"):
        GateFusion(8, mode="gates")
    with pytest.raises(ConfigError, match="unknown gate direction"):
        GateFusion(8, direction="paper")
