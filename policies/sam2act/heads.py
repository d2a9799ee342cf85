"""What the fine branch says beside the place: rotation, gripper, and how to get there.

Shape letters: B rows, V views, D width, G token grid side, F = V*2*D width of the feature.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.position import sinusoid
from policies.sam2act.rotation import BINS

NOISE = (-2, 1)
"""Bins, both inclusive, that are added to the angles the later ones are told in training: as
published, not symmetric."""
FEATURE_NORMS = ("layer", "batch")


@dataclasses.dataclass
class HeadOptions:
    """Sizes of `Heads`.

    Attributes:
      hidden: Sizes of the two hidden layers of each head.
      feature_norm: What the rotation heads' feature goes through: ``"layer"``, or ``"batch"``
        (published), under which rows depend on each other in training.
    """

    hidden: list[int] = dataclasses.field(default_factory=lambda: [256, 128])
    feature_norm: str = "layer"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"heads.hidden must be sizes >= 1, got {self.hidden}")
        if self.feature_norm not in FEATURE_NORMS:
            raise unknown_name("heads.feature_norm", self.feature_norm, FEATURE_NORMS)


@dataclasses.dataclass
class HeadsOutput:
    """Logits.

    Attributes:
      rotation: [B, 3, 72] of the Euler angles x, y, z.
      gripper: [B, 2].
      collision: [B, 2].
    """

    rotation: Tensor
    gripper: Tensor
    collision: Tensor


def corner_weights(place: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the four whole places around each place, and what each weighs.

    Weights are inverse distances, normalised.

    Args:
      place: float [..., 2].

    Returns:
      float [..., 4, 2] whole numbers, and [..., 4] of sum 1.
    """
    (left, up), (right, down) = place.floor().unbind(-1), (place.floor() + 1).unbind(-1)
    ends = [(left, up), (right, up), (left, down), (right, down)]
    corners = torch.stack([torch.stack(end, dim=-1) for end in ends], dim=-2)
    a, b, c, d = torch.linalg.vector_norm(corners - place.unsqueeze(-2), dim=-1).unbind(-1)
    # 1/a over the sum of all: times the product of all distances, nothing divides by a distance
    # of zero, whose corner then weighs exactly 1.
    others = [b * c * d, a * c * d, a * b * d, a * b * c]
    weights = torch.stack(others, dim=-1)
    return corners, weights / weights.sum(dim=-1, keepdim=True)


def sample(features: Tensor, place: Tensor) -> Tensor:
    """Returns features between grid places, [B, V, D]; zero outside the grid.

    Args:
      features: [B, V, D, G, G].
      place: float [B, V, 2]: column and row, 0 .. G-1 within the grid.
    """
    grid = features.shape[-1]
    place = place.detach().float()
    corners, weights = corner_weights(place)
    inside = ((place >= 0) & (place <= grid - 1)).all(dim=-1, keepdim=True)
    # Where weights are zero, the index must still be one.
    column, row = corners.clamp(0, grid - 1).long().unbind(dim=-1)
    index = (row * grid + column).unsqueeze(2).expand(-1, -1, features.shape[2], -1)
    around = features.flatten(3).gather(3, index)
    weights = torch.where(inside, weights, torch.zeros_like(weights))
    return (around * weights.unsqueeze(2).to(around.dtype)).sum(dim=-1)


def pooled(features: Tensor, waypoint_pixels: Tensor, patch: int) -> Tensor:
    """Returns the feature that the heads read: of each view the maximum, and what is at a pixel.

    Args:
      features: X [B, V, D, G, G].
      waypoint_pixels: float [B, V, 2]: column and row in pixels of the view.
      patch: Pixels of a token's side.

    Returns:
      [B, V*2*D], view by view, the maximum first.

    Source: SAM2Act (arXiv 2501.18564), after RVT-2 (arXiv 2406.08545).
    """
    here = sample(features, waypoint_pixels / patch)
    return torch.cat([features.amax(dim=(-2, -1)), here], dim=-1).flatten(1)


def bin_code(bins: Tensor, width: int) -> Tensor:
    """Returns float32 [..., width]: sines, then cosines, of whole bins [...]; `width` is even."""
    cosines, sines = sinusoid(bins, width).chunk(2, dim=-1)
    return torch.cat([sines, cosines], dim=-1)


def teacher_noise(bins: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Returns int64 [B, 2] drawn from `NOISE`, for the angles x and y of `bins` [B, 3]."""
    low, high = NOISE
    device = bins.device if generator is None else generator.device
    drawn = torch.randint(low, high + 1, (len(bins), 2), generator=generator, device=device)
    return drawn.to(bins.device)


class Heads(nn.Module):
    """Gripper and collision from the feature; Euler angles one behind the other.

    Each angle is told those before it: the true ones with noise in training, else the likeliest
    ones of its own.

    Args:
      width: F, even.
      options: Sizes.

    Source: SAM2Act (arXiv 2501.18564), after RVT-2 (arXiv 2406.08545).
    """

    def __init__(self, width: int, options: HeadOptions) -> None:
        super().__init__()
        batch = options.feature_norm == "batch"
        self.norm: nn.Module = nn.BatchNorm1d(width) if batch else nn.LayerNorm(width)
        self.rest = _mlp(width, options.hidden, 4)
        self.angles = nn.ModuleList(_mlp(width, options.hidden, BINS) for _ in range(3))

    def forward(
        self, feature: Tensor, teacher_bins: Tensor | None = None, noise: Tensor | None = None
    ) -> HeadsOutput:
        """Returns logits.

        Args:
          feature: [B, F].
          teacher_bins: int64 [B, 3] in 0..71, the true angles; None takes its own.
          noise: int64 [B, 2], bins added to the true x and y; None adds none.

        Raises:
          ConfigError: For noise without true angles.
        """
        if noise is not None and teacher_bins is None:
            raise ConfigError("noise is added to teacher_bins, which are not given")
        teacher = None if teacher_bins is None else teacher_bins[:, :2]
        if teacher is not None and noise is not None:
            teacher = torch.remainder(teacher + noise, BINS)
        normed = self.norm(feature)
        logits = []
        for axis, head in enumerate(self.angles):
            logits.append(head(normed))
            if axis < 2:
                bins = logits[axis].argmax(dim=-1) if teacher is None else teacher[:, axis]
                normed = normed + bin_code(bins, feature.shape[-1]).to(normed.dtype)
        gripper, collision = self.rest(feature).chunk(2, dim=-1)
        return HeadsOutput(torch.stack(logits, dim=1), gripper, collision)


def _mlp(width: int, hidden: list[int], out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
