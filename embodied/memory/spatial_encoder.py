"""Memory encoder: one stored map out of a view's features and the heatmap predicted for it.

Source: SAM 2 (arXiv 2408.00714), section 4 and appendix, as used by SAM2Act+ (arXiv 2501.18564).

Shape letters: R rows (batch times streams), G side of the token map, N = G * G tokens, D width,
C width of stored tokens, S side of the heatmap in pixels, X channels inside.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.nn.norm import LayerNorm2d

STRIDE = 16
"""Pixels of the mask to a token, a side: four convolutions of stride 2."""
MASK_SCALE, MASK_SHIFT = 20.0, -10.0
"""What SAM 2 does to the sigmoid of mask logits before they are encoded."""
LAYER_SCALE = 1.0e-6
"""Start of the weight of each ConvNeXt branch."""
NORM_EPS = 1.0e-6
TEMPERATURE = 10_000.0
"""Ratio between the highest and the lowest frequency of the positional code."""


def sine_code(side: int, width: int) -> Tensor:
    """Returns the sinusoidal code of each token's row, then of its column; float32 [N, width].

    Rows and columns count from 1 and are scaled to 2 pi at the last; sines and cosines take
    turns. Where `width` is no multiple of 4, the channels left over are zero.

    Source: DETR (arXiv 2005.12872), as in SAM 2.
    """
    features = 2 * (width // 4)
    place = 2 * math.pi * torch.arange(1, side + 1, dtype=torch.float32) / (side + 1e-6)
    pair = torch.arange(features // 2, dtype=torch.float32)
    angle_rad = place[:, None] / TEMPERATURE ** (2 * pair / max(features, 1))
    axis = torch.stack([angle_rad.sin(), angle_rad.cos()], dim=-1).flatten(1)
    row = axis[:, None].expand(side, side, features)
    column = axis[None].expand(side, side, features)
    code = torch.cat([row, column], dim=-1).reshape(side * side, 2 * features)
    return F.pad(code, (0, width - 2 * features))


class MaskDownsampler(nn.Sequential):
    """Brings a mask [R, 1, 16 G, 16 G] to [R, D, G, G].

    Four 3x3 convolutions of stride 2, each with a norm and a GELU, 1 to 256 channels, and a 1x1
    convolution.
    """

    def __init__(self, width: int) -> None:
        parts: list[nn.Module] = []
        channels = 1
        for _ in range(int(math.log2(STRIDE))):
            conv = nn.Conv2d(channels, 4 * channels, kernel_size=3, stride=2, padding=1)
            parts += [conv, LayerNorm2d(4 * channels), nn.GELU()]
            channels *= 4
        super().__init__(*parts, nn.Conv2d(channels, width, kernel_size=1))


class ConvNeXtBlock(nn.Module):
    """x + scale * (Linear, GELU, Linear)(norm(7x7 depth-wise convolution of x)).

    Source: ConvNeXt (arXiv 2201.03545), as in SAM 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel_size=7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, maps: Tensor) -> Tensor:
        """Returns [R, D, G, G]."""
        inner = self.norm(self.depthwise(maps).permute(0, 2, 3, 1))
        inner = self.scale * self.narrow(F.gelu(self.widen(inner)))
        return maps + inner.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """Projected features plus the downsampled mask, ConvNeXt blocks, a 1x1 convolution.

    Args:
      side: G.
      width: D.
      entry_width: C.
      blocks: Number of ConvNeXt blocks.
    """

    def __init__(self, side: int, width: int, entry_width: int, blocks: int) -> None:
        super().__init__()
        self.side = side
        self.mask = MaskDownsampler(width)
        self.features = nn.Conv2d(width, width, kernel_size=1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(blocks)))
        self.out = nn.Conv2d(width, entry_width, kernel_size=1)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        """Encodes what is stored.

        Args:
          features: [R, N, D] tokens of the view, row-major.
          logits: [R, S, S] heatmap logits of the view, or [1, S, S] for all rows. Resized to
            16 G where S is another.

        Returns:
          [R, N, C], without any code of place or time.
        """
        pixels = STRIDE * self.side
        maps = logits[:, None]
        if maps.shape[-1] != pixels:
            maps = F.interpolate(maps, size=(pixels, pixels), mode="bilinear", align_corners=False)
        mask = self.mask(torch.sigmoid(maps) * MASK_SCALE + MASK_SHIFT)
        grid = features.transpose(1, 2).unflatten(2, (self.side, self.side))
        entry = self.out(self.blocks(self.features(grid) + mask))
        stored: Tensor = entry.flatten(2).transpose(1, 2)
        return stored
