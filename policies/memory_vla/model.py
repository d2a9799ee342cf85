"""Trunks of MemoryVLA: observations to perceptual tokens with positions and a mask.

Shape letters: B rows, N tokens, D width, P position size, I instruction width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.entities import POSITION
from embodied.core.errors import SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.core.types import Observation
from embodied.nn.position import fourier
from embodied.nn.vision import ConvTrunk, grid_positions
from policies.memory_vla.config import MemoryVLAConfig

IMAGE_SUFFIX = "_image_u8"


@dataclasses.dataclass
class Perception:
    """What a trunk sees.

    Attributes:
      tokens: [B, N, D].
      positions: [B, N, P] where each token is: image coordinates or metres.
      mask: [B, N] bool; False on empty tokens.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor


class ImageTrunk(nn.Module):
    """One convolutional stem a camera; each camera is a perceptual stream of its own.

    Positions are (x, y, camera): the camera's index keeps views apart. A faint position
    code is part of the tokens, so that memory can be asked by place as well as by look; it
    starts small enough for equal things at different places to stay alike.

    Attributes:
      streams: Camera name -> number of tokens, in the order of the concatenated tokens.
    """

    OCTAVES = 3

    def __init__(self, config: MemoryVLAConfig, observations: dict[str, ArraySpec]) -> None:
        super().__init__()
        keys = sorted(key for key in observations if key.endswith(IMAGE_SUFFIX))
        if not keys:
            raise SpecMismatch(
                "the conv trunk needs camera images (keys ending in _image_u8); offered: "
                f"{', '.join(sorted(observations))}. Use observation=rgb or trunk=entities"
            )
        self.inputs = {key: observations[key] for key in keys}
        self.cameras = nn.ModuleDict()
        self.streams: dict[str, int] = {}
        positions = []
        for index, key in enumerate(keys):
            height, width, _ = observations[key].shape
            if height != width:
                raise SpecMismatch(f"{key}: expected a square image, got {height}x{width}")
            stem = ConvTrunk(height, config.width, tuple(config.channels), config.blocks)
            self.cameras[key] = stem
            self.streams[key.removesuffix(IMAGE_SUFFIX)] = stem.tokens
            place = torch.full((stem.tokens, 1), index - (len(keys) - 1) / 2)
            positions.append(torch.cat([grid_positions(stem.grid), place], dim=-1))
        self.register_buffer("positions", torch.cat(positions), persistent=False)
        code = fourier(self.positions, self.OCTAVES)
        self.register_buffer("code", code, persistent=False)
        self.place = nn.Linear(code.shape[-1], config.width, bias=False)
        # 0.1: about a third of a normalised token's length.
        nn.init.normal_(self.place.weight, std=0.1)

    def set_statistics(self, mean_images: dict[str, Tensor]) -> None:
        """Sets each camera's mean image, float [3, H, W] in 0..1."""
        for key, stem in self.cameras.items():
            stem.set_mean_image(mean_images[key])

    def forward(self, obs: Observation) -> Perception:
        """Encodes uint8 [B, H, W, 3] images."""
        tokens = torch.cat([stem(obs[key]) for key, stem in self.cameras.items()], dim=1)
        tokens = tokens + self.place(self.code)
        positions = self.positions.expand(tokens.shape[0], -1, -1)
        return Perception(tokens, positions, torch.ones_like(tokens[..., 0], dtype=torch.bool))


class EntityTrunk(nn.Module):
    """Encodes the table of entities of the ``state`` observation, one token an entity.

    Attributes:
      streams: ``"entities"`` -> number of tokens.
    """

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
        width = config.width
        self.embed = nn.Sequential(
            nn.Linear(features, 2 * width),
            nn.GELU(),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )

    def set_statistics(self, mean_images: dict[str, Tensor]) -> None:
        """Entities are in metres and unit colours already: nothing to set."""

    def forward(self, obs: Observation) -> Perception:
        """Encodes float [B, 32, F] entities with their mask."""
        entities, mask = obs[self.KEY], obs[self.MASK]
        tokens = self.embed(entities) * mask[..., None]
        return Perception(tokens, entity_positions(entities), mask)


def entity_positions(entities: Tensor) -> Tensor:
    """Returns the world position [B, N, 3] in metres, scaled so that a table spans about 1."""
    return entities[..., POSITION] * 2.0


TRUNKS: dict[str, type[ImageTrunk] | type[EntityTrunk]] = {
    "conv": ImageTrunk,
    "entities": EntityTrunk,
}
