"""Qwen's vision-language models as encoders.

Shape letters: P pictures, B rows, C views, S side of the pictures, G tokens along a side,
N = G*G tokens a view, M patches along a side of a token, T tokens of the whole sequence.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied.core.errors import ConfigError
from embodied.extras import named_extras
from embodied.nn.encoders.vlm import Seen, VisionLanguage, VLMOptions


@dataclasses.dataclass
class Qwen25VLOptions(VLMOptions):
    """Options of `Qwen25VL`."""

    image_size: int = 224


@dataclasses.dataclass
class Qwen3VLOptions(VLMOptions):
    """Options of `Qwen3VL`."""

    image_size: int = 256


class _QwenVL(VisionLanguage):
    """What both have in common: joined patches, and positions along time, height and width.

    The vision encoder takes pictures as a list of patches, the M*M patches of a token in a row,
    so its tokens come out row by row. What it would work out for each list of pictures, mostly
    on the host, is the same for every picture of one size: it is worked out once.
    """

    ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "attn.qkv", "attn.proj")
    places: Tensor

    def _grid(self, config: Any) -> int:
        vision, size = config.vision_config, self.options.image_size
        block = vision.patch_size * vision.spatial_merge_size
        if size % block:
            raise ConfigError(
                f"encoder.image_size={size} must be a multiple of {block} (patches of "
                f"{vision.patch_size} px, {vision.spatial_merge_size} a side to a token)"
            )
        self._plan(vision, size // vision.patch_size)
        return size // block

    def _plan(self, vision: Any, side: int) -> None:
        """Keeps what the vision encoder asks of one picture of `side` x `side` patches."""
        with named_extras():
            from transformers.vision_utils import get_vision_position_ids
        # On the host, as the vision encoder reads sizes back from it.
        self.picture = torch.tensor([[1, side, side]], device="cpu")
        places = get_vision_position_ids(self.picture, vision.spatial_merge_size)
        self.register_buffer("places", places, persistent=False)

    def _planned(self, pictures: int) -> dict[str, Any]:
        """Returns the same of several pictures, by the names of the vision encoder.

        Where the parts end that attend to themselves is an array of numpy: the vision encoder
        makes a list of it, which it could not of a tensor while a graph is traced.
        """
        return {
            "position_ids": self.places.repeat(pictures, 1),
            "cu_seqlens": np.arange(pictures + 1) * len(self.places),
        }

    def _patches(self, pictures: Tensor) -> Tensor:
        """Returns the patches of pictures as rows, those of a token behind one another."""
        vision = self.base.model.visual.config
        patch, merge = vision.patch_size, vision.spatial_merge_size
        shape = (len(pictures), 3, self.grid, merge, patch, self.grid, merge, patch)
        # To picture, row, column, row and column inside a token, channel, pixels.
        cut = pictures.reshape(shape).permute(0, 2, 5, 3, 6, 1, 4, 7)
        # The frames of a patch of video: a picture stands still.
        frames = cut.unsqueeze(6).expand(*[-1] * 6, vision.temporal_patch_size, -1, -1)
        return frames.flatten(0, 4).flatten(1)

    def _see(self, pictures: Tensor) -> Seen:
        pixels = self._patches(self.normalize(pictures).to(self.dtype))
        count = len(pictures)
        seen = self.base.model.visual(
            pixels, grid_thw=self.picture.expand(count, -1), **self._planned(count)
        )
        visual = seen.pooler_output.unflatten(0, (count, -1))
        return Seen(visual, visual, list(getattr(seen, "deepstack_features", None) or []))

    def _positions(self, batch: int, views: int, total: int, device: torch.device) -> Tensor:
        """Returns [3, B, T]: a view's tokens share a time, text counts on in all three."""
        grid = torch.arange(self.grid, device=device)
        rows, columns = grid.repeat_interleave(self.grid), grid.repeat(self.grid)
        view = torch.stack([torch.zeros_like(rows), rows, columns])
        starts = self.grid * torch.arange(views, device=device)
        seen = (view[:, None] + starts[:, None]).flatten(1)
        text = torch.arange(total - seen.shape[1], device=device) + views * self.grid
        return torch.cat([seen, text.expand(3, -1)], dim=1)[:, None].expand(-1, batch, -1)


class Qwen25VL(_QwenVL):
    """Qwen2.5-VL: a vision encoder that mostly attends in windows.

    Source: Qwen2.5-VL (arXiv 2502.13923) section 2.1; the channels' statistics are CLIP's, as
    its image processor has them.
    """

    options_class = Qwen25VLOptions
    MODEL_TYPES = ("qwen2_5_vl",)
    EXAMPLE = "Qwen/Qwen2.5-VL-3B-Instruct"
    MEAN = (0.48145466, 0.4578275, 0.40821073)
    STD = (0.26862954, 0.26130258, 0.27577711)
    window_order: Tensor

    def _plan(self, vision: Any, side: int) -> None:
        super()._plan(vision, side)
        from transformers.vision_utils import get_vision_window_index

        order, ends = get_vision_window_index(
            self.picture, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        self.register_buffer("window_order", order, persistent=False)
        self.window_ends = ends[1:].numpy()

    def _planned(self, pictures: int) -> dict[str, Any]:
        planned = super()._planned(pictures)
        starts = planned["cu_seqlens"][:-1, None]
        ends = (starts + self.window_ends).flatten()
        first = torch.arange(pictures, device=self.window_order.device) * len(self.window_order)
        return planned | {
            "window_index": (first[:, None] + self.window_order).flatten(),
            "cu_window_seqlens": np.concatenate([[0], ends]),
        }


class Qwen3VL(_QwenVL):
    """Qwen3-VL: layers of the vision encoder also feed the first layers of the language model.

    The visual tokens are those of the vision encoder's end.

    Source: Qwen3-VL (arXiv 2511.21631); the channels' statistics are one half, as its
    preprocessor_config.json has them.
    """

    options_class = Qwen3VLOptions
    MODEL_TYPES = ("qwen3_vl",)
    EXAMPLE = "Qwen/Qwen3-VL-2B-Instruct"
    corners: Tensor
    shares: Tensor

    def _plan(self, vision: Any, side: int) -> None:
        super()._plan(vision, side)
        from transformers.vision_utils import get_vision_interpolation_indices_and_weights

        corners, shares = get_vision_interpolation_indices_and_weights(
            self.picture,
            num_grid_per_side=int(vision.num_position_embeddings**0.5),
            mode="bilinear",
            align_corners=True,
            spatial_merge_size=vision.spatial_merge_size,
        )
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("shares", shares, persistent=False)

    def _planned(self, pictures: int) -> dict[str, Any]:
        return super()._planned(pictures) | {
            "interp_indices": self.corners.repeat(pictures, 1),
            "interp_weights": self.shares.repeat(pictures, 1),
        }
