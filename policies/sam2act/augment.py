"""Random shifts and turns of a scene together with the poses that are to be predicted in it.

One move a sequence keeps memory and present in one frame; the published code draws one a step.
Everything is in the cube frame, where the box is [-1, 1].

Shape letters: B rows, T ticks, N points.

Source: SAM2Act (arXiv 2501.18564), its code: +-12.5 % of each side, +-45 degrees about the
action point, clamped so that the action stays in the box.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from embodied.core.errors import ConfigError
from policies.sam2act.cloud import Cloud, crop
from policies.sam2act.rotation import canonical, multiply, yaw_quat

_YAW_TRIES = 6
# Turns tried for a sequence whose targets don't fit the box: all of it, half, ... and none.


@dataclasses.dataclass(frozen=True)
class AugmentOptions:
    """How far a scene is moved.

    Attributes:
      translation: Largest shift along each axis as a fraction of the box's side.
      yaw_deg: Largest turn about the vertical, in degrees.
      per_tick: A move of its own for each tick, as published, instead of one a sequence.
      kept: Moves of each sequence, where outputs of frozen parts are kept on disk (stage 2).
    """

    translation: float = 0.125
    yaw_deg: float = 45.0
    per_tick: bool = False
    kept: int = 4

    def __post_init__(self) -> None:
        if self.kept < 1:
            raise ConfigError(f"augment.kept must be >= 1 move of each sequence, got {self.kept}")
        if not 0 <= self.translation <= 1:
            raise ConfigError(
                f"translation must be a fraction of the box in [0, 1], got {self.translation}"
            )
        if not 0 <= self.yaw_deg <= 180:
            raise ConfigError(f"yaw_deg must be within [0, 180] degrees, got {self.yaw_deg}")

    @property
    def copies(self) -> int:
        """Moves of each sequence that differ, where `kept`."""
        return self.kept if self.translation or self.yaw_deg else 1


@dataclasses.dataclass
class Move:
    """A rigid motion a tick: a turn about z, then a shift.

    Attributes:
      yaw_rad: float32 [B, T].
      shift: float32 [B, T, 3] in the cube frame; where the origin goes.
    """

    yaw_rad: Tensor
    shift: Tensor

    def points(self, points: Tensor) -> Tensor:
        """Returns moved points [B, T, ..., 3]."""
        middle = (1,) * (points.ndim - 3)
        B, T = self.yaw_rad.shape
        yaw = self.yaw_rad.reshape(B, T, *middle)
        shift = self.shift.reshape(B, T, *middle, 3)
        return _turn(points, yaw) + shift

    def quats(self, quat_xyzw: Tensor) -> Tensor:
        """Returns turned orientations [B, T, 4], w >= 0."""
        return canonical(multiply(yaw_quat(self.yaw_rad), quat_xyzw))


def draw(
    targets: Tensor, valid: Tensor, options: AugmentOptions, generator: torch.Generator
) -> Move:
    """Draws a move for each sequence (or each tick), after which its valid targets are in the box.

    Shifts are uniform and then clamped, turns uniform about the first valid target of the
    sequence (about each tick's own with `per_tick`). Where no shift can bring all targets of a
    turned sequence into the box, the turn is halved until one can. Targets that lie in the box
    beforehand can always be kept there.

    Args:
      targets: [B, T, 3] target positions in the cube frame.
      valid: [B, T] bool; targets of other ticks are not looked at, whatever they hold.
      options: How far.
      generator: Source of all randomness; may live on another device.
    """
    B, T = valid.shape
    if options.per_tick:
        each = dataclasses.replace(options, per_tick=False)
        move = draw(targets.reshape(B * T, 1, 3), valid.reshape(B * T, 1), each, generator)
        return Move(move.yaw_rad.view(B, T), move.shift.view(B, T, 3))
    dice = torch.rand(B, 4, generator=generator, device=generator.device) * 2 - 1
    dice = dice.to(targets.device)
    # The box is 2 across.
    shift = dice[:, :3] * (2 * options.translation)
    yaw = dice[:, 3] * math.radians(options.yaw_deg)

    mask = valid.unsqueeze(-1)
    targets = torch.where(mask, targets, 0.0).float()
    first = valid.int().argmax(dim=1)
    pivot = targets[torch.arange(B, device=valid.device), first]
    yaw = _largest_that_fits(yaw, targets, mask, pivot)
    around = pivot - _turn(pivot, yaw)
    low, high = _extent(_turn(targets, yaw[:, None]) + around[:, None], mask)
    shift = torch.minimum(torch.maximum(shift, -1 - low), 1 - high)
    # Without a turn or a shift this is exactly zero: the scene stays as it is, to the bit.
    return Move(yaw[:, None].expand(B, T), (around + shift)[:, None].expand(B, T, 3))


def augment(
    cloud: Cloud,
    targets: Tensor,
    quat_xyzw: Tensor,
    valid: Tensor,
    options: AugmentOptions,
    generator: torch.Generator,
) -> tuple[Cloud, Tensor, Tensor]:
    """Moves clouds and target poses of sequences; see `draw`.

    The clouds should come uncropped (`policies.sam2act.cloud.unproject`): they are cropped
    here, after the move, so that the faces of the box don't move with the scene. Clouds of
    ticks without a valid target move with their sequence.

    Args:
      cloud: xyz [B, T, N, 3], rgb [B, T, N, 3], valid [B, T, N].
      targets: [B, T, 3] in the cube frame.
      quat_xyzw: [B, T, 4].
      valid: [B, T] bool, whether a tick has a target.
      options: How far.
      generator: Source of all randomness.

    Returns:
      The moved, cropped cloud, positions and orientations; of invalid ticks zeros and no
      rotation, whatever came in.
    """
    move = draw(targets, valid, options, generator)
    moved = crop(dataclasses.replace(cloud, xyz=move.points(cloud.xyz)))
    mask = valid.unsqueeze(-1)
    positions = torch.where(mask, move.points(targets), 0.0)
    return moved, positions, canonical(torch.where(mask, move.quats(quat_xyzw), 0.0))


def _turn(points: Tensor, yaw_rad: Tensor) -> Tensor:
    """Turns points [..., 3] about z by angles [...]."""
    cos, sin = torch.cos(yaw_rad), torch.sin(yaw_rad)
    x, y, z = points.unbind(dim=-1)
    return torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=-1)


def _extent(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns least and largest coordinates [B, 3] of [B, T, 3] where `mask` [B, T, 1] is True.

    A row without any gives +inf and -inf, which bound nothing.
    """
    low = torch.where(mask, points, torch.inf).amin(dim=1)
    high = torch.where(mask, points, -torch.inf).amax(dim=1)
    return low, high


def _largest_that_fits(yaw: Tensor, targets: Tensor, mask: Tensor, pivot: Tensor) -> Tensor:
    """Returns `yaw` [B], halved until the turned targets are no wider apart than the box."""
    B, T, _ = targets.shape
    halvings = torch.arange(_YAW_TRIES, device=yaw.device)
    share = torch.where(halvings < _YAW_TRIES - 1, 0.5**halvings, 0.0)
    tried = yaw[:, None] * share
    turned = _turn(targets[:, None].expand(B, _YAW_TRIES, T, 3), tried[..., None])
    low, high = _extent(turned.flatten(0, 1), mask.repeat_interleave(_YAW_TRIES, dim=0))
    fits = ((high - low) <= 2.0).all(dim=-1).view(B, _YAW_TRIES)
    fits = fits | (share == 0)
    first = fits.int().argmax(dim=1, keepdim=True)
    return tried.gather(1, first)[:, 0]
