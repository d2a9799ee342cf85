"""Sinusoids of a number (time, diffusion step) and the learned time encoding of memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError


def sinusoid(value: Tensor, features: int, longest: float = 10000.0) -> Tensor:
    """Returns cosines, then sines, of `value` at geometrically spaced frequencies.

    Args:
      value: [...] numbers of any real dtype.
      features: F >= 1; an odd F ends with one zero.
      longest: Ratio between the highest frequency (1 rad a unit) and the lowest.

    Returns:
      float32 [..., F].

    Source: MemoryVLA (arXiv 2508.19236), its released code (as in DiT).
    """
    half = features // 2
    exponents = torch.arange(half, dtype=torch.float32, device=value.device) / max(half, 1)
    angle_rad = value.float().unsqueeze(-1) * torch.exp(-math.log(longest) * exponents)
    parts = [torch.cos(angle_rad), torch.sin(angle_rad)]
    if features % 2:
        parts.append(torch.zeros_like(value, dtype=torch.float32).unsqueeze(-1))
    return torch.cat(parts, dim=-1)


class TimeEncoding(nn.Module):
    """Sinusoid of the episode time, then a two-layer SiLU perceptron.

    Args:
      width: D of the result.
      features: F of the sinusoid; None takes max(2, width // 4), the published ratio.
      scale_hz: Units a second. 1 encodes seconds; the control rate encodes frame indices,
        which is what MemoryVLA trains on.

    Source: MemoryVLA (arXiv 2508.19236), its released code; the paper mentions the sinusoid alone.
    """

    def __init__(self, width: int, features: int | None = None, scale_hz: float = 1.0) -> None:
        super().__init__()
        if scale_hz <= 0:
            raise ConfigError(f"time_scale_hz must be > 0, got {scale_hz}; 1 encodes seconds")
        self.features = max(2, width // 4) if features is None else features
        self.scale_hz = scale_hz
        self.mlp = nn.Sequential(
            nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, time_s: Tensor) -> Tensor:
        """Encodes seconds [...] as [..., D]."""
        code: Tensor = self.mlp(sinusoid(time_s * self.scale_hz, self.features))
        return code


def fourier(position: Tensor, octaves: int) -> Tensor:
    """Returns sines and cosines of coordinates in -1..1 at doubling frequencies.

    Args:
      position: [..., P].
      octaves: Frequencies pi/2, pi, 2 pi, ...; near positions get similar codes.

    Returns:
      [..., 2 * P * octaves].
    """
    rates = torch.pi / 2 * 2.0 ** torch.arange(octaves, device=position.device)
    angle = (position[..., None] * rates).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
