"""A toy policy with two composed memories: a bank for the scene, a recurrent one for the hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.core.policy import LossOutput, Policy
from embodied.core.rng import GAUSSIAN
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.memory import build_memory
from embodied.memory.composite import CompositeMemory
from embodied.nn.fusion import GateFusion
from tests.toys.specs import memory_specs

TOKENS, FEATURES, WIDTH, HAND, HORIZON, SIZE = 4, 5, 12, 8, 2, 3


class TwoBanks(Policy):
    """Fuses each stream with its own memory, then answers with a Gaussian around a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.feel = nn.Linear(FEATURES, WIDTH), nn.Linear(SIZE, HAND)
        bank = build_memory("perceptual_cognitive", {"scene": (TOKENS, WIDTH)}, {"capacity": 3})
        recurrent = build_memory("gru", {"hand": (1, HAND)}, {"width": 16})
        self.memory = CompositeMemory({"bank": bank, "recurrent": recurrent})
        self.fuse = nn.ModuleDict({"scene": GateFusion(WIDTH), "hand": GateFusion(HAND)})
        self.mean = nn.Linear(WIDTH + HAND, HORIZON * SIZE)
        self.spec = PolicySpec(
            observations={
                "scene": ArraySpec((TOKENS, FEATURES), "float32"),
                "eef_pos_world_m": ArraySpec((SIZE,), "float32", "m"),
            },
            action=ActionSpec(EE_DELTA_CHUNK, SIZE, HORIZON),
            control_hz=20.0,
            observe_on="decision",
            observe_period_s=0.4,
            noise_shape=(HORIZON, SIZE),
            noise_law=GAUSSIAN,
            state=memory_specs(self.memory),
            instruction="none",
        )

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.memory.initial(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        query = self._streams(obs)
        value, pending = self.memory.read(query, time_s, state, reset)
        state = self.memory.write(pending, query, time_s, state)
        return Working({"mean": self._mean(query, value)}), state

    def act(self, working: Working, noise: Tensor) -> Action:
        return Action(working.features["mean"] + 0.1 * noise)

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        items = self._streams(segment.obs)
        value, state = self.memory.unroll(
            items, segment.time_s, state, segment.is_first, segment.valid, segment.act_mask
        )
        miss = (self._mean(items, value) - segment.chunk).square().mean(-1)
        used = segment.chunk_valid & (segment.valid & segment.act_mask)[..., None]
        loss = (miss * used).sum() / used.sum().clamp(min=1)
        return LossOutput(loss, {"loss": loss.detach()}, state)

    def _streams(self, obs: Observation) -> Streams:
        return {
            "scene": self.see(obs["scene"]),
            "hand": self.feel(obs["eef_pos_world_m"]).unsqueeze(-2),
        }

    def _mean(self, query: Streams, value: Streams) -> Tensor:
        fused = {name: self.fuse[name](query[name], value[name]) for name in query}
        summary = torch.cat([fused["scene"].mean(-2), fused["hand"].squeeze(-2)], dim=-1)
        return self.mean(summary).unflatten(-1, (HORIZON, SIZE))
