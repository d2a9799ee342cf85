"""Between points of the cube and heatmaps over the three views, exactly in both directions.

Pixel coordinates are (u, v) = (column, row), continuous; a heatmap's pixel (row j, column i)
stands for the coordinate (i, j), as in the published code, whose renderer on the other hand puts
[i, i + 1) there. Labels and decoding agree with each other, so nothing is lost by it.

Shape letters: B rows (any leading axes where ... is written), V = 3 views, S side in pixels.

Source: SAM2Act (arXiv 2501.18564) after RVT (arXiv 2306.14896). The search over S^3 candidates
is separable: every candidate meets each view at half a pixel, so its score is a sum of three
numbers that depend on two coordinates each. No candidate grid is built.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from policies.sam2act.cloud import CubeFrame
from policies.sam2act.views import axes

SIGMA_PX = 1.5
"""Spread of a label (RVT)."""

TRUNCATE_SIGMA = 3.0
"""A label is zero beyond so many sigma (RVT)."""

_SCORES_AT_ONCE = 2**20
# Sums compared in one step of `decode`: 4 MB, about a processor's cache.


def project(points: Tensor, side: int) -> Tensor:
    """Returns where points are in each view, in continuous pixels.

    Args:
      points: [..., 3] in the cube frame.
      side: S.

    Returns:
      [..., V, 2]: (u, v). Within [0, S] for points of the cube.
    """
    views = [torch.stack(view[:2], dim=-1) for view in axes(points.unbind(dim=-1))]
    return torch.stack(views, dim=-2) * (side / 2) + side / 2


def pixel_m(frame: CubeFrame, side: int, factor: float = 1.0) -> float:
    """Returns the width of a view's pixel in metres of the scene, under a zoom by `factor`."""
    return frame.side_m / side / factor


def gaussian_labels(pixels: Tensor, side: int, sigma_px: float = SIGMA_PX) -> Tensor:
    """Returns the distributions to be learnt: cut-off Gaussians around pixels.

    Args:
      pixels: [..., 2] continuous (u, v), from `project`.
      side: S.
      sigma_px: Spread.

    Returns:
      float32 [..., S, S], zero beyond 3 sigma, sum 1; all zero where no pixel is that near, for
      targets far outside the view.
    """
    place = torch.arange(side, device=pixels.device, dtype=torch.float32)
    pixels = pixels.float()
    u = (place - pixels[..., :1]).square()
    v = (place - pixels[..., 1:]).square()
    square = v.unsqueeze(-1) + u.unsqueeze(-2)
    near = square <= (TRUNCATE_SIGMA * sigma_px) ** 2
    weight = torch.where(near, torch.exp(square / (-2 * sigma_px**2)), 0.0)
    return weight / weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns -sum(labels * log softmax(logits)) of each heatmap, in nats.

    Args:
      logits: [..., S, S]; a constant added to a heatmap changes nothing.
      labels: [..., S, S], as from `gaussian_labels`.

    Returns:
      float32 [...].
    """
    log_p = logits.flatten(-2).float().log_softmax(dim=-1)
    return -(labels.flatten(-2) * log_p).sum(dim=-1)


@torch.no_grad()
def decode(logits: Tensor) -> Tensor:
    """Returns the point of the cube that the three heatmaps agree on most.

    Each heatmap is brought to probabilities. Candidates are the centres of S^3 cells,
    -1 + (2 i + 1) / S; a candidate's score is the mean over views of the heatmap, read
    bilinearly where the candidate is seen, and 0 in a view that sees it beyond pixel S - 1.
    The best is found by a (max, +) product over the shared coordinate: S^3 sums, no gather.

    Args:
      logits: [B, V, S, S], views in the order of `policies.sam2act.views.VIEWS`.

    Returns:
      float32 [B, 3] in the cube frame. Of equal scores one of the first x, then y, is taken.
    """
    xy, yz, xz = _score_planes(logits)
    B, S, _ = xy.shape
    rows = max(1, _SCORES_AT_ONCE // (B * S * S))
    over_z = [(part.unsqueeze(2) + yz.unsqueeze(1)).amax(dim=-1) for part in xz.split(rows, dim=1)]
    best = (xy + torch.cat(over_z, dim=1)).flatten(1).argmax(dim=1)
    x = best // S
    y = best - x * S
    row = torch.arange(B, device=logits.device)
    z = (yz[row, y] + xz[row, x]).argmax(dim=1)
    return (2 * torch.stack((x, y, z), dim=1) + 1).float() / S - 1


def _score_planes(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns each view's share of a candidate's score: [B, x, y], [B, y, z] and [B, x, z]."""
    heat = logits.flatten(2).float().softmax(dim=-1).view_as(logits)
    # Half a pixel on is the middle of a 2x2 block. Nothing is half a pixel beyond the last one.
    block = heat[..., :-1, :-1] + heat[..., :-1, 1:] + heat[..., 1:, :-1] + heat[..., 1:, 1:]
    block = F.pad(block / 4, (0, 1, 0, 1))
    # A view's rows run down its axis and the right view's columns run down x.
    top, front, right = block.flip(-2).unbind(dim=1)
    xy, yz, xz = (plane.transpose(1, 2).contiguous() for plane in (top, front, right.flip(-1)))
    return xy, yz, xz
