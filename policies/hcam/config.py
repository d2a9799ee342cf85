"""Configuration of HCAM agents. Plain data; imports no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from embodied.core.errors import ConfigError


@dataclasses.dataclass
class HCAMConfig:
    """An agent with a memory of vectors between its encoder and its heads.

    Attributes:
      width: D of everything between observation and heads, the memory's vectors among them.
      hidden: Hidden size of the encoder's and the heads' layers.
      channels: Channels of the convolutions that see pictures, each halving their side.
      shared_values: Tokens that stand at several places have a vector for their value beside the
        one for value and place, so that what is learnt of a value at one place holds at all.
      memory: Name in ``embodied.memory.MEMORIES``, of a memory of vectors; ``"none"`` is the
        memoryless twin.
      memory_config: Options of that memory; its width is the policy's.
      read_when: Observation key; a memory whose reads are costly reads only at ticks that show
        something there (anything but zeros). Empty: at every tick. It is a part of the input,
        so acting and learning leave out the same reads.
      reconstruct: Weight of a second loss: tell the tick's observations from what comes out of
        memory (published: used, weight not known). 0 leaves it out; above 0 every tick of a
        segment is computed in learning, not only those that act.
      temperature: Scale of the noise when acting outside training; 0 takes the best action.
        Training explores with 1.
    """

    width: int = 64
    hidden: int = 128
    channels: list[int] = dataclasses.field(default_factory=lambda: [16, 32, 32])
    shared_values: bool = True
    memory: str = "hierarchical_chunks"
    memory_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    read_when: str = ""
    reconstruct: float = 0.0
    temperature: float = 0.0

    def __post_init__(self) -> None:
        for name in ("width", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"channels must be one size >= 1 or more, got {self.channels}")
        if self.reconstruct < 0:
            raise ConfigError(f"reconstruct must be >= 0, got {self.reconstruct}")
        if not 0 <= self.temperature <= 1:
            raise ConfigError(f"temperature must be within 0..1, got {self.temperature}")
        if "width" in self.memory_config:
            raise ConfigError(
                "memory.config.width is the policy's own width here; set policy.config.width"
            )
