"""SmolVLM and Idefics3 as encoders.

Shape letters: P pictures, S side of the pictures, G tokens along a side.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from embodied.core.errors import ConfigError
from embodied.nn.encoders.vlm import Seen, VisionLanguage, VLMOptions


@dataclasses.dataclass
class SmolVLMOptions(VLMOptions):
    """Options of `SmolVLM`."""

    image_size: int = 512


class SmolVLM(VisionLanguage):
    """SmolVLM or Idefics3: SigLIP, joined blocks of patches, and a small language model.

    A picture is given whole, as one view, where the published processor also cuts it up.

    Source: SmolVLM (arXiv 2504.05299).
    """

    options_class = SmolVLMOptions
    MODEL_TYPES = ("smolvlm", "idefics3")
    EXAMPLE = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"

    def _grid(self, config: Any) -> int:
        vision, size = config.vision_config, self.options.image_size
        block = vision.patch_size * config.scale_factor
        if size % block or size > vision.image_size:
            raise ConfigError(
                f"encoder.image_size={size} must be a multiple of {block} (patches of "
                f"{vision.patch_size} px, {config.scale_factor} a side to a token) and at most "
                f"{vision.image_size}, which the model was made for"
            )
        self.patches = size // vision.patch_size
        return size // block

    @property
    def language(self) -> Any:
        """The language model."""
        return self.base.model.text_model

    def _see(self, pictures: Tensor) -> Seen:
        model = self.base.model
        # get_image_features() takes a picture that is all zero once it is normalised, which a
        # grey wall is, for padding and leaves it out. So its parts are called.
        whole = pictures.new_ones(len(pictures), self.patches, self.patches, dtype=torch.bool)
        pixels = self.normalize(pictures).to(self.dtype)
        hidden = model.vision_model.embeddings(pixel_values=pixels, patch_attention_mask=whole)
        hidden = model.vision_model.encoder(inputs_embeds=hidden).last_hidden_state
        visual = model.connector(model.vision_model.post_layernorm(hidden))
        return Seen(visual, visual)
