"""PaliGemma as an encoder.

Shape letters: P pictures, S side of the pictures, G tokens along a side.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embodied.core.errors import ConfigError
from embodied.nn.encoders.vlm import Seen, VisionLanguage, VLMOptions


@dataclasses.dataclass
class PaliGemmaOptions(VLMOptions):
    """Options of `PaliGemma`."""

    image_size: int = 224


class PaliGemma(VisionLanguage):
    """PaliGemma or PaliGemma 2: SigLIP and a Gemma whose question is read in both directions.

    Source: PaliGemma (arXiv 2407.07726) section 3: the whole prefix attends to itself.
    """

    options_class = PaliGemmaOptions
    MODEL_TYPES = ("paligemma",)
    EXAMPLE = "google/paligemma-3b-pt-224"
    CAUSAL = False

    def _configure(self, folder: Path | None) -> Any:
        config = super()._configure(folder)
        # SigLIP's pooling head, which nothing reads.
        config.vision_config.vision_use_head = False
        return config

    def _grid(self, config: Any) -> int:
        vision, size = config.vision_config, self.options.image_size
        if size != vision.image_size or size % vision.patch_size:
            raise ConfigError(
                f"encoder.image_size={size} must be {vision.image_size}, as this model's, and a "
                f"multiple of its patches of {vision.patch_size} px"
            )
        return size // vision.patch_size

    def _see(self, pictures: Tensor) -> Seen:
        model = self.base.model
        pixels = self.normalize(pictures).to(self.dtype)
        visual = model.multi_modal_projector(model.vision_tower(pixels).last_hidden_state)
        return Seen(visual, visual)

    def _positions(self, batch: int, views: int, total: int, device: torch.device) -> Tensor:
        # PaliGemma counts from one.
        return super()._positions(batch, views, total, device) + 1
