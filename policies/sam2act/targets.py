"""What a segment teaches: the next keyframe of each tick, in scenes moved at random.

Shape letters: B rows, T decision ticks, R rows of the flattened batch that are worth computing.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from embodied.core.types import Segment
from policies.sam2act.augment import Move
from policies.sam2act.cloud import CubeFrame
from policies.sam2act.rotation import quat_to_bins


@dataclasses.dataclass
class Targets:
    """What is to be learnt from the rows of a segment, in scenes moved at random.

    Attributes:
      rows: int64 [R] of the flattened [B, T].
      move: How each row's scene is moved, [1, R].
      point: [R, 3] in the cube frame, zero where none is known.
      bins: int64 [R, 3] of the Euler angles.
      gripper_closed: int64 [R], 1 where the gripper is closed there.
      ignore_collision: int64 [R], 1 where collisions are ignored on the way.
      weight: bool [R], rows that count.
    """

    rows: Tensor
    move: Move
    point: Tensor
    bins: Tensor
    gripper_closed: Tensor
    ignore_collision: Tensor
    weight: Tensor

    def at(self, tensor: Tensor) -> Tensor:
        """Returns the rows of a tensor [B, T, ...]."""
        return tensor.flatten(0, 1)[self.rows]

    def only(self, keep: Tensor) -> Targets:
        """Returns some of the rows, by index."""
        move = Move(self.move.yaw_rad[:, keep], self.move.shift[:, keep])
        rest = ("rows", "point", "bins", "gripper_closed", "ignore_collision", "weight")
        return Targets(move=move, **{name: getattr(self, name)[keep] for name in rest})


def target_points(segment: Segment, acts: Tensor, frame: CubeFrame) -> Tensor:
    """Returns where the hand goes next, [B, T, 3] in the cube frame; zero where nowhere.

    Args:
      segment: With ``extras["keyframe"]`` [B, T, 9]: position in the world (m), quaternion xyzw,
        gripper (> 0 closed), ignore_collision (> 0.5 straight).
      acts: bool [B, T]; ticks that have a target.
      frame: The scene box.
    """
    return torch.where(acts[..., None], frame.to_cube(segment.extras["keyframe"][..., :3]), 0.0)


def make_targets(
    segment: Segment, acts: Tensor, rows: Tensor, frame: CubeFrame, move: Move
) -> Targets:
    """Moves the targets of a segment with its scenes.

    Args:
      segment: See `target_points`.
      acts: bool [B, T]; ticks that have a target.
      rows: int64 [R] of the flattened [B, T].
      frame: The scene box.
      move: How the scenes of [B, T] are moved.
    """
    keyframe = segment.extras["keyframe"]

    def at(tensor: Tensor) -> Tensor:
        return tensor.flatten(0, 1)[rows]

    moved = Move(at(move.yaw_rad)[None], at(move.shift)[None])
    return Targets(
        rows=rows,
        move=moved,
        point=moved.points(at(target_points(segment, acts, frame))[None])[0],
        bins=quat_to_bins(moved.quats(at(keyframe[..., 3:7])[None])[0]),
        gripper_closed=(at(keyframe[..., 7]) > 0).long(),
        ignore_collision=(at(keyframe[..., 8]) > 0.5).long(),
        weight=at(acts),
    )


def count_ticks(count: Tensor, is_first: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Counts the observation ticks of each episode over a segment.

    Args:
      count: int64 [B] of the episodes that go on.
      is_first: bool [B, T].
      valid: bool [B, T].

    Returns:
      int64 [B, T], ticks of the episode before each; and [B], those after the segment.
    """
    starts = is_first & valid
    before = valid.long().cumsum(dim=1) - valid.long()
    at_start = torch.where(starts, before, 0).cummax(dim=1).values
    begun = starts.long().cumsum(dim=1) > 0
    since = before - at_start + torch.where(begun, 0, count[:, None])
    last = valid.long().cumsum(dim=1).argmax(dim=1, keepdim=True)
    after = since.gather(1, last) + valid.gather(1, last).long()
    return since, after[:, 0]


def as_logits(labels: Tensor) -> Tensor:
    """Returns logits whose sigmoid is a label [..., S, S] over its largest value."""
    peak = labels.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    return torch.logit(labels / peak, eps=1e-4)
