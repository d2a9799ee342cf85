"""Configuration of MemoryVLA."""

from __future__ import annotations

import dataclasses
from typing import Any

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.action_head import ActionHeadConfig
from embodied.nn.encoders import ENCODERS
from embodied.nn.fusion import DIRECTIONS

TRUNKS = ("conv", "entities", *ENCODERS)
COMPRESSIONS = ("squeeze_excite", "squeeze_excite_wide")
STORES = ("raw", "fused")
CONDITIONS = ("full", "cognitive")
GOAL_SEES = ("scene", "arm")


@dataclasses.dataclass
class MemoryVLAConfig:
    """Everything that shapes the network; plain data, stored in ``policy.json``.

    Attributes:
      trunk: ``"conv"`` (camera images), ``"entities"`` (state observation), or an image
        encoder of `embodied.nn.encoders`.
      entity_rows: Rows of the table of entities that are read, from its first; 0 for all. Rows
        that stand for nothing cost as much as others; tables with something further on are
        refused.
      hand_token: Beside the entities the hand is a token of its own, at its place: what it was
        at can then be found by place, as things are that lay beside one another.
      encoder: Options of that encoder.
      compress: How its visual tokens are brought to D channels: ``"squeeze_excite"``
        (published) or ``"squeeze_excite_wide"`` (successor).
      token_grid: Side of the map of perceptual tokens of a view, averaged from the encoder's;
        0 keeps its own (published).
      grounding: Half of a token's channels say which colour stands out in its patch and where
        in the world that is. False leaves all of them to the encoder (published).
      width: D, width of perceptual tokens, and of the cognitive one unless it has its own.
      cognitive_width: Width of the cognitive token; 0 for D.
      channels: Channels of the convolutional stem after its first and second layer.
      blocks: Residual blocks of the stem at token resolution.
      readout_queries: Queries of each token readout.
      proprio: Observation keys appended to the cognitive token; empty for none.
      memory: Name in ``embodied.memory.MEMORIES``; ``"none"`` is the memoryless twin.
      memory_config: Options of that memory.
      fusion: ``"gate"`` (learned, elementwise) or ``"add"`` (mean of present and memory).
      gate_weighs: What the gate's value weighs: ``"present"`` (published code) or
        ``"memory"`` (paper). The same functions, other readings and weights.
      store: Store the ``"raw"`` tokens of the present or the ``"fused"`` ones.
      condition: What the action expert is conditioned on: ``"full"``: the cognitive token, a
        readout of the perceptual ones, instruction and arm, and where perceptual tokens are;
        or the fused ``"cognitive"`` token alone (published).
      horizon: K, actions in a chunk.
      head: The diffusion action expert.
      goal_loss: Weight of the hindsight goal loss: predict where the hand will be at its
        next event, from the demonstration's own future. Not privileged. 0 leaves goals out,
        of the action expert's condition too.
      goal_first_weight: Weight in that loss of the tick at which a new goal begins, which memory
        alone can tell; at later ones the hand is on its way there.
      goal_sees: Beside each token, what the goal head sees: the whole ``"scene"`` (the fused
        cognitive token: which lamp is on, what memory holds), or the instruction and the
        ``"arm"`` alone.
      goal_noise_m: Standard deviation of what is added to the true goals that the action
        expert learns with; about as far as predicted ones are off.
    """

    trunk: str = "conv"
    entity_rows: int = 0
    hand_token: bool = False
    encoder: dict[str, Any] = dataclasses.field(default_factory=dict)
    compress: str = "squeeze_excite"
    token_grid: int = 0
    grounding: bool = True
    width: int = 96
    cognitive_width: int = 0
    channels: list[int] = dataclasses.field(default_factory=lambda: [32, 64])
    blocks: int = 1
    readout_queries: int = 8
    proprio: list[str] = dataclasses.field(
        default_factory=lambda: ["eef_pos_world_m", "gripper_opening"]
    )
    memory: str = "perceptual_cognitive"
    memory_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    fusion: str = "gate"
    gate_weighs: str = "present"
    store: str = "raw"
    condition: str = "full"
    horizon: int = 8
    head: ActionHeadConfig = dataclasses.field(default_factory=ActionHeadConfig)
    goal_loss: float = 1.0
    goal_first_weight: float = 1.0
    goal_sees: str = "scene"
    goal_noise_m: float = 0.015

    def __post_init__(self) -> None:
        if self.trunk not in TRUNKS:
            raise unknown_name("trunk", self.trunk, TRUNKS)
        if self.encoder and self.trunk not in ENCODERS:
            raise ConfigError(
                f"policy.config.encoder is for the trunks {', '.join(ENCODERS)}; "
                f"trunk={self.trunk} has no encoder"
            )
        self._refuse_idle()
        for name, known in {
            "compress": COMPRESSIONS,
            "store": STORES,
            "condition": CONDITIONS,
            "gate_weighs": DIRECTIONS,
            "goal_sees": GOAL_SEES,
        }.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        if self.width < 16 or self.width % 16:
            raise ConfigError(
                "width must be a multiple of 16 (half of it is normalised in groups of 8), got "
                f"{self.width}"
            )
        if len(self.channels) != 2 or min(self.channels) < 1 or self.channels[1] % 8:
            raise ConfigError(
                "channels must be two sizes >= 1, the second a multiple of 8 (group norm), got "
                f"{self.channels}"
            )
        for name in (
            "blocks",
            "goal_loss",
            "goal_first_weight",
            "goal_noise_m",
            "token_grid",
            "cognitive_width",
            "entity_rows",
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("horizon", "readout_queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")

    def _refuse_idle(self) -> None:
        """Refuses options that do nothing here: whoever sets one expects something of it."""
        idle = {}
        if self.trunk not in ENCODERS:
            idle |= dict.fromkeys(("compress", "token_grid", "grounding"), f"trunk={self.trunk}")
        if self.trunk != "entities":
            idle |= dict.fromkeys(("entity_rows", "hand_token"), f"trunk={self.trunk}")
        if self.trunk != "conv":
            idle |= dict.fromkeys(("channels", "blocks"), f"trunk={self.trunk}")
        if self.fusion != "gate":
            idle["gate_weighs"] = f"fusion={self.fusion}"
        if not self.goal_loss:
            idle |= dict.fromkeys(("goal_first_weight", "goal_noise_m"), "goal_loss=0")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in idle and value != _default(field):
                raise ConfigError(
                    f"policy.config.{field.name}={value} does nothing with {idle[field.name]}; "
                    f"leave it at {_default(field)}, or choose what it is for"
                )


def _default(field: dataclasses.Field[Any]) -> Any:
    missing = field.default_factory is dataclasses.MISSING
    return field.default if missing else field.default_factory()  # type: ignore[misc]
