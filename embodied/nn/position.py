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
      network: False gives the sinusoid itself, of width D.

    Source: MemoryVLA (arXiv 2508.19236), its released code; the paper mentions the sinusoid alone.
    """

    def __init__(
        self,
        width: int,
        features: int | None = None,
        scale_hz: float = 1.0,
        network: bool = True,
    ) -> None:
        super().__init__()
        self.mlp: nn.Sequential | None = None
        if scale_hz <= 0:
            raise ConfigError(f"time_scale_hz must be > 0, got {scale_hz}; 1 encodes seconds")
        self.scale_hz = scale_hz
        if not network:
            if features not in (None, width):
                raise ConfigError(
                    f"time_features={features} needs time_network=true: without the network the "
                    f"sinusoid is as wide as the stream, {width}"
                )
            self.features = width
            return
        self.features = max(2, width // 4) if features is None else features
        self.mlp = nn.Sequential(
            nn.Linear(self.features, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, time_s: Tensor) -> Tensor:
        """Encodes seconds [...] as [..., D]."""
        code = sinusoid(time_s * self.scale_hz, self.features)
        return code if self.mlp is None else self.mlp(code.to(self.mlp[0].weight.dtype))


class FourierFeatures(nn.Module):
    """A code of a point whose inner product with another's falls off with their distance.

    code(x) = sqrt(2) cos(W x + b), so that <code(x), code(y)> / features starts close to
    exp(-|x - y|^2 / (2 scale^2)): points nearer than `scale` are alike, others are not.
    Entries are of unit scale. W and b are learnt further.

    Args:
      inputs: P, coordinates of a point.
      features: Size of the code.
      scale: Distance within which points are alike, in the unit of the coordinates.

    Source: Random Features for Large-Scale Kernel Machines (Rahimi and Recht 2007).
    """

    def __init__(self, inputs: int, features: int, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, features)
        nn.init.normal_(self.linear.weight, std=1 / scale)
        nn.init.uniform_(self.linear.bias, 0.0, 2 * math.pi)

    def forward(self, point: Tensor) -> Tensor:
        """Encodes [..., P] as [..., features]."""
        # Angles of tens of radians need more digits than autocast's narrow floats have.
        with torch.autocast(point.device.type, enabled=False):
            return math.sqrt(2) * torch.cos(self.linear(point.to(self.linear.weight.dtype)))
