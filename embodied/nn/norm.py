"""Normalisation of maps."""

from __future__ import annotations

from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """A layer norm over the channels of each pixel of [R, C, H, W].

    Args:
      channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each pixel; the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
