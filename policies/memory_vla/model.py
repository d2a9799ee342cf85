"""Trunks of MemoryVLA: observations to perceptual tokens with positions and a mask.

The channels of a token come in quarters: two of shape, one of colour, one of place. With four
heads, a memory that compares channels can be asked by each of them alone.

Shape letters: B rows, N tokens, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.entities import COLOR, POSITION
from embodied.core.errors import SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.core.types import Observation
from embodied.nn.position import FourierFeatures
from embodied.nn.vision import ConvTrunk, meet_plane
from policies.memory_vla.config import MemoryVLAConfig

IMAGE, INTRINSICS, CAM_TO_WORLD = "_image_u8", "_intrinsics", "_cam_to_world"
NEAR_M = 0.1
"""Places nearer than this are alike; about the distance of two image tokens."""


@dataclasses.dataclass
class Perception:
    """What a trunk sees.

    Attributes:
      tokens: [B, N, D].
      positions: [B, N, 3] where in the world each token is, in metres.
      mask: [B, N] bool; False on empty tokens.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor


class ImageTrunk(nn.Module):
    """One convolutional stem a camera; each camera is a perceptual stream of its own.

    Cameras are calibrated: a token is where the ray through what stands out in its patch meets
    the plane of the lowest place that the hand reached in the data. So tokens of all cameras,
    of a moving one too, stand for places in one world, which is where actions happen.

    Attributes:
      streams: Camera name -> number of tokens, in the order of the concatenated tokens.
    """

    REACH_M = 0.08
    """How far from its place a token may propose a goal: the table is full of tokens."""

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__()
        names = sorted(k.removesuffix(IMAGE) for k in observations if k.endswith(IMAGE))
        if not names:
            raise SpecMismatch(
                "the conv trunk needs camera images (keys ending in _image_u8); offered: "
                f"{', '.join(sorted(observations))}. Use observation=rgb or trunk=entities"
            )
        keys = [name + part for name in names for part in (IMAGE, INTRINSICS, CAM_TO_WORLD)]
        missing = [key for key in keys if key not in observations]
        if missing:
            raise SpecMismatch(
                "the conv trunk needs calibrated cameras; missing: "
                f"{', '.join(missing)}. Collect the data again with this version"
            )
        self.inputs = {key: observations[key] for key in keys}
        self.cameras = nn.ModuleDict()
        self.streams: dict[str, int] = {}
        for name in names:
            height, width, _ = observations[name + IMAGE].shape
            if height != width:
                raise SpecMismatch(f"{name}{IMAGE}: expected a square image, got {height}x{width}")
            half, quarter = config.width // 2, config.width // 4
            stem = ConvTrunk(height, half, quarter, tuple(config.channels), config.blocks)
            self.cameras[name] = stem
            self.streams[name] = stem.tokens
        self.register_buffer("plane_z_m", torch.zeros(()))
        self.place = FourierFeatures(3, config.width // 4, NEAR_M)

    def set_statistics(self, mean_images: dict[str, Tensor], lowest_m: Tensor) -> None:
        """Sets each camera's mean image, float [3, H, W] in 0..1, and the lowest hand [3]."""
        for name, stem in self.cameras.items():
            stem.set_mean_image(mean_images[name + IMAGE])
        self.plane_z_m.copy_(lowest_m[2])

    def forward(self, obs: Observation) -> Perception:
        """Encodes uint8 [B, H, W, 3] images."""
        tokens, positions = [], []
        for name, stem in self.cameras.items():
            look, pixels = stem(obs[name + IMAGE])
            tokens.append(look)
            intrinsics, pose = obs[name + INTRINSICS], obs[name + CAM_TO_WORLD]
            positions.append(meet_plane(pixels, intrinsics, pose, self.plane_z_m))
        places = torch.cat(positions, dim=1)
        looks = torch.cat(tokens, dim=1)
        seen = torch.cat([looks, self.place(places).to(looks.dtype)], dim=-1)
        return Perception(seen, places, torch.ones_like(seen[..., 0], dtype=torch.bool))


class EntityTrunk(nn.Module):
    """Encodes the table of entities of the ``state`` observation, one token an entity.

    Attributes:
      streams: ``"entities"`` -> number of tokens.
    """

    REACH_M = 0.3
    """As far as the hand goes with a thing while it acts on it; the longest is a drawer's way."""
    KEY, MASK = "entities", "entities_mask"

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__()
        if self.KEY not in observations:
            raise SpecMismatch(
                "the entities trunk needs the key 'entities'; offered: "
                f"{', '.join(sorted(observations))}. Use observation=state or trunk=conv"
            )
        self.inputs = {key: observations[key] for key in (self.KEY, self.MASK)}
        tokens, features = observations[self.KEY].shape
        self.streams = {self.KEY: tokens}
        half, quarter = config.width // 2, config.width // 4
        self.embed = nn.Sequential(
            nn.Linear(features, 4 * half), nn.GELU(), nn.Linear(4 * half, half), nn.LayerNorm(half)
        )
        self.color = FourierFeatures(3, quarter, ConvTrunk.ALIKE)
        self.place = FourierFeatures(3, quarter, NEAR_M)

    def set_statistics(self, mean_images: dict[str, Tensor], lowest_m: Tensor) -> None:
        """Entities are in metres and unit colours already: nothing to set."""

    def forward(self, obs: Observation) -> Perception:
        """Encodes float [B, 32, F] entities with their mask."""
        entities, mask = obs[self.KEY], obs[self.MASK]
        places = entities[..., POSITION]
        codes = [self.embed(entities), self.color(entities[..., COLOR]), self.place(places)]
        tokens = torch.cat([code.to(codes[0].dtype) for code in codes], dim=-1)
        return Perception(tokens * mask[..., None], places, mask)


TRUNKS: dict[str, type[ImageTrunk] | type[EntityTrunk]] = {
    "conv": ImageTrunk,
    "entities": EntityTrunk,
}
