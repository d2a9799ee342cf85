"""A policy of one's own: entities in, one GRU, action chunks out, mean squared error.

Another package offers it by an entry point in its ``pyproject.toml``; then
``embodied train policy=small_gru observation=state`` trains it like a built-in one:

    [project.entry-points."embodied.policies"]
    small_gru = "own_policy:SmallPolicy"
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.policy import LossOutput, Policy
from embodied.core.rng import NO_NOISE
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, Interface, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.memory import build_memory

INPUTS = ("entities", "eef_pos_world_m", "gripper_opening")
STREAM = "token"


@dataclasses.dataclass
class SmallConfig:
    """Shape of the network.

    Attributes:
      width: Width of the one token a tick.
      horizon: K, actions in a chunk.
      memory: Name of a memory; the trainer sets it from ``memory=``.
      memory_config: Its options; the trainer sets them from ``memory.config.*``.
    """

    width: int = 64
    horizon: int = 8
    memory: str = "gru"
    memory_config: dict[str, Any] = dataclasses.field(default_factory=dict)


class SmallPolicy(Policy):
    """Shape letters: B rows, T ticks, K actions in a chunk, A action size, D width."""

    Config = SmallConfig

    def __init__(self, config: SmallConfig, interface: Interface) -> None:
        super().__init__()
        self.config = config
        inputs = {key: interface.observations[key] for key in INPUTS}
        size = sum(torch.Size(spec.shape).numel() for spec in inputs.values())
        self.encode = nn.Sequential(nn.Linear(size, config.width), nn.GELU())
        self.memory = build_memory(config.memory, {STREAM: (1, config.width)}, config.memory_config)
        chunk = config.horizon * interface.action_size
        self.decode = nn.Sequential(nn.Linear(2 * config.width, chunk), nn.Tanh())
        self.spec = PolicySpec(
            observations=inputs,
            action=ActionSpec(EE_DELTA_CHUNK, interface.action_size, config.horizon),
            control_hz=interface.control_hz,
            observe_on=interface.observe_on,
            observe_period_s=interface.observe_period_s,
            noise_shape=(1,),
            noise_law=NO_NOISE,
            state={
                name: ArraySpec(tuple(t.shape[1:]), str(t.dtype).removeprefix("torch."))
                for name, t in self.initial_state(1).items()
            },
        )

    def set_statistics(self, statistics: Mapping[str, Any]) -> None:
        """Needs none: positions are metres around the origin already."""

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        """The memory's state is all that outlives a tick."""
        return self.memory.initial(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        """One memory tick."""
        query = self._query(obs, 1)
        value, state = self.memory.step(query, time_s, state, reset)
        return Working({"chunk": self._chunk(query, value)}), state

    def act(self, working: Working, noise: Tensor) -> Action:
        """The chunk is decided already; there is nothing random in it."""
        return Action(working.features["chunk"])

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Mean squared error of the actions asked for."""
        query = self._query(segment.obs, 2)
        value, state = self.memory.unroll(
            query, segment.time_s, state, segment.is_first, segment.valid
        )
        error = self._chunk(query, value) - segment.chunk[:, :, : self.config.horizon]
        weight = segment.chunk_valid[:, :, : self.config.horizon] & segment.act_mask[..., None]
        squared = error.square().mean(-1) * weight
        loss = squared.sum() / weight.sum().clamp(min=1)
        return LossOutput(loss, {"loss": loss.detach()}, state)

    def _query(self, obs: Observation, leading: int) -> Streams:
        """Returns the present as one token: [..., 1, D]."""
        flat = torch.cat([obs[key].flatten(leading) for key in INPUTS], dim=-1)
        return {STREAM: self.encode(flat)[..., None, :]}

    def _chunk(self, query: Streams, value: Streams) -> Tensor:
        """Decodes present and remembered token to [..., K, A]."""
        both = torch.cat([query[STREAM], value[STREAM]], dim=-1)[..., 0, :]
        return self.decode(both).unflatten(-1, (self.config.horizon, -1))
