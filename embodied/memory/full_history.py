"""Full history: the retrieval blocks of the bank over every item of the episode, unmerged."""

from __future__ import annotations

import dataclasses

from embodied.core.errors import ConfigError
from embodied.core.types import State
from embodied.memory.bank import PerceptualCognitiveConfig
from embodied.memory.base import StreamShapes
from embodied.memory.perceptual_cognitive import PerceptualCognitiveMemory


@dataclasses.dataclass
class FullHistoryConfig:
    """Options of full history; meanings as in `PerceptualCognitiveConfig`.

    Attributes:
      capacity: Default number of slots; at least the longest episode in observation ticks.
    """

    capacity: int = 64
    remember: list[str] = dataclasses.field(default_factory=list)
    pool: dict[str, int] = dataclasses.field(default_factory=dict)
    pool_maps: int = 1
    layers: int = 2
    heads: int = 1
    dropout: float = 0.0
    qk_init: str = "equal"
    detach: bool = False
    skip_zero_tokens: bool = True
    time_encoding: bool = True
    time_scale_hz: float = 1.0


class FullHistoryMemory(PerceptualCognitiveMemory):
    """Attends to every past item; the reference upper bound, with cost that grows with time.

    A write beyond capacity drops the oldest item and counts it in ``<stream>.overflow``, so
    that a deployed policy goes on. Where the horizon is known, `capacity_for` says how many
    slots lose nothing, and `check_horizon` refuses too few.

    Args:
      streams: Stream name -> (N, D).
      config: Options.
    """

    config_class = FullHistoryConfig  # type: ignore[assignment]

    def __init__(self, streams: StreamShapes, config: FullHistoryConfig | None = None) -> None:
        options = dataclasses.asdict(config or FullHistoryConfig())
        super().__init__(streams, PerceptualCognitiveConfig(**options, overflow="fifo"))

    def capacity_for(self, ticks: int) -> int:
        """Returns the slots that hold an episode of so many observation ticks.

        The last tick needs none, since nothing reads it.
        """
        return max(self.capacity, ticks - 1)

    def check_horizon(self, ticks: int, state: State | None = None) -> None:
        """Refuses a horizon that full history cannot hold.

        Args:
          ticks: Observation ticks of the longest episode.
          state: The state to be used, or None for the default capacity.

        Raises:
          ConfigError: If an item would be dropped.
        """
        capacity = (self.capacity_of(state) if state else None) or self.capacity
        if ticks - 1 > capacity:
            raise ConfigError(
                f"full_history holds {capacity} past ticks, but the longest episode has {ticks} "
                f"observation ticks; set memory.capacity (or initial_state's capacity) to "
                f">= {ticks - 1}, observe less often, or choose memory=perceptual_cognitive"
            )
