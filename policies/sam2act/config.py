"""Configuration of SAM2Act and SAM2Act+."""

from __future__ import annotations

import dataclasses
from typing import Any

from embodied.core.errors import ConfigError, unknown_name
from policies.sam2act.augment import AugmentOptions
from policies.sam2act.branch import BranchOptions
from policies.sam2act.cloud import SCENE_CENTER_M, SCENE_SIDE_M, ZOOM
from policies.sam2act.encoder import EncoderOptions
from policies.sam2act.heads import HeadOptions
from policies.sam2act.trunk import TrunkOptions
from policies.sam2act.upsample import UpsampleOptions
from policies.sam2act.views import RIGHT_EYE

LEARNS = ALL, MEMORY, FINE = ("all", "memory", "fine")
MARKS = ("predicted", "labels")


@dataclasses.dataclass
class SAM2ActConfig:
    """Everything that shapes the network; plain data, stored in ``policy.json``.

    Attributes:
      cameras: Names of the RGB-D cameras; empty for all that give depth.
      scene_center_m: Centre of the scene box in the world, in metres.
      scene_side_m: Its side. What lies outside is not seen, and no keyframe can be there.
      view_size: S, side of the virtual views in pixels. A pixel is scene_side_m / S, and a
        quarter of it in the fine branch.
      patch: Pixels along a token's side; G = S / patch tokens along a view's.
      points_stride: Every so many-th row and column of the pictures goes into the coarse cloud;
        the fine one takes all.
      right_eye: Where the right view's camera stands on the cube's y axis, in cube units; what is
        behind it is not in that view (published: 0.5).
      zoom: How much closer the fine branch looks.
      fine_noise: In training the fine branch looks up to so far off the true point, along each
        axis, in cube units (published: 0.1).
      encoder: The image encoder, shared by both branches.
      trunk: Each branch's transformer.
      upsample: Each branch's way from tokens to heatmaps.
      heads: The fine branch's heads.
      proprio: Observation keys that every token is told.
      time_feature: Every token is told how many keyframes have gone by, 25 of them from 1 to -1
        (published). A policy without memory can then read the phase of the task from it.
      sigma_px: Spread of the heatmaps' labels (published: 1.5).
      augment: How training scenes are moved.
      memory: Name in ``embodied.memory.MEMORIES``, between the coarse trunk and its upsampler.
      memory_config: Options of that memory.
      marks: Heatmaps that memory stores in training: the policy's own ``"predicted"`` ones
        (published) or the true ones, ``"labels"``.
      learn: ``"all"`` weights (stage 1), or ``"memory"`` (stage 2): memory, the coarse upsampler
        and the encoder's projections of its finer levels, from the coarse loss alone; or
        ``"fine"``: the fine branch, for things that it has not been close to yet. The fine branch
        looks near the true points and reads no memory, so that stage writes none either.
    """

    cameras: list[str] = dataclasses.field(default_factory=list)
    scene_center_m: list[float] = dataclasses.field(default_factory=lambda: list(SCENE_CENTER_M))
    scene_side_m: float = SCENE_SIDE_M
    view_size: int = 64
    patch: int = 8
    points_stride: int = 1
    right_eye: float = RIGHT_EYE
    zoom: float = ZOOM
    fine_noise: float = 0.1
    encoder: EncoderOptions = dataclasses.field(default_factory=EncoderOptions)
    trunk: TrunkOptions = dataclasses.field(default_factory=TrunkOptions)
    upsample: UpsampleOptions = dataclasses.field(default_factory=UpsampleOptions)
    heads: HeadOptions = dataclasses.field(default_factory=HeadOptions)
    proprio: list[str] = dataclasses.field(default_factory=lambda: ["gripper_opening"])
    time_feature: bool = False
    sigma_px: float = 1.5
    augment: AugmentOptions = dataclasses.field(default_factory=AugmentOptions)
    memory: str = "none"
    memory_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    marks: str = "predicted"
    learn: str = ALL

    def __post_init__(self) -> None:
        if self.learn not in LEARNS:
            raise unknown_name("learn", self.learn, LEARNS)
        if self.marks not in MARKS:
            raise unknown_name("marks", self.marks, MARKS)
        if self.learn == MEMORY and self.memory == "none":
            raise ConfigError(
                "learn=memory trains a memory, but memory=none has none; choose memory=spatial, "
                "or learn=all for a policy without memory"
            )
        if not self.proprio and not self.time_feature:
            raise ConfigError("proprio is empty: tokens must be told something of the arm")
        for name in ("points_stride", "patch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.view_size < 2 * self.patch or self.view_size % self.patch:
            raise ConfigError(
                f"view_size must be a multiple of patch={self.patch}, two or more of them, got "
                f"{self.view_size}"
            )
        for name in ("scene_side_m", "sigma_px"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.zoom < 1 or self.fine_noise < 0:
            raise ConfigError(
                f"expected zoom >= 1 and fine_noise >= 0, got {self.zoom} and {self.fine_noise}"
            )
        if len(self.scene_center_m) != 3:
            raise ConfigError(f"scene_center_m: three metres, got {self.scene_center_m}")

    def branch(self) -> BranchOptions:
        """Returns the sizes of a branch."""
        return BranchOptions(
            side=self.view_size,
            patch=self.patch,
            trunk=self.trunk,
            upsample=self.upsample,
            heads=self.heads,
        )


@dataclasses.dataclass
class SAM2ActPlusConfig(SAM2ActConfig):
    """SAM2Act with a memory, trained from a SAM2Act (``init=``): stage 2."""

    memory: str = "spatial"
    learn: str = MEMORY
