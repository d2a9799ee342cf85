"""Trunks of MemoryVLA: observations to perceptual tokens with positions and a mask.

The channels of a token come in quarters: two of shape, one of colour, one of place. With four
heads, a memory that compares channels can be asked by each of them alone.

Shape letters: B rows, C cameras, N tokens, D width, F width of an encoder's visual tokens,
Z width of its cognitive token.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.entities import COLOR, ENTITIES, ENTITIES_MASK, POSITION, SCALAR
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.prompt import PROMPT_LENGTH, PROMPT_TOKENS
from embodied.core.specs import ArraySpec
from embodied.core.text import INSTRUCTION
from embodied.core.types import Observation
from embodied.nn.encoders import build_encoder
from embodied.nn.position import FourierFeatures
from embodied.nn.rows import looks_at_data
from embodied.nn.squeeze import SqueezeExcite, WideSqueezeExcite
from embodied.nn.vision import ConvTrunk, SalientColor, meet_plane, token_pixels
from policies.memory_vla.config import MemoryVLAConfig

IMAGE, INTRINSICS, CAM_TO_WORLD = "_image_u8", "_intrinsics", "_cam_to_world"
HAND, GRIPPER = "eef_pos_world_m", "gripper_opening"
NEAR_M = 0.1
"""Places nearer than this are alike; about the distance of two image tokens."""
CACHED = "encoded_"
"""Begins the observation keys under which a frozen encoder's outputs may be given."""


@dataclasses.dataclass
class Perception:
    """What a trunk sees.

    Attributes:
      tokens: [B, N, D].
      positions: [B, N, 3] where in the world each token is, in metres.
      mask: [B, N] bool; False on empty tokens.
      cognitive: [B, Z] what a trunk that reads instructions makes of the whole; else None.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    cognitive: Tensor | None = None


class Trunk(nn.Module, abc.ABC):
    """Observations to tokens.

    Attributes:
      inputs: Observations it reads, key -> spec.
      streams: Memory stream -> number of its tokens, in the order of the tokens.
      cognitive: Z; 0 for a trunk that does not read instructions.
    """

    REACH_M: float
    """How far from its place a token may propose a goal."""
    inputs: dict[str, ArraySpec]
    streams: dict[str, int]
    cognitive: int = 0

    def set_statistics(self, mean_images: dict[str, Tensor], lowest_m: Tensor) -> None:
        """Sets each camera's mean image, float [3, H, W] in 0..1, and the lowest hand [3]."""

    @abc.abstractmethod
    def forward(self, obs: Observation) -> Perception:
        """Encodes the observations of one tick, [B, ...]."""


class CameraTrunk(Trunk):
    """What all trunks that see by calibrated cameras share.

    A token is where the ray through what stands out in its patch meets the plane of the lowest
    place that the hand reached in the data. So tokens of all cameras, of a moving one too,
    stand for places in one world, which is where actions happen.
    """

    REACH_M = 0.08  # tight, since the table is full of tokens

    def __init__(self, trunk: str, observations: dict[str, ArraySpec]) -> None:
        super().__init__()
        self.names = sorted(k.removesuffix(IMAGE) for k in observations if k.endswith(IMAGE))
        if not self.names:
            raise SpecMismatch(
                f"the {trunk} trunk needs camera images (keys ending in _image_u8); offered: "
                f"{', '.join(sorted(observations))}. Use observation=rgb or trunk=entities"
            )
        keys = [name + part for name in self.names for part in (IMAGE, INTRINSICS, CAM_TO_WORLD)]
        missing = [key for key in keys if key not in observations]
        if missing:
            raise SpecMismatch(
                f"the {trunk} trunk needs calibrated cameras; missing: "
                f"{', '.join(missing)}. Collect the data again with this version"
            )
        self.inputs = {key: observations[key] for key in keys}
        self.sizes: dict[str, int] = {}
        for name in self.names:
            height, width, _ = observations[name + IMAGE].shape
            if height != width:
                raise SpecMismatch(f"{name}{IMAGE}: expected a square image, got {height}x{width}")
            self.sizes[name] = height
        self.register_buffer("plane_z_m", torch.zeros(()))

    def _where(self, name: str, obs: Observation, pixels: Tensor) -> Tensor:
        """Returns the places [B, N, 3] that `pixels` of one camera show."""
        intrinsics, pose = obs[name + INTRINSICS], obs[name + CAM_TO_WORLD]
        return meet_plane(pixels, intrinsics, pose, self.plane_z_m)


class ConvImageTrunk(CameraTrunk):
    """One convolutional stem a camera; each camera is a perceptual stream of its own."""

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__(config.trunk, observations)
        self.cameras = nn.ModuleDict()
        self.streams = {}
        for name, size in self.sizes.items():
            half, quarter = config.width // 2, config.width // 4
            stem = ConvTrunk(size, half, quarter, tuple(config.channels), config.blocks)
            self.cameras[name] = stem
            self.streams[name] = stem.tokens
        self.place = FourierFeatures(3, config.width // 4, NEAR_M)

    def set_statistics(self, mean_images: dict[str, Tensor], lowest_m: Tensor) -> None:
        for name, stem in self.cameras.items():
            stem.set_mean_image(mean_images[name + IMAGE])
        self.plane_z_m.copy_(lowest_m[2])

    def forward(self, obs: Observation) -> Perception:
        tokens, positions = [], []
        for name, stem in self.cameras.items():
            look, pixels = stem(obs[name + IMAGE])
            tokens.append(look)
            positions.append(self._where(name, obs, pixels))
        places = torch.cat(positions, dim=1)
        looks = torch.cat(tokens, dim=1)
        seen = torch.cat([looks, self.place(places).to(looks.dtype)], dim=-1)
        return Perception(seen, places, torch.ones_like(seen[..., 0], dtype=torch.bool))


class EncodedImageTrunk(CameraTrunk):
    """One encoder for all cameras, and one stream of all their tokens, as published.

    The encoder's visual tokens are compressed to D channels. With ``grounding`` half of the
    channels are left to them and the others say which colour stands out in each patch and where
    it is, as in `ConvImageTrunk`; without, tokens are what the paper has.
    """

    STREAM = "perceptual"

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__(config.trunk, observations)
        if INSTRUCTION not in observations:
            raise SpecMismatch(f"the {config.trunk} trunk needs the observation {INSTRUCTION}")
        self.inputs[INSTRUCTION] = observations[INSTRUCTION]
        self.encoder = build_encoder(config.trunk, config.encoder)
        options = self.encoder.options
        for name, size in self.sizes.items():
            if size != options.image_size and not options.resize:
                raise SpecMismatch(
                    f"{name}{IMAGE} is {size} px wide, the encoder takes {options.image_size} px; "
                    f"set policy.config.encoder.image_size={size} where the encoder can, or "
                    "policy.config.encoder.resize=true to have pictures resized"
                )
        self.cognitive, self.frozen = self.encoder.cognitive, options.learn == "frozen"
        grid = config.token_grid or self.encoder.grid
        if self.encoder.grid % grid:
            raise ConfigError(
                f"token_grid={grid} must divide the encoder's {self.encoder.grid}x"
                f"{self.encoder.grid} tokens a view"
            )
        self.pool = self.encoder.grid // grid
        self.streams = {self.STREAM: len(self.names) * grid**2}
        self.grounding = config.grounding
        width = config.width // 2 if config.grounding else config.width
        self.compress = COMPRESSIONS[config.compress](self.encoder.width, width)
        if config.grounding:
            self.norm = nn.LayerNorm(width)
            self.cameras = nn.ModuleDict()
            for name, size in self.sizes.items():
                if size % grid:
                    raise SpecMismatch(
                        f"{name}{IMAGE}: its {size} px can't be cut into {grid}x{grid} patches; "
                        "use cameras whose size the token grid divides, or grounding=false"
                    )
                self.cameras[name] = SalientColor(size, grid, config.width // 4)
            self.place = FourierFeatures(3, config.width // 4, NEAR_M)
        else:
            for name, size in self.sizes.items():
                pixels = token_pixels(grid, 1) * (size / grid)
                self.register_buffer(f"{name}_pixels", pixels, persistent=False)

    def set_statistics(self, mean_images: dict[str, Tensor], lowest_m: Tensor) -> None:
        self.plane_z_m.copy_(lowest_m[2])
        if self.grounding:
            for name, salient in self.cameras.items():
                salient.set_mean_image(mean_images[name + IMAGE])

    def encode(self, obs: Observation) -> dict[str, Tensor]:
        """Runs the encoder: ``visual`` [B, C, N, F], ``cognitive`` [B, Z] if it reads.

        An instruction that is given in tokens already is taken so, as in a graph.

        Of a frozen encoder these may be kept: given under the keys `CACHED` + name, they are
        used instead.
        """
        side = self.encoder.options.image_size
        images = []
        for name in self.names:
            image = obs[name + IMAGE].permute(0, 3, 1, 2).to(self.plane_z_m.dtype) / 255.0
            if self.sizes[name] != side:
                image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
            images.append(image)
        pictures = torch.stack(images, dim=1)
        if PROMPT_TOKENS in obs:
            tokens, length = obs[PROMPT_TOKENS], obs[PROMPT_LENGTH]
            visual, cognitive = self.encoder.encode(pictures, tokens, length)
        else:
            visual, cognitive = self.encoder(pictures, obs[INSTRUCTION])
        if self.pool > 1:
            batch, cameras = visual.shape[:2]
            maps = visual.flatten(0, 1).transpose(1, 2).unflatten(2, (self.encoder.grid, -1))
            maps = F.avg_pool2d(maps, self.pool)
            visual = maps.flatten(2).transpose(1, 2).unflatten(0, (batch, cameras))
        read = {} if cognitive is None else {"cognitive": cognitive}
        return {"visual": visual, **read}

    def forward(self, obs: Observation) -> Perception:
        if CACHED + "visual" in obs:
            names = ("visual", "cognitive") if self.cognitive else ("visual",)
            encoded = {name: obs[CACHED + name].to(self.plane_z_m.dtype) for name in names}
        else:
            encoded = self.encode(obs)
        batch, cameras = encoded["visual"].shape[:2]
        looks = self.compress(encoded["visual"].flatten(0, 1)).unflatten(0, (batch, cameras))
        tokens, positions = [], []
        for index, name in enumerate(self.names):
            look = looks[:, index]
            if self.grounding:
                color, pixels = self.cameras[name](obs[name + IMAGE])
                place_m = self._where(name, obs, pixels)
                codes = [self.norm(look), color, self.place(place_m)]
                look = torch.cat([code.to(look.dtype) for code in codes], dim=-1)
            else:
                place_m = self._where(name, obs, getattr(self, f"{name}_pixels"))
            tokens.append(look)
            positions.append(place_m)
        seen = torch.cat(tokens, dim=1)
        mask = torch.ones_like(seen[..., 0], dtype=torch.bool)
        return Perception(seen, torch.cat(positions, dim=1), mask, encoded.get("cognitive"))


class EntityTrunk(Trunk):
    """Encodes the table of entities of the ``state`` observation, one token an entity."""

    REACH_M = 0.3  # the hand's way with a thing while it acts on it; the longest is a drawer's

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__()
        if ENTITIES not in observations:
            raise SpecMismatch(
                "the entities trunk needs the key 'entities'; offered: "
                f"{', '.join(sorted(observations))}. Use observation=state or trunk=conv"
            )
        hand = (HAND, GRIPPER) if config.hand_token else ()
        missing = [key for key in hand if key not in observations]
        if missing:
            raise SpecMismatch(
                f"hand_token needs the observations {missing}; offered: {sorted(observations)}"
            )
        self.inputs = {key: observations[key] for key in (ENTITIES, ENTITIES_MASK, *hand)}
        rows, features = observations[ENTITIES].shape
        if config.entity_rows > rows:
            raise ConfigError(
                f"policy.config.entity_rows={config.entity_rows}, but the table of entities has "
                f"{rows} rows; use at most that, or 0 for all"
            )
        self.rows = config.entity_rows or rows
        self.hand = config.hand_token
        self.streams = {ENTITIES: self.rows + self.hand}
        half, quarter = config.width // 2, config.width // 4
        self.embed = nn.Sequential(
            nn.Linear(features, 4 * half), nn.GELU(), nn.Linear(4 * half, half), nn.LayerNorm(half)
        )
        self.color = FourierFeatures(3, quarter, ConvTrunk.ALIKE)
        self.place = FourierFeatures(3, quarter, NEAR_M)

    def forward(self, obs: Observation) -> Perception:
        entities, mask = obs[ENTITIES][:, : self.rows], obs[ENTITIES_MASK][:, : self.rows]
        if self.hand:
            # A row of no type, at the hand's place; its scalar is how far the gripper is open.
            row = torch.zeros_like(entities[:, :1])
            row[..., POSITION] = obs[HAND][:, None]
            row[..., SCALAR] = obs[GRIPPER]
            entities = torch.cat([entities, row], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        places = entities[..., POSITION]
        codes = [self.embed(entities), self.color(entities[..., COLOR]), self.place(places)]
        tokens = torch.cat([code.to(codes[0].dtype) for code in codes], dim=-1)
        tokens = tokens * mask[..., None]
        return Perception(self._whole(tokens, obs[ENTITIES_MASK]), places, mask)

    def _whole(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Returns the tokens of tables that end where reading ends.

        Others are refused. Where looking would wait for a device their tokens are not a number,
        so that neither training nor a robot goes on with them.

        Raises:
          SpecMismatch: If a table has something further on.
        """
        if self.rows == present.shape[1]:
            return tokens
        more = present[:, self.rows :].any(dim=1)
        if not looks_at_data(more):
            return torch.where(more[:, None, None], torch.nan, tokens)
        if more.any():
            last = int(present.any(dim=0).nonzero().max()) + 1
            raise SpecMismatch(
                f"the table of entities is filled up to row {last}, but this policy reads "
                f"{self.rows} (policy.config.entity_rows); train with at least {last}, or 0 for all"
            )
        return tokens


COMPRESSIONS: dict[str, type[nn.Module]] = {
    "squeeze_excite": SqueezeExcite,
    "squeeze_excite_wide": WideSqueezeExcite,
}
"""How an encoder's channels are brought to D; the names of `config.COMPRESSIONS`."""


def build_trunk(config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> Trunk:
    """Returns the trunk that the configuration names."""
    own: dict[str, Callable[..., Trunk]] = {"conv": ConvImageTrunk, "entities": EntityTrunk}
    return own.get(config.trunk, EncodedImageTrunk)(config, observations)
