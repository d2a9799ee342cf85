"""SAM2Act and SAM2Act+: where to go next, from three views of a point cloud, with memory.

Source: SAM2Act (arXiv 2501.18564). A decision tick turns the RGB-D pictures into a cloud and the
cloud into three orthographic views; the coarse branch says in heatmaps where the hand goes next,
the fine branch looks there from close by and says exactly where, in which orientation, with which
gripper. SAM2Act+ reads and writes a memory between the coarse branch's trunk and its upsampler.
With ``memory=none`` this is SAM2Act. Deviations are in the folder's README.

Shape letters: B rows, T decision ticks, R rows of the flattened batch, V = 3 views, S view side in
pixels, G token grid side, N = G*G tokens a view, D width.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from embodied.core.errors import SpecMismatch
from embodied.core.policy import LossOutput, Policy
from embodied.core.rng import NO_NOISE
from embodied.core.specs import KEYFRAME, ActionSpec, ArraySpec, Interface, PolicySpec
from embodied.core.text import INSTRUCTION
from embodied.core.ticks import DECISION
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.memory import build_memory
from embodied.memory.timeline import looks_at_data
from embodied.nn.language import ByteInstructionEncoder
from embodied.nn.rows import chosen_rows, masked_mean, on_grid
from policies.sam2act import heatmaps, rotation
from policies.sam2act.branch import Branch
from policies.sam2act.cloud import (
    CAMERA_KEYS,
    Cloud,
    CubeFrame,
    check_cameras,
    check_clouds,
    crop,
    make_cloud,
    unproject,
    unzoom,
    zoom,
    zoom_cloud,
)
from policies.sam2act.config import SAM2ActConfig, SAM2ActPlusConfig
from policies.sam2act.encoder import Encoder
from policies.sam2act.heads import teacher_noise
from policies.sam2act.lesson import Lesson, as_logits, count_ticks, draw_lesson
from policies.sam2act.views import RGB, VIEWS, render

KEYFRAMES = 25
"""Most keyframes of an episode in the published code: the scale of its time feature."""
COUNT = "keyframe_count"
NAMES = ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw", "gripper", "ignore_collision")


@dataclasses.dataclass
class Seen:
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


class SAM2Act(Policy):
    """See the module docstring.

    Args:
      config: Shape of the network.
      interface: Observations on offer and clock.
    """

    Config: type[SAM2ActConfig] = SAM2ActConfig

    def __init__(self, config: SAM2ActConfig, interface: Interface) -> None:
        super().__init__()
        self.config, self.interface = config, interface
        offered = interface.observations
        depth = "_" + CAMERA_KEYS[1]
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
        if config.learn == "memory":
            self._freeze()
        self.spec = self._spec()

    def _spec(self) -> PolicySpec:
        keys = [f"{camera}_{key}" for camera in self.cameras for key in CAMERA_KEYS]
        keys += [*self.config.proprio, INSTRUCTION]
        state = {
            name: ArraySpec(tuple(t.shape[1:]), str(t.dtype).removeprefix("torch."))
            for name, t in self.initial_state(1).items()
        }
        return PolicySpec(
            observations={key: self.interface.observations[key] for key in keys},
            action=ActionSpec(KEYFRAME, len(NAMES), 1, -10.0, 10.0, NAMES),
            control_hz=self.interface.control_hz,
            observe_on=DECISION,
            observe_period_s=self.interface.observe_period_s,
            noise_shape=(1,),
            noise_law=NO_NOISE,
            state=state,
        )

    # ---- what learns -------------------------------------------------------------------

    @property
    def needs_init(self) -> bool:
        return self.config.learn == "memory"

    def _learning(self) -> list[nn.Module]:
        """Returns the modules that the second stage trains. Source: SAM2Act+, its freeze list."""
        return [self.memory, self.coarse.upsampler, self.encoder.projections]

    def _freeze(self) -> None:
        self.requires_grad_(False)
        for module in self._learning():
            module.requires_grad_(True)

    def train(self, mode: bool = True) -> SAM2Act:
        """Sets the mode; frozen parts stay as they are in use."""
        super().train(mode)
        if mode and self.config.learn == "memory":
            super().train(False)
            for module in self._learning():
                module.train()
            self.training = True
        return self

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

    def check(self, obs: Observation, source: str) -> None:
        check_clouds(obs, self.cameras, self.frame, needs="SAM2Act", gives=source)

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        state = self.memory.initial(batch, capacity)
        if self.config.time_feature:
            device = self.coarse.trunk.position.device
            state[COUNT] = torch.zeros(batch, dtype=torch.int64, device=device)
        return state

    # ---- one tick ----------------------------------------------------------------------

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        count, kept = self._count(state, reset)
        cloud = make_cloud(obs, self.cameras, self.frame)
        felt, language = self._felt(obs, count), self._language(obs)
        seen = self._see(cloud, felt, language)
        query = seen.tokens()
        value, pending = self.memory.read(self._asked(query), time_s, kept, reset)
        logits = seen.heatmaps(self.coarse, self._maps(value))
        item = {**query, **self._marks(logits)}
        new = self.memory.write(pending, item, time_s, kept)
        if count is not None:
            new[COUNT] = count + 1
        features = {
            "logits": logits,
            "xyz": cloud.xyz,
            "rgb": cloud.rgb,
            "valid": cloud.valid,
            "proprio": felt,
            "language": language,
        }
        return Working(features), new

    def act(self, working: Working, noise: Tensor) -> Action:
        seen = working.features
        cloud = Cloud(seen["xyz"], seen["rgb"], seen["valid"])
        near = heatmaps.decode(seen["logits"])
        crop_cloud = zoom_cloud(cloud, near, self.config.zoom)
        fine = self._branch_features(self.fine, crop_cloud, seen["proprio"], seen["language"])
        logits = fine.heatmaps(self.fine)
        place = heatmaps.decode(logits)
        pixels = heatmaps.project(place, self.config.view_size)
        said = self.fine.heads(self.fine.features(fine.features, pixels))
        position = self.frame.to_world(unzoom(place, near, self.config.zoom))
        quaternion = rotation.bins_to_quat(said.rotation.argmax(dim=-1))
        gripper = 2.0 * said.gripper.argmax(dim=-1, keepdim=True) - 1.0
        straight = said.collision.argmax(dim=-1, keepdim=True).float()
        parts = [position, quaternion.to(position.dtype), gripper.to(position.dtype), straight]
        return Action(torch.cat(parts, dim=-1)[:, None])

    @torch.no_grad()
    def inspect(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> dict[str, Tensor]:
        count, kept = self._count(state, reset)
        kept = self.memory.clear(kept, reset)
        cloud = make_cloud(obs, self.cameras, self.frame)
        felt, language = self._felt(obs, count), self._language(obs)
        images = self._views(cloud, coarse=True)
        seen = self._encode(self.coarse, images, felt, language)
        query = self._asked(seen.tokens())
        value, _ = self.memory.read(query, time_s, kept, torch.zeros_like(reset))
        logits = seen.heatmaps(self.coarse, self._maps(value))
        chunk = self.act(
            Working(
                {
                    "logits": logits,
                    "xyz": cloud.xyz,
                    "rgb": cloud.rgb,
                    "valid": cloud.valid,
                    "proprio": felt,
                    "language": language,
                }
            ),
            logits.new_zeros(len(logits), 1),
        ).chunk
        colours = images[:, :, RGB].permute(0, 1, 3, 4, 2)
        return {
            **self.memory.inspect(query, time_s, kept),
            "view.image": (255 * colours).round().to(torch.uint8),
            "view.heatmap": logits.flatten(2).softmax(dim=-1).unflatten(2, logits.shape[-2:]),
            "view.pixel": heatmaps.project(
                self.frame.to_cube(chunk[:, 0, :3]), self.config.view_size
            ),
            "keyframe": chunk[:, 0],
        }

    # ---- pieces of a tick --------------------------------------------------------------

    def _count(self, state: State, reset: Tensor) -> tuple[Tensor | None, State]:
        """Returns how many keyframes went by [B] (None without the time feature), and the rest."""
        if not self.config.time_feature:
            return None, state
        rest = {name: tensor for name, tensor in state.items() if name != COUNT}
        return torch.where(reset, torch.zeros_like(state[COUNT]), state[COUNT]), rest

    def _counts(self, segment: Segment, state: State) -> tuple[tuple[Tensor, Tensor] | None, State]:
        """Returns what `count_ticks` does (None without the time feature), and other state."""
        if not self.config.time_feature:
            return None, state
        rest = {name: tensor for name, tensor in state.items() if name != COUNT}
        return count_ticks(state[COUNT], segment.is_first, segment.valid), rest

    def _felt(self, obs: Observation, count: Tensor | None) -> Tensor:
        parts = [obs[key].flatten(1).float() for key in self.config.proprio]
        if count is not None:
            parts.append(2 * (1 - count.float()[:, None] / (KEYFRAMES - 1)) - 1)
        return torch.cat(parts, dim=-1)

    def _language(self, obs: Observation) -> Tensor:
        return self.instruction(obs[INSTRUCTION])[:, None]

    def _views(self, cloud: Cloud, coarse: bool) -> Tensor:
        """Draws the three views of a cloud, [R, V, 10, S, S]."""
        if coarse and self.config.points_stride > 1:
            cloud = self._thinned(cloud)
        return render(cloud, self.config.view_size, self.config.right_eye)

    def _thinned(self, cloud: Cloud) -> Cloud:
        """Keeps every so many-th row and column of each picture."""
        stride, kept, start = self.config.points_stride, [], 0
        for camera in self.cameras:
            height, width = self.interface.observations[f"{camera}_depth_m"].shape
            index = torch.arange(height * width, device=cloud.xyz.device) + start
            kept.append(index.view(height, width)[::stride, ::stride].flatten())
            start += height * width
        index = torch.cat(kept)
        return Cloud(
            cloud.xyz.index_select(1, index),
            cloud.rgb.index_select(1, index),
            cloud.valid.index_select(1, index),
        )

    def _encode(self, branch: Branch, images: Tensor, felt: Tensor, language: Tensor) -> Seen:
        rows = images.shape[0]
        levels = self.encoder(images[:, :, RGB].flatten(0, 1))
        features = branch.trunk(images, levels, felt, language)
        finer = {s: x.unflatten(0, (rows, -1)) for s, x in levels.items() if s > self.grid}
        return Seen(features, finer)

    def _see(self, cloud: Cloud, felt: Tensor, language: Tensor) -> Seen:
        return self._encode(self.coarse, self._views(cloud, coarse=True), felt, language)

    def _branch_features(
        self, branch: Branch, cloud: Cloud, felt: Tensor, language: Tensor
    ) -> Seen:
        return self._encode(branch, self._views(cloud, coarse=False), felt, language)

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

    # ---- learning ----------------------------------------------------------------------

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Cross-entropies of heatmaps, rotation, gripper and collision at acting ticks.

        On a CPU rows that count for nothing are left out; on other devices every row is computed
        and masks give it its weight, so that nothing waits for the device.
        """
        generator = torch.default_generator if generator is None else generator
        few = looks_at_data(segment.valid)
        acts = segment.act_mask & segment.valid & segment.extras["keyframe_valid"]
        needed = segment.valid if self.config.memory != "none" else acts
        rows = chosen_rows(needed.reshape(-1), few)
        lesson = draw_lesson(segment, acts, rows, self.frame, self.config.augment, generator)
        counts, kept = self._counts(segment, state)
        obs = {key: lesson.at(segment.obs[key]) for key in self.spec.observations}
        felt = self._felt(obs, None if counts is None else lesson.at(counts[0]))
        language = self._language(obs)
        cloud = unproject(obs, self.cameras, self.frame)
        cloud = crop(dataclasses.replace(cloud, xyz=lesson.move.points(cloud.xyz[None])[0]))

        seen = self._see(cloud, felt, language)
        labels = self._labels(lesson.point)
        logits, after = self._remember(seen, labels, segment, lesson, kept)
        if counts is not None:
            after[COUNT] = counts[1]
        miss = heatmaps.soft_cross_entropy(logits, labels).mean(dim=1)
        loss = masked_mean(miss, lesson.weight)
        metrics = {"coarse_loss": loss.detach()}
        off = (heatmaps.decode(logits.detach()) - lesson.point).norm(dim=-1)
        metrics["coarse_error_m"] = masked_mean(off, lesson.weight) / self.frame.per_metre
        if self.config.learn == "all":
            keep = chosen_rows(lesson.weight, few)
            near = Cloud(cloud.xyz[keep], cloud.rgb[keep], cloud.valid[keep])
            fine_loss, told = self._fine_loss(
                near, felt[keep], language[keep], lesson.only(keep), generator
            )
            loss, metrics = loss + fine_loss, {**metrics, **told}
        return LossOutput(loss, {"loss": loss.detach(), **metrics}, after)

    def _labels(self, point: Tensor) -> Tensor:
        """Returns the heatmaps [R, V, S, S] that mean points [R, 3]."""
        side = self.config.view_size
        return heatmaps.gaussian_labels(heatmaps.project(point, side), side, self.config.sigma_px)

    def _remember(
        self, seen: Seen, labels: Tensor, segment: Segment, lesson: Lesson, state: State
    ) -> tuple[Tensor, State]:
        """Returns the coarse logits [R, V, S, S] with memory in between, and memory after."""
        if self.config.memory == "none":
            return seen.heatmaps(self.coarse), state
        batch, ticks = segment.valid.shape

        def grid(tensor: Tensor) -> Tensor:
            return on_grid(tensor, lesson.rows, batch, ticks)

        items = {view: grid(tokens) for view, tokens in seen.tokens().items()}
        times = (segment.time_s, state, segment.is_first, segment.valid)
        if not self.memory.marks:
            values, state = self.memory.unroll(items, *times)
            maps = self._maps({view: lesson.at(values[view]) for view in VIEWS})
            logits = seen.heatmaps(self.coarse, maps)
        else:
            said: list[Tensor] = []
            levels = {side: grid(level) for side, level in seen.levels.items()}
            truth = grid(as_logits(labels)) if self.config.marks == "true" else None

            def item_of(query: Streams, value: Streams) -> Streams:
                now = len(said)
                here = Seen(self._maps(query), {side: x[:, now] for side, x in levels.items()})
                said.append(here.heatmaps(self.coarse, self._maps(value)))
                return {**query, **self._marks(said[-1] if truth is None else truth[:, now])}

            asked = self._asked(items)
            codes = {k: v.expand(batch, ticks, -1, -1) for k, v in asked.items() if k not in items}
            _, state = self.memory.unroll({**items, **codes}, *times, item_of=item_of)
            logits = lesson.at(torch.stack(said, dim=1))
        return logits, state

    def _fine_loss(
        self,
        cloud: Cloud,
        felt: Tensor,
        language: Tensor,
        lesson: Lesson,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Looks near the true points and compares what the fine branch says with the truth."""
        dice = torch.rand(lesson.point.shape, generator=generator, device=generator.device)
        off = (2 * dice.to(lesson.point.device) - 1) * self.config.fine_noise
        center = lesson.point + off
        point = zoom(lesson.point, center, self.config.zoom)
        views = self._views(zoom_cloud(cloud, center, self.config.zoom), coarse=False)
        fine = self._encode(self.fine, views, felt, language)
        logits, labels = fine.heatmaps(self.fine), self._labels(point)
        pixels = heatmaps.project(point, self.config.view_size)
        noise = teacher_noise(lesson.bins, generator)
        said = self.fine.heads(self.fine.features(fine.features, pixels), lesson.bins, noise)
        entropy = nn.functional.cross_entropy
        parts = {
            "fine_loss": heatmaps.soft_cross_entropy(logits, labels).mean(dim=1),
            "rotation_loss": entropy(
                said.rotation.flatten(0, 1), lesson.bins.flatten(), reduction="none"
            ).view(-1, 3).sum(dim=1),
            "gripper_loss": entropy(said.gripper, lesson.closes, reduction="none"),
            "collision_loss": entropy(said.collision, lesson.straight, reduction="none"),
        }  # fmt: skip
        means = {name: masked_mean(part, lesson.weight) for name, part in parts.items()}
        miss = (heatmaps.decode(logits.detach()) - point).norm(dim=-1)
        error_m = masked_mean(miss, lesson.weight) / self.frame.per_metre / self.config.zoom
        told = {name: value.detach() for name, value in means.items()}
        return torch.stack(list(means.values())).sum(), {**told, "fine_error_m": error_m}


class SAM2ActPlus(SAM2Act):
    """The second stage: a memory, learnt with the rest frozen."""

    Config = SAM2ActPlusConfig


def _metres(point: Tensor) -> str:
    return "(" + ", ".join(f"{v:.3f}" for v in point.tolist()) + ")"
