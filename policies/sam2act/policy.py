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
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.policy import LossOutput
from embodied.core.specs import Interface
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.nn.encoders.base import module_digest
from embodied.nn.rows import chosen_rows, looks_at_data, masked_mean, on_grid
from policies.sam2act import augment, heatmaps, rotation
from policies.sam2act.augment import Move
from policies.sam2act.cloud import Cloud, crop, make_cloud, unproject, unzoom, zoom, zoom_cloud
from policies.sam2act.config import ALL, FINE, MEMORY, SAM2ActConfig, SAM2ActPlusConfig
from policies.sam2act.heads import teacher_noise
from policies.sam2act.model import COUNT, Encoded, SAM2ActModel
from policies.sam2act.targets import Targets, as_logits, count_ticks, make_targets, target_points
from policies.sam2act.views import RGB, VIEWS

FEATURES, LEVEL, YAW, SHIFT = "kept_features", "kept_level_", "kept_yaw_rad", "kept_shift"
"""Observation keys of kept outputs: X [V, D, G, G]; with a side behind it, a level of the pyramid
[V, C, side, side]; and how the scene was moved, a `Move`."""

_SIZES = ("size", "model", "image_size", "grid")
"""Options of the encoder that say what its weights give."""


def _frozen_shape(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is in plain `config` of the frozen parts but their weights.

    Heads, windows and the like change what the same weights give.
    """
    scene = ("scene_center_m", "scene_side_m", "view_size", "patch", "right_eye")
    encoder = config.get("encoder", {})
    return {
        **{name: config[name] for name in ("trunk", *scene) if name in config},
        **{f"encoder.{name}": encoder[name] for name in _SIZES if name in encoder},
    }


@dataclasses.dataclass
class BranchInputs:
    """What both branches look at, R rows.

    Attributes:
      cloud: In the scene box.
      proprio: Proprioception [R, numbers].
      language: [R, L, E].
    """

    cloud: Cloud
    proprio: Tensor
    language: Tensor

    def only(self, keep: Tensor) -> BranchInputs:
        """Returns some of the rows, by rising index."""
        if len(keep) == len(self.proprio):
            return self
        cloud = Cloud(self.cloud.xyz[keep], self.cloud.rgb[keep], self.cloud.valid[keep])
        return BranchInputs(cloud, self.proprio[keep], self.language[keep])

    def working(self, logits: Tensor) -> Working:
        """Returns what `SAM2Act.act` reads."""
        cloud = {"xyz": self.cloud.xyz, "rgb": self.cloud.rgb, "valid": self.cloud.valid}
        return Working(
            {"logits": logits, **cloud, "proprio": self.proprio, "language": self.language}
        )


class SAM2Act(SAM2ActModel):
    """See the module docstring.

    Args:
      config: Shape of the network.
      interface: Observations on offer and clock.
    """

    def __init__(self, config: SAM2ActConfig, interface: Interface) -> None:
        super().__init__(config, interface)
        if config.learn != ALL:
            self._freeze()

    # ---- what learns -------------------------------------------------------------------

    @property
    def needs_init(self) -> bool:
        return self.config.learn != ALL

    def _learning(self) -> list[nn.Module]:
        """Returns the modules that a later stage trains. Source: SAM2Act+, its freeze list."""
        if self.config.learn == FINE:
            return [self.fine]
        return [self.memory, self.coarse.upsampler, self.encoder.projections]

    def _freeze(self) -> None:
        self.requires_grad_(False)
        for module in self._learning():
            module.requires_grad_(True)

    def train(self, mode: bool = True) -> SAM2Act:
        """Sets the mode; frozen parts stay as they are in use."""
        super().train(mode)
        if mode and self.config.learn != ALL:
            super().train(False)
            for module in self._learning():
                module.train()
            self.training = True
        return self

    # ---- what never learns in the second stage -----------------------------------------

    @property
    def frozen_copies(self) -> int:  # type: ignore[override]
        return self.config.augment.copies

    def frozen_key(self) -> dict[str, Any]:
        config = self.config
        if config.learn != MEMORY:
            return {}
        sees = ("points_stride", "proprio", "time_feature")
        move = dataclasses.asdict(config.augment)
        move.pop("kept")  # more copies are further files of the same directory
        cameras = {c: list(self.spec.observations[f"{c}_depth_m"].shape) for c in self.cameras}
        parts = {
            "encoder": self.encoder.base,
            "trunk": self.coarse.trunk,
            "words": self.instruction,
        }
        return {
            "policy": "sam2act",
            "version": self.version,
            **{name: getattr(config, name) for name in sees},
            "augment": move,
            "cameras": cameras,
            "image_size": self.encoder.image_size,
            "shape": _frozen_shape(dataclasses.asdict(config)),
            "weights": {name: module_digest(part) for name, part in parts.items()},
        }

    def check_init(self, config: Mapping[str, Any]) -> None:
        """Refuses frozen weights that would be read in another way than they were learnt in."""
        if self.config.learn == ALL:
            return
        own = dataclasses.asdict(self.config)
        # What the coarse trunk is given; the close look learns for itself or is as frozen.
        more = ["points_stride", "proprio", *(["zoom"] if self.config.learn == MEMORY else [])]
        ours = _frozen_shape(own) | {name: own[name] for name in more}
        theirs = _frozen_shape(config) | {name: config[name] for name in more if name in config}
        for name, value in theirs.items():
            if ours[name] != value:
                raise ConfigError(
                    f"init= was trained with policy.config.{name}={value}, this policy has "
                    f"{ours[name]}: what doesn't learn in this stage must be as it was; set it so"
                )

    def frozen_inputs(self) -> list[str]:
        return list(self.spec.observations)

    def encode_frozen(self, segment: Segment, generator: torch.Generator) -> dict[str, Tensor]:
        """See the base class; X and levels as float16, the move as it is."""
        shape = segment.valid.shape
        counts, _ = self._counts(segment, self.initial_state(shape[0]))
        rows = torch.arange(segment.valid.numel(), device=segment.valid.device)
        inputs, targets = self._moved(segment, self._acts(segment), rows, counts, generator)
        images = self._views(inputs.cloud, coarse=True)
        encoded = self._encode_frozen(self.coarse, images, inputs.proprio, inputs.language)
        levels = {f"{LEVEL}{side}": level.half() for side, level in encoded.levels.items()}
        kept = {FEATURES: encoded.features.half(), **levels}
        move = {YAW: targets.move.yaw_rad[0], SHIFT: targets.move.shift[0]}
        return {name: value.unflatten(0, shape) for name, value in {**kept, **move}.items()}

    def _kept(self, segment: Segment, acts: Tensor, rows: Tensor) -> tuple[Encoded, Targets]:
        """Returns what `encode_frozen` made of the rows of a segment, and what they teach."""
        move = Move(segment.obs[YAW], segment.obs[SHIFT])
        targets = make_targets(segment, acts, rows, self.frame, move)
        levels = {
            int(key.removeprefix(LEVEL)): targets.at(value).float()
            for key, value in segment.obs.items()
            if key.startswith(LEVEL)
        }
        features = targets.at(segment.obs[FEATURES]).float()
        return Encoded(features, self._projected(levels)), targets

    # ---- one tick ----------------------------------------------------------------------

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        count, kept = self._count(state, reset)
        inputs = self._inputs(obs, count)
        encoded = self._far(inputs)
        query = encoded.tokens()
        value, pending = self.memory.read(self._asked(query), time_s, kept, reset)
        logits = encoded.heatmaps(self.coarse, self._maps(value))
        item = {**query, **self._marks(logits)}
        new = self.memory.write(pending, item, time_s, kept)
        if count is not None:
            new[COUNT] = count + 1
        return inputs.working(logits), new

    def act(self, working: Working, noise: Tensor) -> Action:
        inputs = working.features
        cloud = Cloud(inputs["xyz"], inputs["rgb"], inputs["valid"])
        near = heatmaps.decode(inputs["logits"])
        crop_cloud = zoom_cloud(cloud, near, self.config.zoom)
        images = self._views(crop_cloud, coarse=False)
        fine = self._encode(self.fine, images, inputs["proprio"], inputs["language"])
        logits = fine.heatmaps(self.fine)
        place = heatmaps.decode(logits)
        pixels = heatmaps.project(place, self.config.view_size)
        heads = self.fine.heads(self.fine.features(fine.features, pixels))
        position = self.frame.to_world(unzoom(place, near, self.config.zoom))
        quaternion = rotation.bins_to_quat(heads.rotation.argmax(dim=-1))
        gripper = 2.0 * heads.gripper.argmax(dim=-1, keepdim=True) - 1.0
        ignore_collision = heads.collision.argmax(dim=-1, keepdim=True).float()
        parts = [
            position,
            quaternion.to(position.dtype),
            gripper.to(position.dtype),
            ignore_collision,
        ]
        return Action(torch.cat(parts, dim=-1)[:, None])

    @torch.no_grad()
    def inspect(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> dict[str, Tensor]:
        count, kept = self._count(state, reset)
        kept = self.memory.clear(kept, reset)
        inputs = self._inputs(obs, count)
        images = self._views(inputs.cloud, coarse=True)
        encoded = self._encode(self.coarse, images, inputs.proprio, inputs.language)
        query = self._asked(encoded.tokens())
        value, _ = self.memory.read(query, time_s, kept, torch.zeros_like(reset))
        logits = encoded.heatmaps(self.coarse, self._maps(value))
        chunk = self.act(inputs.working(logits), logits.new_zeros(len(logits), 1)).chunk
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

    def _inputs(self, obs: Observation, count: Tensor | None) -> BranchInputs:
        cloud = make_cloud(obs, self.cameras, self.frame)
        return BranchInputs(cloud, self._proprio(obs, count), self._language(obs))

    def _far(self, inputs: BranchInputs) -> Encoded:
        """Looks at the whole scene with the coarse branch."""
        images = self._views(inputs.cloud, coarse=True)
        return self._encode(self.coarse, images, inputs.proprio, inputs.language)

    def _counts(self, segment: Segment, state: State) -> tuple[tuple[Tensor, Tensor] | None, State]:
        """Returns what `count_ticks` does (None without the time feature), and other state."""
        if not self.config.time_feature:
            return None, state
        rest = {name: tensor for name, tensor in state.items() if name != COUNT}
        return count_ticks(state[COUNT], segment.is_first, segment.valid), rest

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
        acts = self._acts(segment)
        remembers = self.config.memory != "none" and self.config.learn != FINE
        rows = chosen_rows((segment.valid if remembers else acts).reshape(-1), few)
        counts, kept = self._counts(segment, state)
        if self.config.learn == FINE:
            looked = self._moved(segment, acts, rows, counts, generator)
            loss, metrics = self._fine_loss(*looked, generator)
            after = kept if counts is None else {**kept, COUNT: counts[1]}
            return LossOutput(loss, {"loss": loss.detach(), **metrics}, after)
        inputs: BranchInputs | None = None
        if FEATURES in segment.obs:
            encoded, targets = self._kept(segment, acts, rows)
        else:
            inputs, targets = self._moved(segment, acts, rows, counts, generator)
            encoded = self._far(inputs)
        labels = self._labels(targets.point)
        logits, after = self._remember(encoded, labels, segment, targets, kept)
        if counts is not None:
            after[COUNT] = counts[1]
        miss = heatmaps.soft_cross_entropy(logits, labels).mean(dim=1)
        loss = masked_mean(miss, targets.weight)
        metrics = {"coarse_loss": loss.detach()}
        off = (heatmaps.decode(logits.detach()) - targets.point).norm(dim=-1)
        metrics["coarse_error_m"] = masked_mean(off, targets.weight) / self.frame.per_metre
        if self.config.learn == ALL and inputs is not None:
            keep = chosen_rows(targets.weight, few)
            fine_loss, details = self._fine_loss(inputs.only(keep), targets.only(keep), generator)
            loss, metrics = loss + fine_loss, {**metrics, **details}
        return LossOutput(loss, {"loss": loss.detach(), **metrics}, after)

    def _acts(self, segment: Segment) -> Tensor:
        """Returns the ticks that have a target, bool [B, T]."""
        acts: Tensor = segment.act_mask & segment.valid & segment.extras["keyframe_valid"]
        return acts

    def _moved(
        self,
        segment: Segment,
        acts: Tensor,
        rows: Tensor,
        counts: tuple[Tensor, Tensor] | None,
        generator: torch.Generator,
    ) -> tuple[BranchInputs, Targets]:
        """Moves the scenes of a segment at random; returns what they teach too."""
        goals = target_points(segment, acts, self.frame)
        move = augment.draw(goals, acts, self.config.augment, generator)
        targets = make_targets(segment, acts, rows, self.frame, move)
        obs = {key: targets.at(segment.obs[key]) for key in self.spec.observations}
        cloud = unproject(obs, self.cameras, self.frame)
        cloud = crop(dataclasses.replace(cloud, xyz=targets.move.points(cloud.xyz[None])[0]))
        proprio = self._proprio(obs, None if counts is None else targets.at(counts[0]))
        return BranchInputs(cloud, proprio, self._language(obs)), targets

    def _labels(self, point: Tensor) -> Tensor:
        """Returns the heatmaps [R, V, S, S] that mean points [R, 3]."""
        side = self.config.view_size
        return heatmaps.gaussian_labels(heatmaps.project(point, side), side, self.config.sigma_px)

    def _remember(
        self, encoded: Encoded, labels: Tensor, segment: Segment, targets: Targets, state: State
    ) -> tuple[Tensor, State]:
        """Returns the coarse logits [R, V, S, S] with memory in between, and memory after."""
        if self.config.memory == "none":
            return encoded.heatmaps(self.coarse), state
        batch, ticks = segment.valid.shape

        def grid(tensor: Tensor) -> Tensor:
            return on_grid(tensor, targets.rows, batch, ticks)

        items = {view: grid(tokens) for view, tokens in encoded.tokens().items()}
        times = (segment.time_s, state, segment.is_first, segment.valid)
        if not self.memory.marks:
            values, state = self.memory.unroll(items, *times)
            maps = self._maps({view: targets.at(values[view]) for view in VIEWS})
            logits = encoded.heatmaps(self.coarse, maps)
        else:
            predicted: list[Tensor] = []
            levels = {side: grid(level) for side, level in encoded.levels.items()}
            truth = grid(as_logits(labels)) if self.config.marks == "labels" else None

            def item_of(query: Streams, value: Streams) -> Streams:
                now = len(predicted)
                here = Encoded(self._maps(query), {side: x[:, now] for side, x in levels.items()})
                predicted.append(here.heatmaps(self.coarse, self._maps(value)))
                return {**query, **self._marks(predicted[-1] if truth is None else truth[:, now])}

            asked = self._asked(items)
            codes = {k: v.expand(batch, ticks, -1, -1) for k, v in asked.items() if k not in items}
            _, state = self.memory.unroll({**items, **codes}, *times, item_of=item_of)
            logits = targets.at(torch.stack(predicted, dim=1))
        return logits, state

    def _fine_loss(
        self, inputs: BranchInputs, targets: Targets, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Looks near the true points and compares what the fine branch says with the truth."""
        dice = torch.rand(targets.point.shape, generator=generator, device=generator.device)
        off = (2 * dice.to(targets.point.device) - 1) * self.config.fine_noise
        center = targets.point + off
        point = zoom(targets.point, center, self.config.zoom)
        views = self._views(zoom_cloud(inputs.cloud, center, self.config.zoom), coarse=False)
        fine = self._encode(self.fine, views, inputs.proprio, inputs.language)
        logits, labels = fine.heatmaps(self.fine), self._labels(point)
        pixels = heatmaps.project(point, self.config.view_size)
        noise = teacher_noise(targets.bins, generator)
        heads = self.fine.heads(self.fine.features(fine.features, pixels), targets.bins, noise)
        entropy = nn.functional.cross_entropy
        parts = {
            "fine_loss": heatmaps.soft_cross_entropy(logits, labels).mean(dim=1),
            "rotation_loss": entropy(
                heads.rotation.flatten(0, 1), targets.bins.flatten(), reduction="none"
            ).view(-1, 3).sum(dim=1),
            "gripper_loss": entropy(heads.gripper, targets.gripper_closed, reduction="none"),
            "collision_loss": entropy(heads.collision, targets.ignore_collision, reduction="none"),
        }  # fmt: skip
        means = {name: masked_mean(part, targets.weight) for name, part in parts.items()}
        miss = (heatmaps.decode(logits.detach()) - point).norm(dim=-1)
        error_m = masked_mean(miss, targets.weight) / self.frame.per_metre / self.config.zoom
        details = {name: value.detach() for name, value in means.items()}
        return torch.stack(list(means.values())).sum(), {**details, "fine_error_m": error_m}


class SAM2ActPlus(SAM2Act):
    """The second stage: a memory, learnt with the rest frozen."""

    Config = SAM2ActPlusConfig
