"""Policies from `state`, without learning: one remembers a colour, one how far it has got."""

from __future__ import annotations

import torch

from embodied.core import entities
from embodied.core.policy import Policy
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.core.types import Action, Working
from embodied.memory.base import where_rows

HORIZON, STEP = 8, 0.45
CUBE, BUTTON, CONTAINER = (
    entities.ENTITY_TYPES.index(name) for name in ("cube", "button", "container")
)


class ColourPolicy(Policy):
    """Stores the colour of a cube seen alone; goes down on the cube nearest to it in colour.

    Args:
      specs: The environment's observation specs.
      remember: False makes the memoryless twin, which goes to the first cube.
      horizon: Actions in a chunk; a period takes 8.
    """

    def __init__(
        self, specs: dict[str, ArraySpec], remember: bool = True, horizon: int = HORIZON
    ) -> None:
        super().__init__()
        keys = ("entities", "entities_mask", "eef_pos_world_m")
        self.remember = remember
        self.spec = PolicySpec(
            observations={key: specs[key] for key in keys},
            action=ActionSpec(EE_DELTA_CHUNK, 7, horizon),
            control_hz=20.0,
            observe_on="period",
            observe_period_s=0.4,
            noise_shape=(horizon, 3),
            state={"colour": ArraySpec((3,), "float32")},
        )

    def initial_state(self, batch, capacity=None):
        return {"colour": torch.zeros(batch, 3)}

    def observe(self, obs, time_s, state, reset):
        colour = where_rows(reset, torch.zeros(len(reset), 3), state["colour"])
        cubes = obs["entities_mask"] & (obs["entities"][..., CUBE] > 0.5)
        seen = (obs["entities"][..., entities.COLOR] * cubes[..., None]).sum(1)
        alone = (cubes.sum(1) == 1) & self.remember
        colour = where_rows(alone, seen, colour)
        return Working({**obs, "cubes": cubes, "colour": colour}), {"colour": colour}

    def act(self, working, noise):
        seen = working.features
        miss = (seen["entities"][..., entities.COLOR] - seen["colour"][:, None]).abs().sum(-1)
        if not self.remember:
            miss = seen["entities"][..., entities.POSITION][..., 1]
        chosen = torch.where(seen["cubes"], miss, 1e3).argmin(1)
        row = seen["entities"][torch.arange(len(chosen)), chosen]
        top = row[:, entities.POSITION] + torch.tensor([0.0, 0.0, 1.0]) * row[:, entities.SIZE]
        return Action(_down_on(top, seen["eef_pos_world_m"], noise))


class ChecklistPolicy(Policy):
    """For ChecklistInspect: counts gaps; opens the box of that number, then presses the button.

    Args:
      specs: The environment's observation specs.
      remember: False makes the memoryless twin, which opens the first box for ever.
    """

    def __init__(self, specs: dict[str, ArraySpec], remember: bool = True) -> None:
        super().__init__()
        keys = ("entities", "entities_mask", "eef_pos_world_m")
        self.remember = remember
        self.spec = PolicySpec(
            observations={key: specs[key] for key in keys},
            action=ActionSpec(EE_DELTA_CHUNK, 7, HORIZON),
            control_hz=20.0,
            observe_on="period",
            observe_period_s=0.4,
            noise_shape=(HORIZON, 3),
            state={"gaps": ArraySpec((1,), "float32"), "dark": ArraySpec((1,), "float32")},
        )

    def initial_state(self, batch, capacity=None):
        return {name: torch.zeros(batch, 1) for name in ("gaps", "dark")}

    def observe(self, obs, time_s, state, reset):
        zero = torch.zeros(len(reset), 1)
        gaps, was_dark = (where_rows(reset, zero, state[name]) for name in ("gaps", "dark"))
        lamp = obs["entities"][:, 0, entities.COLOR]
        dark = (lamp.sum(1, keepdim=True) < 0.3).float()
        gaps = gaps + dark * (1 - was_dark) * self.remember
        return Working({**obs, "gaps": gaps}), {"gaps": gaps, "dark": dark}

    def act(self, working, noise):
        seen = working.features
        rows = seen["entities"]
        lids = seen["entities_mask"] & (rows[..., CONTAINER] > 0.5)
        button = (rows[..., BUTTON] > 0.5).float().argmax(1)
        chosen = lids.float().argmax(1) + seen["gaps"][:, 0].long()
        chosen = torch.where(chosen <= lids.sum(1), chosen, button)
        row = rows[torch.arange(len(rows)), chosen]
        goal = row[:, entities.POSITION].clone()  # the middle of a cap: it is pressed down to there
        goal[:, 2] += torch.where(chosen == button, 0.0, row[:, entities.SIZE][:, 2])
        return Action(_down_on(goal, seen["eef_pos_world_m"], noise))


def _down_on(top, hand, noise):
    """Returns a chunk that goes above a thing and, once there, down on its top."""
    far = (top - hand)[:, :2].norm(dim=1) > 0.03
    goal = top + far[:, None] * torch.tensor([0.0, 0.0, 0.06])
    position, chunk = hand.clone(), torch.zeros(len(top), noise.shape[1], 7)
    for k in range(noise.shape[1]):
        move = (goal - position) / 0.05
        move = move * (STEP / move.norm(dim=1, keepdim=True).clamp_min(1e-6)).clamp_max(1.0)
        chunk[:, k, :3] = move + 0.02 * noise[:, k]
        position = position + 0.05 * move
    chunk[..., 6] = 1.0
    return chunk.clamp(-1, 1)
