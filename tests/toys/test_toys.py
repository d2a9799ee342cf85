"""The contract holds for three small policies of different kinds, and two of them learn."""

from __future__ import annotations

import pytest
import torch

from embodied.core.types import Segment
from tests.contracts.policy import PolicyCase, PolicyContract
from tests.toys.prediction_writer import PredictionWriter
from tests.toys.recall_agent import CUES, TICKS, RecallAgent, act_out, episodes, train
from tests.toys.two_banks import TwoBanks

CASES = [
    PolicyCase("prediction-writer", PredictionWriter, exportable=True),
    PolicyCase("recall-agent", RecallAgent, imitates=False, reinforces=True, exportable=True),
    PolicyCase("recall-agent-gru", lambda: RecallAgent("gru"), imitates=False, reinforces=True),
    PolicyCase(
        "recall-agent-none",
        lambda: RecallAgent("none"),
        imitates=False,
        reinforces=True,
        remembers=False,
    ),
    PolicyCase("two-banks", TwoBanks, exportable=True),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestToys(PolicyContract):
    pass


@pytest.mark.parametrize("memory", ["perceptual_cognitive", "gru", "full_history"])
def test_a_policy_gradient_learns_to_recall(memory: str) -> None:
    torch.manual_seed(0)
    assert train(RecallAgent(memory), seed=0, updates=400) <= 400


def test_the_memoryless_twin_cannot() -> None:
    torch.manual_seed(0)
    twin = RecallAgent("none")
    assert train(twin, seed=0, updates=40) > 40
    greedy = act_out(twin, episodes(torch.arange(CUES)), torch.zeros(CUES, TICKS, CUES))
    assert greedy.sum() == 1


def turning_signs(batch: int, ticks: int, generator: torch.Generator) -> Segment:
    """Episodes that show a sign once; the answer turns it at every tick."""
    sign = torch.randint(0, 2, (batch, 1), generator=generator) * 2.0 - 1
    shown = torch.zeros(batch, ticks, 1)
    shown[:, 0] = sign
    turns = (-1.0) ** torch.arange(1, ticks + 1)
    valid = torch.ones(batch, ticks, dtype=torch.bool)
    first = torch.zeros_like(valid)
    first[:, 0] = True
    return Segment(
        obs={"sign": shown},
        time_s=0.4 * torch.arange(ticks).expand(batch, ticks),
        is_first=first,
        valid=valid,
        act_mask=valid,
        chunk=(sign * turns)[..., None, None],
        chunk_valid=valid[..., None],
    )


def learnt_loss(store: str, updates: int = 200) -> float:
    """Returns the last loss of a `PredictionWriter`, on longer episodes than it trained on."""
    torch.manual_seed(0)
    policy, generator = PredictionWriter(store), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(updates):
        segment = turning_signs(16, 5, generator)
        optimizer.zero_grad()
        policy.loss(segment, policy.initial_state(16)).loss.backward()
        optimizer.step()
    with torch.no_grad():
        segment = turning_signs(16, 9, generator)
        return float(policy.loss(segment, policy.initial_state(16)).loss)


def test_a_stored_prediction_carries_on_and_a_stored_observation_does_not() -> None:
    assert learnt_loss("prediction") < 0.05
    assert learnt_loss("observation", updates=100) > 0.4
