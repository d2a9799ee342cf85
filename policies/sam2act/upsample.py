"""Learned upsampling of the trunk's tokens to heatmaps, with the encoder's finer levels.

Shape letters: P pictures (rows times views), C channels, H W pixels, r ratio, G token grid side,
S view side in pixels, D width of the trunk's result.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.nn.norm import LayerNorm2d
from embodied.nn.precision import at_least_float32

NEIGHBOURS = 9
MASK_SCALE = 0.1
"""Of the logits of the nine weights. Source: RAFT (arXiv 2003.12039), which balances gradients
so (there 0.25), with the value of RVT-2 (arXiv 2406.08545)."""
SLOPE = 0.02
"""Of every leaky ReLU of a branch. Source: RVT (arXiv 2306.14896)."""


@dataclasses.dataclass
class UpsampleOptions:
    """Sizes of an `Upsampler`.

    Attributes:
      widths: Channels behind each doubling, the coarsest first; where the encoder has a level of
        that side, its `EncoderOptions.level_widths` must be the same.
      inner: Channels inside a `ConvexUp` over those that go in: 2 is published, 1 is small.
    """

    widths: list[int] = dataclasses.field(default_factory=lambda: [64, 32])
    inner: int = 1

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"upsample.widths must be sizes >= 1, got {self.widths}")
        if self.inner < 1:
            raise ConfigError(f"upsample.inner must be >= 1, got {self.inner}")


def convex_combine(values: Tensor, weights: Tensor) -> Tensor:
    """Upsamples: each sub-pixel is a weighted sum of the nine pixels around its own.

    Args:
      values: [P, C, H, W]; zero outside.
      weights: [P, 9, r, r, H, W]: neighbours row by row (the middle one is the fifth), then row
        and column of the sub-pixel.

    Returns:
      [P, C, rH, rW].
    """
    height, width = values.shape[2:]
    ratio = weights.shape[2]
    # Channels last, the nine neighbours of each pixel side by side: one matrix product a pixel.
    padded = F.pad(values.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    shifts = itertools.product(range(3), range(3))
    around = torch.stack([padded[:, y : y + height, x : x + width] for y, x in shifts], dim=3)
    fine = weights.flatten(2, 3).permute(0, 3, 4, 2, 1) @ around
    fine = fine.unflatten(3, (ratio, ratio)).permute(0, 1, 3, 2, 4, 5)
    return fine.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class ConvexUp(nn.Module):
    """Upsampling whose weights, non-negative and of sum 1, are read from the map itself.

    Args:
      width_in: Channels in.
      width: Channels out.
      ratio: r.
      inner: Channels in between over `width_in`.

    Source: RAFT (arXiv 2003.12039), with a network for values, of RVT-2 (arXiv 2406.08545).
    """

    def __init__(self, width_in: int, width: int, ratio: int = 2, inner: int = 2) -> None:
        super().__init__()
        self.ratio, hidden = ratio, inner * width_in
        self.value = nn.Sequential(
            nn.Conv2d(width_in, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 3, padding=1),
        )
        self.mask = nn.Sequential(
            nn.Conv2d(width_in, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, NEIGHBOURS * ratio**2, 1),
        )

    def weights(self, x: Tensor) -> Tensor:
        """Returns the weights [P, 9, r, r, H, W] of `convex_combine`, for [P, C, H, W]."""
        logits = MASK_SCALE * self.mask(x)
        return logits.unflatten(1, (NEIGHBOURS, self.ratio, self.ratio)).softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [P, C, H, W] to [P, width, rH, rW]."""
        return convex_combine(self.value(x), self.weights(x))


class Upsampler(nn.Module):
    """Doubles the token grid, adding the encoder's level of that side if it has one; then heatmaps.

    Doublings go on while there is a width for them and they don't go beyond S/2. What is still
    missing to S/2 is bilinear; the last doubling gives the heatmap. So 16 -> 32 -> 64 -> 112 ->
    224 as published, 8 -> 16 -> 32 -> 64, and 8 -> 16 -> 32 -> 64 (bilinear) -> 128.

    It computes in float32 under autocast too: the heatmap's softmax is over all pixels.

    Args:
      options: Sizes.
      width: D.
      grid: G.
      side: S.
      levels: Side -> channels of the levels of the encoder.

    Raises:
      ConfigError: For sizes that don't go together.

    Source: SAM2Act (arXiv 2501.18564), its multi-resolution upsampling.
    """

    def __init__(
        self,
        options: UpsampleOptions,
        width: int,
        grid: int,
        side: int,
        levels: Mapping[int, int],
    ) -> None:
        super().__init__()
        if side % 2 or grid < 1 or 2 * grid > side:
            raise ConfigError(
                f"a heatmap's side must be even and at least twice the token grid's {grid}, got "
                f"{side}: choose another side or patch"
            )
        self.half = side // 2
        self.steps, self.norms = nn.ModuleList(), nn.ModuleList()
        self.sides: list[int] = []
        self.skips: list[bool] = []
        for channels in options.widths:
            if 2 * grid > self.half:
                break
            grid *= 2
            if levels.get(grid, channels) != channels:
                raise ConfigError(
                    f"the encoder's level of side {grid} has {levels[grid]} channels, and "
                    f"upsample.widths has {channels} there: set encoder.level_widths to the same"
                )
            self.steps.append(ConvexUp(width, channels, inner=options.inner))
            self.norms.append(LayerNorm2d(channels))
            self.sides.append(grid)
            self.skips.append(grid in levels)
            width = channels
        self.resized = grid != self.half
        self.last = ConvexUp(width, 1, inner=options.inner)

    def forward(self, features: Tensor, levels: Mapping[int, Tensor]) -> Tensor:
        """Returns heatmap logits.

        Args:
          features: [P, D, G, G].
          levels: Side -> [P, C, side, side].

        Returns:
          float32 [P, S, S], or float64 where the weights are.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = at_least_float32(features)
            for step, norm, side, skip in zip(
                self.steps, self.norms, self.sides, self.skips, strict=True
            ):
                x = step(x)
                if skip:
                    x = x + at_least_float32(levels[side])
                x = F.leaky_relu(norm(x), SLOPE)
            if self.resized:
                x = F.interpolate(x, (self.half, self.half), mode="bilinear", align_corners=False)
            heatmaps: Tensor = self.last(x)[:, 0]
            return heatmaps
