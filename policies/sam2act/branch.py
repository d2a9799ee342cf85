"""One branch, coarse or fine: trunk, heatmaps and, in the fine one, heads.

Shape letters: B rows, V views, P = B*V pictures, S view side in pixels, G token grid side,
D width of the features, L language tokens, E their width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor, nn

from embodied.core.errors import ConfigError
from policies.sam2act.heads import HeadOptions, Heads, pooled
from policies.sam2act.trunk import Trunk, TrunkOptions
from policies.sam2act.upsample import UpsampleOptions, Upsampler


@dataclasses.dataclass
class BranchOptions:
    """Sizes of a `Branch`.

    Attributes:
      side: S. Published: 224.
      patch: Pixels of a token's side; divides `side`. Published: 14.
      views: V.
      channels: Of a view's picture.
      trunk: Sizes of the trunk.
      upsample: Sizes of the upsampling.
      heads: Sizes of the heads.
    """

    side: int = 64
    patch: int = 8
    views: int = 3
    channels: int = 10
    trunk: TrunkOptions = dataclasses.field(default_factory=TrunkOptions)
    upsample: UpsampleOptions = dataclasses.field(default_factory=UpsampleOptions)
    heads: HeadOptions = dataclasses.field(default_factory=HeadOptions)

    def __post_init__(self) -> None:
        for name in ("side", "patch", "views", "channels"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.side % self.patch:
            raise ConfigError(f"patch={self.patch} must divide side={self.side}")

    @property
    def grid(self) -> int:
        """G."""
        return self.side // self.patch


class Branch(nn.Module):
    """From views to heatmaps, and to rotation, gripper and collision where it has heads.

    It is run in parts, so that a memory can stand between trunk and heatmaps.

    Args:
      options: Sizes.
      encoder: Side -> channels of the levels of the encoder, `Encoder.channels`.
      proprio: Numbers of proprioception.
      language: E.
      heads: Whether it has heads; the fine branch does.

    Attributes:
      trunk: Called with images [B, V, channels, S, S], the encoder's levels, proprioception
        [B, numbers] and language [B, L, E], it returns X [B, V, D, G, G].
      heads: Called with `features`, it returns a `HeadsOutput`; None without heads.

    Raises:
      ConfigError: For sizes that don't go together.

    Source: SAM2Act (arXiv 2501.18564).
    """

    def __init__(
        self,
        options: BranchOptions,
        encoder: Mapping[int, int],
        proprio: int,
        language: int,
        heads: bool,
    ) -> None:
        super().__init__()
        self.options, grid = options, options.grid
        if grid not in encoder:
            raise ConfigError(
                f"views of {options.side} px in patches of {options.patch} px have a grid of "
                f"{grid}x{grid} tokens, and the encoder's levels have sides {sorted(encoder)}: set "
                "encoder.image_size or patch so that one of them is the grid"
            )
        width = options.trunk.width
        self.trunk = Trunk(
            options.trunk,
            views=options.views,
            channels=options.channels,
            side=options.side,
            grid=grid,
            encoder=encoder[grid],
            proprio=proprio,
            language=language,
        )
        self.upsampler = Upsampler(options.upsample, width, grid, options.side, encoder)
        self.heads = Heads(2 * width * options.views, options.heads) if heads else None

    def heatmaps(self, features: Tensor, levels: Mapping[int, Tensor]) -> Tensor:
        """Returns logits, float32 [B, V, S, S].

        Args:
          features: X [B, V, D, G, G], or what a memory made of it.
          levels: Side -> [P, C, side, side], the encoder's.
        """
        heatmaps: Tensor = self.upsampler(features.flatten(0, 1), levels)
        return heatmaps.unflatten(0, features.shape[:2])

    def features(self, features: Tensor, waypoint_pixels: Tensor) -> Tensor:
        """Returns what the heads read, [B, V*2*D].

        Args:
          features: X [B, V, D, G, G].
          waypoint_pixels: float [B, V, 2]: column and row in pixels of each view, where the hand
            goes: the true place in training, else the decoded one. Beyond the last token's
            corner the place counts as unseen.
        """
        return pooled(features, waypoint_pixels, self.options.patch)
