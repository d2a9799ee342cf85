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
    EXAMPLE = "HuggingFaceTB/SmolVLM-256M-Instruct"
    places: Tensor

    def _grid(self, config: Any) -> int:
        vision, size = config.vision_config, self.options.image_size
        block = vision.patch_size * config.scale_factor
        if size % block or size > vision.image_size:
            raise ConfigError(
                f"encoder.image_size={size} must be a multiple of {block} (patches of "
                f"{vision.patch_size} px, {config.scale_factor} a side to a token) and at most "
                f"{vision.image_size}, which the model was made for"
            )
        places = _places(vision.image_size // vision.patch_size, size // vision.patch_size)
        self.register_buffer("places", places, persistent=False)
        return size // block

    @property
    def language(self) -> Any:
        """The language model."""
        return self.base.model.text_model

    def _see(self, pictures: Tensor) -> Seen:
        model = self.base.model
        # get_image_features() takes a picture that is all zero once it is normalised, which a
        # grey wall is, for padding and leaves it out. So its parts are called. Which patch is
        # where it would find out for each picture, in a way that no graph of ONNX has.
        embeddings = model.vision_model.embeddings
        patches = embeddings.patch_embedding(self.normalize(pictures).to(self.dtype))
        hidden = patches.flatten(2).transpose(1, 2) + embeddings.position_embedding(self.places)
        hidden = model.vision_model.encoder(inputs_embeds=hidden).last_hidden_state
        visual = model.connector(model.vision_model.post_layernorm(hidden))
        return Seen(visual, visual)


def _places(learnt: int, patches: int) -> Tensor:
    """Returns the position of each of `patches` x `patches`, row by row.

    Args:
      learnt: Positions along a side that the model has.
      patches: Patches along a side of a picture, which are spread over them.
    """
    # In float32, since its rounding says where a patch between two positions goes.
    start = torch.arange(patches, dtype=torch.float32) * (1.0 / torch.tensor(patches))
    ends = torch.arange(1 / learnt, 1.0, 1 / learnt)
    index = torch.bucketize(start.clamp(max=1.0 - 1e-6), ends, right=True)
    return (index[:, None] * learnt + index).flatten()
