"""Plain data that crosses package borders."""

from __future__ import annotations

import dataclasses
from typing import Any

State = dict[str, Any]
"""Memory as a value: name -> tensor (or array), first axis B, fixed shapes, float/int64/bool."""

Streams = dict[str, Any]
"""Named token streams: name -> [B, N, D]."""

Observation = dict[str, Any]
"""Observation key -> array; see the specs of the policy or of the environment."""


@dataclasses.dataclass
class Action:
    """What a policy answers at one observation tick.

    Attributes:
      chunk: [B, K, A] float; K actions in physical (denormalised) units of the action spec.
      log_prob: [B] log-probability of the chunk, where the policy defines one.
      value: [B] state value, where the policy has a critic.
    """

    chunk: Any
    log_prob: Any | None = None
    value: Any | None = None


@dataclasses.dataclass
class Working:
    """What `act` needs from `observe` at this tick. Never persisted, not counted as memory.

    Attributes:
      features: Free-form tensors of the policy, first axis B.
      record: What a reinforcement learner stores each tick and gives back as
        ``Segment.record``; shapes are in the policy's record spec.
    """

    features: dict[str, Any]
    record: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Segment:
    """A batch of consecutive observation ticks for learning. T is padded; see `valid`.

    Attributes:
      obs: Observation key -> [B, T, ...].
      time_s: [B, T] float64 or float32 seconds since the episode began.
      is_first: [B, T] bool; True at the first tick of an episode.
      valid: [B, T] bool; False on padding, which must change nothing.
      act_mask: [B, T] bool; True where an action is asked for (not held).
      chunk: [B, T, K, A] float32 target actions in physical units.
      chunk_valid: [B, T, K] bool; False beyond a gate or the end of the episode.
      extras: Further targets, for example ``goal_pos_world_m`` [B, T, 3] with
        ``goal_valid`` [B, T]; a policy uses those its losses name.
      record: What the policy recorded when it acted (reinforcement learning only).
    """

    obs: dict[str, Any]
    time_s: Any
    is_first: Any
    valid: Any
    act_mask: Any
    chunk: Any
    chunk_valid: Any
    extras: dict[str, Any] = dataclasses.field(default_factory=dict)
    record: dict[str, Any] = dataclasses.field(default_factory=dict)

    def map(self, function: Any) -> Segment:
        """Returns a new segment with `function` applied to every array."""

        def apply(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: apply(item) for key, item in value.items()}
            return function(value)

        fields = {f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)}
        return Segment(**fields)
