"""Process rates of a real bank on the real RememberColor: which stage a planted fault is blamed on.

The bank stores, merges and is full as in any policy; what is read of it is the entry that a lone
cube was stored in, so that nothing has to be learnt.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from embodied import registry
from embodied.core import entities
from embodied.core.types import Action, Working
from embodied.evaluate.process import NEEDED, STAGES, process_rates
from embodied.evaluate.runner import closing, run
from embodied.memory.bank import PerceptualCognitiveConfig
from embodied.memory.perceptual_cognitive import PerceptualCognitiveMemory
from tests.evaluate.checkpoints import STATE
from tests.evaluate.scripted import CUBE, ColourPolicy
from tests.evaluate.test_real import FIRST

pytestmark = pytest.mark.sim

EPISODES = 33
TOKENS = "seen.tokens"


class BankPolicy(ColourPolicy):
    """Stores at each tick the colour of a cube seen alone, or that there was none."""

    def __init__(self, specs):
        super().__init__(specs)
        config = PerceptualCognitiveConfig(capacity=4)
        self.memory = PerceptualCognitiveMemory({"seen": (1, 4)}, config)
        state = self.memory.initial(1)
        like = {k: self.spec.state["colour"].__class__(tuple(v.shape[1:]), str(v.dtype)[6:])
                for k, v in state.items()}  # fmt: skip
        self.spec = dataclasses.replace(self.spec, state=like)

    def initial_state(self, batch, capacity=None):
        return self.memory.initial(batch, capacity)

    def observe(self, obs, time_s, state, reset):
        cubes = obs["entities_mask"] & (obs["entities"][..., CUBE] > 0.5)
        colour = (obs["entities"][..., entities.COLOR] * cubes[..., None]).sum(1)
        alone = (cubes.sum(1) == 1)[:, None]
        # The last number tells a cube's entry from the others, which all look the same.
        item = torch.cat([colour * alone, torch.where(alone, 1.0, -1.0)], dim=-1)[:, None]
        state = self.memory.clear(state, reset)
        entries = self.read(state)
        _, pending = self.memory.read({"seen": item}, time_s, state, torch.zeros_like(reset))
        empty = cubes.sum(1) == 0
        new = self.write(self.memory.write(pending, {"seen": item}, time_s, state), empty)
        best = entries[..., 3].argmax(1)
        found = entries[torch.arange(len(best)), best]
        return Working({**obs, "cubes": cubes, "colour": found[:, :3]}), new

    def read(self, state):
        """Returns what is read of the entries, [B, slots, 4]."""
        return state[TOKENS][:, :, 0]

    def write(self, new, empty):
        """Returns the memory after a write at which rows in `empty` saw no cube: the gap."""
        return new


class DropsWrites(BankPolicy):
    """The entry of a cube never arrives."""

    def write(self, new, empty):
        there = new[TOKENS][..., 3:] > 0
        return {**new, TOKENS: torch.where(there, 0.0, new[TOKENS])}


class Decays(BankPolicy):
    """Entries fade by nine tenths at every tick of the gap."""

    def write(self, new, empty):
        left = torch.where(empty, 0.1, 1.0)[:, None, None, None]
        return {**new, TOKENS: left * new[TOKENS]}

    def read(self, state):
        entries = super().read(state)
        return torch.where(entries[..., 3:] > 0.2, entries, 0.0)


class WrongKey(BankPolicy):
    """Finds the next cube where its own is asked for."""

    def observe(self, obs, time_s, state, reset):
        working, new = super().observe(obs, time_s, state, reset)
        seen = dict(working.features)
        miss = (seen["entities"][..., entities.COLOR] - seen["colour"][:, None]).abs().sum(-1)
        right = torch.where(seen["cubes"], miss, 1e3).argmin(1)
        first, count = seen["cubes"].float().argmax(1), seen["cubes"].sum(1).clamp(min=1)
        following = first + (right - first + 1) % count
        rows = torch.arange(len(right))
        seen["colour"] = seen["entities"][rows, following][:, entities.COLOR]
        return Working(seen), new


class Stuck(BankPolicy):
    """Knows where to go and stays where it is."""

    def act(self, working, noise):
        return Action(torch.zeros_like(super().act(working, noise).chunk))


def rates(kind):
    vector = registry.make_vec("remember_color", "easy", STATE, 17, 0, copy=False)
    seeds = list(range(FIRST, FIRST + EPISODES))
    with closing(vector):
        policy = kind(vector.observation_specs)
        return process_rates(
            [
                row
                for name in NEEDED
                for row in run(policy, vector, seeds, intervene=name, n_cues=3, progress=False)
            ]
        )


def test_a_sound_bank_passes_every_stage():
    found = rates(BankPolicy)
    assert [found[stage]["rate"] for stage in STAGES] == [1.0] * 4 and not found["blamed"]


@pytest.mark.parametrize(
    ("kind", "stage"),
    [(DropsWrites, "stored"), (Decays, "kept"), (WrongKey, "recalled"), (Stuck, "executed")],
)
def test_a_planted_fault_is_blamed_on_its_stage(kind, stage):
    found = rates(kind)
    failures = sum(found["blamed"].values())
    assert failures >= 0.5 * EPISODES and found["blamed"][stage] >= 0.95 * failures
