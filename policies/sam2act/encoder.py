"""The picture encoder: transformers' SAM2 vision model at any size, as levels of a pyramid.

Shape letters: P pictures (rows times views), S side of what it is given in pixels, C channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.options import fill_options
from embodied.nn.encoders.pretrained import Pretrained
from embodied.nn.encoders.weights import (
    find_weights,
    fingerprint,
    load_config,
    load_model,
    random_config,
    random_model,
    read_model_type,
)
from policies.sam2act.lora import add_lora

MODEL_TYPES = ("sam2_video", "sam2", "sam2_vision_model")
EXAMPLE = "facebook/sam2.1-hiera-base-plus"
LEVELS = 3
PROJECTIONS = ("trained", "frozen")


@dataclasses.dataclass
class HieraSize:
    """Sizes of the hierarchical transformer and of the pyramid on it; a list has one item a stage.

    Attributes:
      dims: Width of each stage.
      blocks: Blocks of each stage.
      heads: Attention heads of each stage.
      windows: Side of the attention windows of each stage, in tokens. The first block of a stage
        still has the windows of the stage before.
      global_blocks: Blocks, counted from 0 over all stages, that attend to the whole picture;
        none of them the first of a later stage.
      background: Side of the learned position map, which is resized to the tokens.
      fpn_width: C of the pyramid's levels.
      top_down: Levels (0 is the finest) that the next coarser one is added to.
      image_size: Side of the pictures in pixels.
    """

    dims: list[int] = dataclasses.field(default_factory=lambda: [24, 48, 96, 192])
    blocks: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 1, 1])
    heads: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 4, 8])
    windows: list[int] = dataclasses.field(default_factory=lambda: [8, 8, 4, 2])
    global_blocks: list[int] = dataclasses.field(default_factory=lambda: [2])
    background: int = 7
    fpn_width: int = 96
    top_down: list[int] = dataclasses.field(default_factory=lambda: [1, 2, 3])
    image_size: int = 64

    STRIDE = 4
    """Pixels of a token of the first stage."""

    def __post_init__(self) -> None:
        stages = len(self.dims)
        for name, values in vars(self).items():
            whole = values if isinstance(values, list) else [values]
            if any(type(value) is not int for value in whole):
                raise ConfigError(f"encoder.model.{name} must be whole numbers, got {values}")
        for name in ("dims", "blocks", "heads", "windows"):
            sizes = getattr(self, name)
            if len(sizes) != stages or stages < LEVELS or min(sizes) < 1:
                raise ConfigError(
                    f"encoder.model.{name} must be sizes >= 1, one a stage, for at least {LEVELS} "
                    f"stages; got {sizes} for the {stages} of encoder.model.dims"
                )
        if any(dim % heads for dim, heads in zip(self.dims, self.heads, strict=True)):
            raise ConfigError(
                f"encoder.model.heads={self.heads} must divide encoder.model.dims={self.dims}"
            )
        if any(window % 2 for window in self.windows[:-1]):
            raise ConfigError(
                "encoder.model.windows but the last must be even (tokens are pooled by two), got "
                f"{self.windows}"
            )
        firsts = [sum(self.blocks[:stage]) for stage in range(1, stages)]
        for block in self.global_blocks:
            if not 0 <= block < sum(self.blocks) or block in firsts:
                raise ConfigError(
                    f"encoder.model.global_blocks must be within 0..{sum(self.blocks) - 1} and "
                    f"not be the first of a later stage ({firsts}), got {block}"
                )
        for name in ("background", "fpn_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.model.{name} must be >= 1, got {getattr(self, name)}")
        if any(not 0 <= level < stages for level in self.top_down):
            raise ConfigError(
                f"encoder.model.top_down must be within 0..{stages - 1}, got {self.top_down}"
            )
        # The window code of the first stage is tiled, and the last stage has a token at least.
        multiple = self.STRIDE * max(self.windows[0], 2 ** (stages - 1))
        if self.image_size < 1 or self.image_size % multiple:
            raise ConfigError(
                f"encoder.image_size must be a multiple of {multiple} px for windows of "
                f"{self.windows[0]} tokens and {stages} stages, got {self.image_size}"
            )

    @property
    def levels(self) -> list[int]:
        """Sides of the levels in tokens, the finest first."""
        return [self.image_size // self.STRIDE // 2**level for level in range(LEVELS)]

    def as_config(self) -> dict[str, Any]:
        """Returns the same as values of transformers' ``Sam2VisionConfig``."""
        return {
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": self.dims[0],
                "embed_dim_per_stage": list(self.dims),
                "blocks_per_stage": list(self.blocks),
                "num_attention_heads_per_stage": list(self.heads),
                "window_size_per_stage": list(self.windows),
                "global_attention_blocks": list(self.global_blocks),
                "num_query_pool_stages": len(self.dims) - 1,
                "window_positional_embedding_background_size": [self.background] * 2,
            },
            "backbone_channel_list": list(reversed(self.dims)),
            "fpn_hidden_size": self.fpn_width,
            "fpn_top_down_levels": list(self.top_down),
        }


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "small": {
        "dims": [32, 64, 128, 256],
        "blocks": [1, 1, 3, 1],
        "windows": [8, 4, 8, 4],
        "global_blocks": [3],
        "fpn_width": 128,
        "top_down": [2, 3],
        "image_size": 128,
    },
    "base_plus": {
        "dims": [112, 224, 448, 896],
        "blocks": [2, 3, 16, 3],
        "heads": [2, 4, 8, 16],
        "windows": [8, 4, 14, 7],
        "global_blocks": [12, 16, 20],
        "background": 14,
        "fpn_width": 256,
        "top_down": [2, 3],
        "image_size": 256,
    },
}
"""Name -> what differs from the defaults of `HieraSize`. ``base_plus`` is SAM 2.1's Hiera B+
(arXiv 2408.00714) at the picture size of SAM2Act (arXiv 2501.18564)."""


@dataclasses.dataclass
class EncoderOptions:
    """Options of `Encoder`.

    Attributes:
      size: One of `SIZES`.
      model: Fields of `HieraSize` that differ from that size.
      image_size: Side that pictures are resized to; 0 takes that of the size.
      grid: Side of the level that the trunk reads: the token grid.
      level_widths: Channels of the levels finer than `grid`, the coarsest first, behind a 1x1
        convolution each. The other levels are as the pyramid has them.
      projections: Those convolutions are ``"trained"``, or ``"frozen"`` as they start (published,
        in the first stage of training).
      weights: Folder of a SAM2 model with safetensors, or its ``owner/name`` on the hub; empty
        for random weights, which are trained whole. Loaded weights are frozen, and low-rank
        additions to them are trained.
      revision: Commit (40 hex digits) of a model on the hub.
      lora_rank: Rank of the additions.
    """

    size: str = "tiny"
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    image_size: int = 0
    grid: int = 8
    level_widths: list[int] = dataclasses.field(default_factory=lambda: [64, 32])
    projections: str = "trained"
    weights: str = ""
    revision: str = ""
    lora_rank: int = 16

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise unknown_name("encoder.size", self.size, SIZES)
        if self.projections not in PROJECTIONS:
            raise unknown_name("encoder.projections", self.projections, PROJECTIONS)
        if self.lora_rank < 1:
            raise ConfigError(f"encoder.lora_rank must be >= 1, got {self.lora_rank}")
        if self.revision and not self.weights:
            raise ConfigError("encoder.revision is the commit of encoder.weights, which is empty")
        sides = self.hiera.levels
        if self.grid not in sides:
            raise ConfigError(
                f"encoder.grid={self.grid} must be the side of a level: pictures of "
                f"{self.hiera.image_size} px have {sides}; set encoder.image_size or the patch"
            )
        finer = sides.index(self.grid)
        if len(self.level_widths) < finer or min(self.level_widths, default=1) < 1:
            raise ConfigError(
                f"encoder.level_widths must be {finer} sizes >= 1 or more, for the levels finer "
                f"than encoder.grid={self.grid}; got {self.level_widths}"
            )

    @property
    def hiera(self) -> HieraSize:
        """The size with its differences."""
        values = {**SIZES[self.size], **self.model}
        if self.image_size:
            values["image_size"] = self.image_size
        return fill_options(HieraSize, values, f"encoder size {self.size}", "encoder.model")


class Encoder(nn.Module):
    """Pictures to three levels, each of half the side of the one before.

    Its own weights are frozen but for low-rank additions when they were loaded; they then stay
    out of checkpoints, which keep their hash instead.

    Args:
      options: Sizes, and where weights come from.

    Attributes:
      image_size: Side that pictures are resized to.
      channels: Side of a level -> its channels.
      weights_sha: Hash of the files that its weights came from; empty for random ones.

    Raises:
      MissingExtra: If transformers is not installed.
      ConfigError: For a hub id without a commit, or sizes other than the weights'.
      CheckpointError: If weights can't be had or read.

    Source: SAM2Act (arXiv 2501.18564), with the encoder of SAM 2 (arXiv 2408.00714).
    """

    def __init__(self, options: EncoderOptions) -> None:
        super().__init__()
        self.options, hiera = options, options.hiera
        self.image_size, self.top_down = hiera.image_size, tuple(hiera.top_down)
        folder, decoder = None, None
        if options.weights:
            folder = find_weights(options.weights, options.revision, EXAMPLE)
            model, decoder = _loaded(folder, options)
            add_lora(model, options.lora_rank)
        else:
            model = _random(hiera)
        self.weights_sha = "" if folder is None else fingerprint(folder)
        self.base = Pretrained(model, "lora" if folder else "full", self.weights_sha)
        finer = hiera.levels[: hiera.levels.index(options.grid)]
        self.channels = dict.fromkeys(hiera.levels, hiera.fpn_width)
        self.projections = nn.ModuleDict()
        for side, width in zip(reversed(finer), options.level_widths, strict=False):
            self.projections[str(side)] = nn.Conv2d(hiera.fpn_width, width, 1)
            self.channels[side] = width
        if decoder is not None:
            self._start_from(decoder)
        if options.projections == "frozen":
            self.projections.requires_grad_(False)

    def forward(self, rgb: Tensor) -> dict[int, Tensor]:
        """Encodes pictures.

        Args:
          rgb: float [P, 3, S, S] in 0..1; another S than `image_size` is resized, bilinear with
            the corners kept in place, as published.

        Returns:
          Side of each level, the finest first -> [P, C, side, side].
        """
        return self.project(self.pyramid(rgb))

    def pyramid(self, rgb: Tensor) -> dict[int, Tensor]:
        """Returns the levels before their projections; arguments as those of `forward`."""
        size = self.image_size
        if rgb.shape[-1] != size:
            rgb = F.interpolate(rgb, (size, size), mode="bilinear", align_corners=True)
        stages = self.base.model.backbone(rgb).intermediate_hidden_states
        return {level.shape[-1]: level for level in self._pyramid(stages)}

    def project(self, levels: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Returns levels [P, C, side, side] behind the projections of those that have one."""
        done = dict(levels)
        for side, projection in self.projections.items():
            if int(side) in done:
                done[int(side)] = projection(done[int(side)])
        return done

    def _pyramid(self, stages: tuple[Tensor, ...]) -> list[Tensor]:
        """Returns the levels [P, C, side, side], the finest first, of maps [P, side, side, dim].

        As the model's own, which also makes codes of every pixel's position that nothing reads.
        """
        levels: list[Tensor] = []
        last = len(stages) - 1
        for index in range(last, -1, -1):
            convolution = self.base.model.neck.convs[last - index]
            level = convolution(stages[index].permute(0, 3, 1, 2))
            if levels and index in self.top_down:
                coarser = F.interpolate(levels[-1], scale_factor=2.0, mode="nearest")
                level = level + coarser.to(level.dtype)
            levels.append(level)
        return levels[::-1][:LEVELS]

    @torch.no_grad()
    def _start_from(self, decoder: Any) -> None:
        """Copies the mask decoder's projections of the two finest levels where they fit."""
        for side, own in zip(self.channels, (decoder.conv_s0, decoder.conv_s1), strict=False):
            if str(side) not in self.projections:
                continue
            projection = self.projections[str(side)]
            if projection.weight.shape == own.weight.shape:
                projection.load_state_dict(own.state_dict())


def _random(hiera: HieraSize) -> Any:
    """Returns a ``Sam2VisionModel`` with random weights."""
    return random_model(random_config("sam2_vision_model", hiera.as_config()), "float32")


def _loaded(folder: Path, options: EncoderOptions) -> tuple[Any, Any]:
    """Returns a folder's ``Sam2VisionModel``, and its mask decoder if it has one."""
    read_model_type(folder, MODEL_TYPES, "sam2")
    config = load_config(folder)
    _refuse_other_size(folder, getattr(config, "vision_config", config), options)
    model = load_model(folder, config, "float32")
    return getattr(model, "vision_encoder", model), getattr(model, "mask_decoder", None)


def _refuse_other_size(folder: Path, vision: Any, options: EncoderOptions) -> None:
    expected = options.hiera.as_config()
    backbone = expected.pop("backbone_config")
    for part, values in ((vision.backbone_config, backbone), (vision, expected)):
        for name, value in values.items():
            found = getattr(part, name)
            if isinstance(found, (list, tuple)):
                found = list(found)
            if found != value:
                raise ConfigError(
                    f"encoder.size={options.size} has {name}={value}, and the model in {folder} "
                    f"has {found}: set encoder.size ({', '.join(SIZES)}) or encoder.model to the "
                    "size of encoder.weights"
                )
