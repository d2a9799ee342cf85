"""What SAM2Act is made of, and how it looks at one decision tick.

Shape letters: B rows, R rows of a flattened batch, V = 3 views, S view side in pixels, G token grid
side, N = G*G tokens a view, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.policy import Policy
from embodied.core.rng import NO_NOISE
from embodied.core.specs import KEYFRAME, ActionSpec, ArraySpec, Interface, PolicySpec
from embodied.core.text import INSTRUCTION
from embodied.core.ticks import DECISION
from embodied.core.types import Observation, State, Streams
from embodied.memory import build_memory
from embodied.nn.language import ByteInstructionEncoder
from policies.sam2act.branch import Branch
from policies.sam2act.cloud import (
    CAMERA_KEYS,
    DEPTH,
    HOLE_SHARE,
    NEAREST_M,
    Cloud,
    CubeFrame,
    check_cameras,
    check_clouds,
    every_so_many,
)
from policies.sam2act.config import SAM2ActConfig
from policies.sam2act.encoder import Encoder
from policies.sam2act.views import RGB, VIEWS, render

KEYFRAMES = 25
"""Most keyframes of an episode in the published code: the scale of its time feature."""
COUNT = "keyframe_count"
NAMES = ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw", "gripper", "ignore_collision")


@dataclasses.dataclass
class Encoded:
    """What the coarse branch made of one decision tick of each row.

    Attributes:
      features: X [R, V, D, G, G], before memory.
      levels: Side -> [R, V, C, side, side], the encoder's, finer than G.
    """

    features: Tensor
    levels: dict[int, Tensor]

    def heatmaps(self, branch: Branch, features: Tensor | None = None) -> Tensor:
        """Returns the logits [R, V, S, S] of the features, or of what memory made of them."""
        levels = {side: level.flatten(0, 1) for side, level in self.levels.items()}
        return branch.heatmaps(self.features if features is None else features, levels)

    def tokens(self) -> Streams:
        """Returns view -> [R, N, D]."""
        per_view = self.features.flatten(3).transpose(2, 3).unbind(dim=1)
        return dict(zip(VIEWS, per_view, strict=True))


class SAM2ActModel(Policy):
    """The parts of SAM2Act, what they are built for and what they refuse.

    Args:
      config: Shape of the network.
      interface: Observations on offer and clock.
    """

    Config: type[SAM2ActConfig] = SAM2ActConfig

    def __init__(self, config: SAM2ActConfig, interface: Interface) -> None:
        super().__init__()
        self.config, self.interface = config, interface
        offered = interface.observations
        depth = f"_{DEPTH}"
        self.cameras = config.cameras or sorted(
            key.removesuffix(depth) for key in offered if key.endswith(depth)
        )
        check_cameras(self.cameras, offered, "SAM2Act")
        missing = [key for key in [*config.proprio, INSTRUCTION] if key not in offered]
        if missing:
            raise SpecMismatch(
                f"SAM2Act needs the observations {missing}; offered: {sorted(offered)}"
            )
        if interface.observe_on != DECISION:
            raise SpecMismatch(
                f"SAM2Act observes on decisions, but the data observes on {interface.observe_on}: "
                "collect it with `embodied collect ... observation=rgbd observe_on=decision`"
            )
        self.frame = CubeFrame(tuple(config.scene_center_m), config.scene_side_m)
        self.grid = config.view_size // config.patch
        if config.encoder.grid < self.grid:
            raise ConfigError(
                f"encoder.grid={config.encoder.grid} is less than the token grid: views of "
                f"{config.view_size} px in patches of {config.patch} px have {self.grid}x"
                f"{self.grid} tokens; set policy.config.encoder.grid={self.grid}"
            )
        numbers = sum(math.prod(offered[key].shape) for key in config.proprio)
        numbers += config.time_feature
        width = config.trunk.width
        self.encoder = Encoder(config.encoder)
        self.instruction = ByteInstructionEncoder(width)
        sizes = config.branch()
        self.coarse, self.fine = (
            Branch(sizes, self.encoder.channels, numbers, width, heads) for heads in (False, True)
        )
        streams = dict.fromkeys(VIEWS, (self.grid**2, width))
        whole = {"capacity": interface.max_ticks} if config.memory == "full_history" else {}
        self.memory = build_memory(config.memory, streams, {**whole, **config.memory_config})
        if config.marks == "labels" and not self.memory.marks:
            raise ConfigError(
                f"marks=labels says which heatmaps are stored, and memory={config.memory} stores "
                "none; choose memory=spatial, or leave marks at predicted"
            )
        self.spec = self._spec()

    def _spec(self) -> PolicySpec:
        keys = [f"{camera}_{key}" for camera in self.cameras for key in CAMERA_KEYS]
        keys += [*self.config.proprio, INSTRUCTION]
        observations = {key: self.interface.observations[key] for key in keys}
        for key in [f"{camera}_{DEPTH}" for camera in self.cameras]:
            # The cloud leaves pixels without depth out.
            holes = {"low": NEAREST_M, "hole_share": HOLE_SHARE}
            observations[key] = dataclasses.replace(observations[key], **holes)
        state = {
            name: ArraySpec(tuple(t.shape[1:]), str(t.dtype).removeprefix("torch."))
            for name, t in self.initial_state(1).items()
        }
        return PolicySpec(
            observations=observations,
            action=ActionSpec(KEYFRAME, len(NAMES), 1, -10.0, 10.0, NAMES),
            control_hz=self.interface.control_hz,
            observe_on=DECISION,
            observe_period_s=self.interface.observe_period_s,
            noise_shape=(1,),
            noise_law=NO_NOISE,
            state=state,
        )

    def set_statistics(self, statistics: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Refuses demonstrations whose keyframes lie outside the scene box.

        Args:
          statistics: ``keyframe`` (``low``, ``high`` [9]).
        """
        if KEYFRAME not in statistics:
            raise SpecMismatch(
                "SAM2Act learns keyframes, and the data has none: collect it with "
                "`embodied collect ... observation=rgbd observe_on=decision`"
            )
        low, high = (
            torch.as_tensor(statistics[KEYFRAME][name][:3], dtype=torch.float32)
            for name in ("low", "high")
        )
        if bool((self.frame.to_cube(torch.stack([low, high])).abs() > 1).any()):
            raise SpecMismatch(
                f"the data has keyframes from {_metres(low)} to {_metres(high)} m, which the "
                f"scene box (centre {_metres(low.new_tensor(self.frame.center_m))} m, side "
                f"{self.frame.side_m:g} m) does not hold; set policy.config.scene_center_m and "
                "scene_side_m so that it does"
            )

    def statistics_keys(self) -> list[str]:
        return []  # keyframes alone

    def check(self, obs: Observation, source: str) -> None:
        check_clouds(obs, self.cameras, self.frame, needs="SAM2Act", gives=source)

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        state = self.memory.initial(batch, capacity)
        if self.config.time_feature:
            device = self.coarse.trunk.position.device
            state[COUNT] = torch.zeros(batch, dtype=torch.int64, device=device)
        return state

    # ---- pieces of a tick --------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        """Of the weights, and so of what goes into them."""
        return self.coarse.trunk.position.dtype

    def _count(self, state: State, reset: Tensor) -> tuple[Tensor | None, State]:
        """Returns how many keyframes went by [B] (None without the time feature), and the rest."""
        if not self.config.time_feature:
            return None, state
        rest = {name: tensor for name, tensor in state.items() if name != COUNT}
        return torch.where(reset, torch.zeros_like(state[COUNT]), state[COUNT]), rest

    def _proprio(self, obs: Observation, count: Tensor | None) -> Tensor:
        parts = [obs[key].flatten(1).to(self._dtype) for key in self.config.proprio]
        if count is not None:
            parts.append(2 * (1 - count.to(self._dtype)[:, None] / (KEYFRAMES - 1)) - 1)
        return torch.cat(parts, dim=-1)

    def _language(self, obs: Observation) -> Tensor:
        return self.instruction(obs[INSTRUCTION])[:, None]

    def _views(self, cloud: Cloud, coarse: bool) -> Tensor:
        """Draws the three views of a cloud, [R, V, 10, S, S]."""
        stride = self.config.points_stride
        if coarse and stride > 1:
            shapes = [self.interface.observations[f"{c}_depth_m"].shape for c in self.cameras]
            cloud = every_so_many(cloud, shapes, stride)
        images = render(cloud, self.config.view_size, self.config.right_eye)
        return images.to(self._dtype)

    def _encode(self, branch: Branch, images: Tensor, proprio: Tensor, language: Tensor) -> Encoded:
        """Runs a branch up to what memory and upsampling start from."""
        encoded = self._encode_frozen(branch, images, proprio, language)
        return dataclasses.replace(encoded, levels=self._projected(encoded.levels))

    def _encode_frozen(
        self, branch: Branch, images: Tensor, proprio: Tensor, language: Tensor
    ) -> Encoded:
        """As `_encode`, with the levels before their projections: what stage 2 never trains."""
        rows = images.shape[0]
        levels = self.encoder.pyramid(images[:, :, RGB].flatten(0, 1))
        features = branch.trunk(images, levels, proprio, language)
        finer = {s: x.unflatten(0, (rows, -1)) for s, x in levels.items() if s > self.grid}
        return Encoded(features, finer)

    def _projected(self, levels: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Returns the levels [R, V, C, side, side] behind their projections."""
        done = self.encoder.project({side: x.flatten(0, 1) for side, x in levels.items()})
        return {side: x.unflatten(0, (-1, len(VIEWS))) for side, x in done.items()}

    def _asked(self, query: Streams) -> Streams:
        """Adds the position codes of the coarse trunk, where the memory knows them."""
        if not self.memory.marks:
            return query
        codes = self.coarse.trunk.position.unbind(dim=0)
        return {**query, **{f"{v}.position": c for v, c in zip(VIEWS, codes, strict=True)}}

    def _marks(self, logits: Tensor) -> Streams:
        """Returns the heatmaps [R, V, S, S] as entries of an item, where the memory stores them."""
        if not self.memory.marks:
            return {}
        flat = logits.flatten(2).unsqueeze(-1).unbind(dim=1)
        return {f"{view}.mark": mark for view, mark in zip(VIEWS, flat, strict=True)}

    def _maps(self, tokens: Streams) -> Tensor:
        """Returns view -> [..., N, D] as maps [..., V, D, G, G]."""
        stacked = torch.stack([tokens[view] for view in VIEWS], dim=-3)
        return stacked.transpose(-1, -2).unflatten(-1, (self.grid, self.grid))


def _metres(point: Tensor) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in point.tolist()) + ")"
