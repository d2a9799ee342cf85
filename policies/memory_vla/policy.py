"""MemoryVLA: perceptual and cognitive tokens, a memory, a diffusion action expert.

Source: MemoryVLA (arXiv 2508.19236). At each observation tick the trunk gives perceptual
tokens and one cognitive token; both are queries to memory; a gate fuses what comes back;
the present is stored; a diffusion transformer turns the fused tokens into an action chunk.
Deviations: learning runs *through* memory (stored tokens keep their gradient), time is in
seconds, and the network predicts where the hand will be at its next event (hindsight goal):
a mixture over what it sees, whose mode the action expert is told.

Shape letters: B rows, T observation ticks, N tokens, D width, K actions in a chunk,
A action size, R rows of the flattened batch that act.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from embodied.core.errors import SpecMismatch
from embodied.core.policy import LossOutput, Policy
from embodied.core.prompt import Prompt
from embodied.core.rng import GAUSSIAN
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, Interface, PolicySpec
from embodied.core.types import Action, Observation, Segment, State, Streams, Working
from embodied.memory import build_memory
from embodied.nn.action_head import build_action_head
from embodied.nn.encoders.base import module_digest
from embodied.nn.fusion import GateFusion
from embodied.nn.goal import GoalHead, GoalMixture
from embodied.nn.language import ByteInstructionEncoder
from embodied.nn.normalize import ActionNormalizer, VectorNormalizer
from embodied.nn.readout import TokenReadout
from embodied.nn.rows import chosen_rows, looks_at_data, masked_mean, on_grid
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.model import (
    CACHED,
    HAND,
    IMAGE,
    INSTRUCTION,
    EncodedImageTrunk,
    Perception,
    build_trunk,
)

COGNITIVE = "cognitive"
GOAL_SCALE = 10.0
"""Goals are learnt in decimetres: distances that matter are between a tenth and a few."""
FAR = 6.0
"""In decimetres; what is seen further off than any arm reaches is all the same."""
ROWS_AT_ONCE = 64
"""Pictures that a frozen encoder takes together where its outputs are to be kept."""
RESIZED = ("pretrained_conv", "smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl", "prismatic")
"""Encoders that resized pictures unasked, when what is stored did not yet say whether."""
SAME_GOAL_M = 1e-4
"""Goals of two ticks that lie nearer than this are one."""
UNIT = 0.25
"""Brings decimetres on a table to unit scale, as layers like them."""


class MemoryVLA(Policy):
    """See the module docstring.

    Args:
      config: Shape of the network.
      interface: Observations on offer, action size and clock.
    """

    Config = MemoryVLAConfig
    version = 3
    former = {2: {"goal_sees": "arm"}}

    def __init__(self, config: MemoryVLAConfig, interface: Interface) -> None:
        super().__init__()
        self.config, self.interface = config, interface
        width, offered = config.width, interface.observations
        self.read = list(dict.fromkeys([*config.proprio, INSTRUCTION, HAND]))
        missing = [key for key in self.read if key not in offered]
        if missing:
            raise SpecMismatch(
                f"MemoryVLA needs the observations {missing}; offered: {sorted(offered)}"
            )
        self.trunk = build_trunk(config, offered)
        if isinstance(self.trunk, EncodedImageTrunk):
            # Defaults of an encoder may change; what was trained says all of its own.
            options = dataclasses.asdict(self.trunk.encoder.options)
            self.config = dataclasses.replace(config, encoder=options)
        cognitive_width, full = config.cognitive_width or width, config.condition == "full"
        # What the trunk's own language model read, or the words themselves.
        self.instruction: nn.Module | None = None
        self.cognition: nn.Module
        if reads := self.trunk.cognitive:
            self.cognition = _as_wide(reads, cognitive_width)
            if full or (config.goal_loss and config.goal_sees == "arm"):
                self.instruction = nn.Linear(reads, width)
        else:
            self.instruction = ByteInstructionEncoder(width)
            self.cognition = TokenReadout(width, width, cognitive_width, config.readout_queries, 3)
        if config.proprio or not reads:
            self.widen = _as_wide(width, cognitive_width)
        if config.proprio:
            proprio_size = sum(int(np.prod(offered[key].shape)) for key in config.proprio)
            self.proprio_norm = VectorNormalizer(proprio_size)
            self.proprio = nn.Linear(proprio_size, width)
        # A full history must hold the longest episode; bounded memories have their own size.
        whole = {"capacity": interface.max_ticks} if config.memory == "full_history" else {}
        streams = {name: (tokens, width) for name, tokens in self.trunk.streams.items()}
        streams[COGNITIVE] = (1, cognitive_width)
        self.memory = build_memory(config.memory, streams, {**whole, **config.memory_config})
        self.fuse = nn.ModuleDict(
            {
                name: GateFusion(d, config.fusion, config.gate_weighs)
                for name, (_, d) in streams.items()
            }
        )
        condition = 2 * width if full else cognitive_width
        if full:
            self.place = nn.Linear(3, width)
            self.readout = TokenReadout(width, cognitive_width, width, config.readout_queries, 3)
            self.condition = nn.Linear(cognitive_width + 2 * width, condition)
        self.goal: GoalHead | None = None
        if config.goal_loss:
            reach = self.trunk.REACH_M * GOAL_SCALE
            sees = cognitive_width if config.goal_sees == "scene" else width
            self.goal = GoalHead(2 * width, width, sees, width, reach)
            self.tell_goal = nn.Sequential(
                nn.Linear(6, 2 * width), nn.SiLU(), nn.Linear(2 * width, condition)
            )
        self.register_buffer("goal_center", torch.zeros(3))
        self.action_norm = ActionNormalizer(interface.action_size)
        self.head = build_action_head(
            config.head, interface.action_size, config.horizon, condition, width
        )
        self.act_steps = config.head.steps
        self.spec = self._spec()

    @classmethod
    def stored_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        plain, encoder = dict(config), config.get("encoder", {})
        if config.get("trunk") in RESIZED and isinstance(encoder, Mapping):
            plain["encoder"] = {"resize": True, **encoder}
        return plain

    def _spec(self) -> PolicySpec:
        used = dict(self.trunk.inputs)
        for key in self.read:
            used[key] = self.interface.observations[key]
        state = {
            name: ArraySpec(tuple(t.shape[1:]), str(t.dtype).removeprefix("torch."))
            for name, t in self.initial_state(1).items()
        }
        size, horizon = self.interface.action_size, self.config.horizon
        return PolicySpec(
            observations=used,
            action=ActionSpec(EE_DELTA_CHUNK, size, horizon),
            control_hz=self.interface.control_hz,
            observe_on=self.interface.observe_on,
            observe_period_s=self.interface.observe_period_s,
            noise_shape=(horizon, size),
            noise_law=GAUSSIAN,
            state=state,
        )

    def set_statistics(self, statistics: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Fills the normalisation buffers from dataset statistics.

        Args:
          statistics: ``action`` (``low``, ``high`` [A]), ``eef_pos_world_m`` (``low``) and it
            and each proprioceptive key (``mean``, ``std``), each image key (``mean`` float
            [H, W, 3] in 0..1).
        """

        def tensor(key: str, name: str) -> Tensor:
            return torch.as_tensor(np.asarray(statistics[key][name]), dtype=torch.float32)

        self.action_norm.set_statistics(tensor("action", "low"), tensor("action", "high"))
        self.goal_center.copy_(tensor(HAND, "mean"))
        if self.config.proprio:
            mean = torch.cat([tensor(key, "mean").reshape(-1) for key in self.config.proprio])
            std = torch.cat([tensor(key, "std").reshape(-1) for key in self.config.proprio])
            self.proprio_norm.set_statistics(mean, std)
        images = [key for key in self.trunk.inputs if key.endswith("_image_u8")]
        self.trunk.set_statistics(
            {key: tensor(key, "mean").permute(2, 0, 1) for key in images},
            tensor(HAND, "low"),
        )

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.memory.initial(batch, capacity)

    # ---- one tick -------------------------------------------------------------------

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        seen, cognitive, context = self._perceive(obs)
        query = self._streams(seen.tokens, cognitive)
        value, pending = self.memory.read(query, time_s, state, reset)
        fused = self._fuse(query, value)
        item = fused if self.config.store == "fused" else query
        state = self.memory.write(pending, item, time_s, state)
        features, goals = self._decide(seen, value, fused, context)
        if goals is not None:
            self._point_at_goal(features, goals.mode(), obs[HAND])
        return Working(features), state

    @torch.no_grad()
    def inspect(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> dict[str, Tensor]:
        seen, cognitive, context = self._perceive(obs)
        query = self._streams(seen.tokens, cognitive)
        state = self.memory.clear(state, reset)
        value, _ = self.memory.read(query, time_s, state, torch.zeros_like(reset))
        report = self.memory.inspect(query, time_s, state)
        for name, fusion in self.fuse.items():
            gate = fusion.gate(query[name], value[name])  # type: ignore[operator]
            report[f"{name}.gate"] = gate.mean(dim=-1)
        _, goals = self._decide(seen, value, self._fuse(query, value), context)
        if goals is not None:
            report["goal.weight"] = goals.log_weight.exp()
            report["goal.pos_world_m"] = goals.mode() / GOAL_SCALE + self.goal_center
        return report

    def act(self, working: Working, noise: Tensor) -> Action:
        working, chunk = self.prepare(working), noise
        for step in range(self.act_steps):
            noise, chunk = self.act_step(working, noise, step)
        return Action(chunk)

    def prepare(self, working: Working) -> Working:
        features = dict(working.features)
        keys_values = self.head.dit.keys_values(features.pop("perceptual"))
        for block, (keys, values) in enumerate(keys_values):
            features |= {f"keys.{block}": keys, f"values.{block}": values}
        return Working(features, working.record)

    def act_step(
        self, working: Working, carried: Tensor, step: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        features = working.features
        blocks = range(len(self.head.dit.blocks))
        keys_values = [(features[f"keys.{b}"], features[f"values.{b}"]) for b in blocks]
        start = carried * self.config.head.temperature
        if isinstance(step, Tensor):  # one graph for all steps, where it is exported
            start = torch.where(step == 0, start, carried)
        elif step:
            start = carried
        chunk = self.head.denoise(start, step, features["condition"], keys_values)
        return chunk, self.action_norm.denormalize(chunk)

    def _perceive(self, obs: Observation) -> tuple[Perception, Tensor, Tensor | None]:
        """Encodes the present: perception, cognitive token [B, 1, Z], context [B, D].

        The context is the instruction and the arm's own state; None where nothing asks for it.
        Positions are in the unit of goals, from their centre.
        """
        seen = self.trunk(obs)
        places = (seen.positions - self.goal_center) * GOAL_SCALE
        seen.positions = places.clamp(-FAR, FAR)
        arm: Tensor | float = 0.0
        if self.config.proprio:
            parts = [obs[key].flatten(1) for key in self.config.proprio]
            arm = self.proprio(self.proprio_norm(torch.cat(parts, dim=-1)))
        heard = obs[INSTRUCTION] if seen.cognitive is None else seen.cognitive
        context = None if self.instruction is None else self.instruction(heard) + arm
        if seen.cognitive is None:
            cognitive = self.cognition(seen.tokens, seen.positions * UNIT, context, seen.mask)
            cognitive = cognitive + self.widen(context)
        else:
            cognitive = self.cognition(seen.cognitive)
            if self.config.proprio:
                cognitive = cognitive + self.widen(arm)
        return seen, cognitive[:, None], context

    def _streams(self, tokens: Tensor, cognitive: Tensor) -> Streams:
        """Splits concatenated perceptual tokens [..., N, D] into the streams of the memory."""
        sizes = list(self.trunk.streams.values())
        parts = tokens.split(sizes, dim=-2)
        return {**dict(zip(self.trunk.streams, parts, strict=True)), COGNITIVE: cognitive}

    def _fuse(self, query: Streams, value: Streams) -> Streams:
        return {name: self.fuse[name](query[name], value[name]) for name in query}

    def _decide(
        self, seen: Perception, value: Streams, fused: Streams, context: Tensor | None
    ) -> tuple[dict[str, Tensor], GoalMixture | None]:
        """Reads the fused tokens out into the conditions of the action expert, and goals."""
        cognitive = fused[COGNITIVE][:, 0]
        perceptual = torch.cat([fused[name] for name in self.trunk.streams], dim=1)
        features = {"condition": cognitive, "perceptual": perceptual * seen.mask[..., None]}
        if self.config.condition == "full":
            positions = seen.positions * UNIT
            summary = self.readout(perceptual, positions, cognitive, seen.mask)
            told = torch.cat([cognitive, summary, context], dim=-1)
            placed = perceptual + self.place(positions)
            features = {
                "condition": self.condition(told),
                "perceptual": placed * seen.mask[..., None],
            }
        if self.goal is None:
            return features, None
        # Where what is seen agrees with what memory returned for it, something was recognised.
        recalled = torch.cat([value[name] for name in self.trunk.streams], dim=1)
        agreement = (_token_groups(seen.tokens) * _token_groups(recalled)).flatten(-2)
        tokens = torch.cat([seen.tokens, perceptual], dim=-1)
        sees = cognitive if self.config.goal_sees == "scene" else context
        return features, self.goal(tokens, agreement, seen.positions, sees, seen.mask)

    def _point_at_goal(
        self, features: dict[str, Tensor], goal: Tensor, hand_pos_world_m: Tensor
    ) -> None:
        """Tells the action expert the goal [B, 3], and how it lies from the hand."""
        features["goal"] = goal
        condition = features["condition"]
        way = goal - (hand_pos_world_m - self.goal_center) * GOAL_SCALE
        told = torch.cat([goal * UNIT, way], dim=-1).to(condition.dtype)
        features["condition"] = condition + self.tell_goal(told)

    def prompt(self) -> Prompt | None:
        trunk = self.trunk
        return trunk.encoder.prompt() if isinstance(trunk, EncodedImageTrunk) else None

    # ---- what never learns ------------------------------------------------------------

    def frozen_key(self) -> dict[str, Any]:
        trunk = self.trunk
        if not isinstance(trunk, EncodedImageTrunk) or not trunk.frozen:
            return {}
        prompt = self.prompt()
        return {
            "version": self.version,
            "encoder": self.config.trunk,
            "options": dataclasses.asdict(trunk.encoder.options),
            "token_grid": self.config.token_grid,
            "prompt": None if prompt is None else prompt.rule.to_json(),
            "cameras": {name: trunk.sizes[name] for name in trunk.names},
            "weights": trunk.encoder.weights_sha or module_digest(trunk.encoder),
        }

    def frozen_inputs(self) -> list[str]:
        assert isinstance(self.trunk, EncodedImageTrunk)
        # Where tokens are grounded, colours are read from the pictures too.
        return [] if self.trunk.grounding else [name + IMAGE for name in self.trunk.names]

    def encode_frozen(self, segment: Segment, generator: torch.Generator) -> dict[str, Tensor]:
        trunk, shape = self.trunk, segment.valid.shape
        assert isinstance(trunk, EncodedImageTrunk)
        keys = [*(name + IMAGE for name in trunk.names), INSTRUCTION]
        rows = {key: segment.obs[key].flatten(0, 1).split(ROWS_AT_ONCE) for key in keys}
        parts = [
            trunk.encode({key: some[i] for key, some in rows.items()})
            for i in range(len(rows[INSTRUCTION]))
        ]
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {CACHED + name: value.half().unflatten(0, shape) for name, value in whole.items()}

    # ---- learning -------------------------------------------------------------------

    def loss(
        self, segment: Segment, state: State, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Flow (or noise) loss on the chunks of acting ticks, plus the hindsight goal loss.

        On a CPU padding is not encoded and held ticks are not decoded. Leaving them out looks
        at the data, so on other devices every row is computed and masks give it its weight.
        """
        batch, ticks = segment.valid.shape
        few = looks_at_data(segment.valid)
        rows = chosen_rows(segment.valid.reshape(-1), few)

        def at(rows: Tensor, tensor: Tensor) -> Tensor:
            return tensor.flatten(0, 1)[rows]

        kept = [key for key in segment.obs if key.startswith(CACHED)]
        # Beside kept outputs, batches lack what only the encoder reads.
        given = [key for key in self.spec.observations if not kept or key in segment.obs]
        obs = {key: at(rows, segment.obs[key]) for key in [*given, *kept]}
        seen, cognitive, context = self._perceive(obs)

        def grid(tensor: Tensor) -> Tensor:
            return on_grid(tensor, rows, batch, ticks)

        items = self._streams(grid(seen.tokens), grid(cognitive))
        # Stored fused tokens need every read, as in acting; raw ones let held ticks skip theirs.
        item_of, read_mask = None, segment.act_mask
        if self.config.store == "fused":
            item_of, read_mask = self._fuse, None
        values, state = self.memory.unroll(
            items, segment.time_s, state, segment.is_first, segment.valid, read_mask, item_of
        )
        # Only acting ticks count; `keep` finds them among the encoded rows.
        acts = segment.act_mask & segment.valid
        keep = chosen_rows(at(rows, acts), few)
        acting = rows[keep]
        value = {name: at(acting, tensor) for name, tensor in values.items()}
        fused = self._fuse({name: at(acting, tensor) for name, tensor in items.items()}, value)
        seen = Perception(seen.tokens[keep], seen.positions[keep], seen.mask[keep])
        context = None if context is None else context[keep]
        features, goals = self._decide(seen, value, fused, context)
        counts = at(acting, acts)
        loss, metrics = torch.zeros((), device=counts.device), {}
        if goals is not None:
            goal_valid = at(acting, segment.extras["goal_valid"]) & counts
            target = at(acting, segment.extras["goal_pos_world_m"]) - self.goal_center
            target, mode = target * GOAL_SCALE, goals.mode().detach()
            miss = -goals.log_prob(target[:, None])[:, 0]
            first = at(acting, _new_goals(segment.extras["goal_pos_world_m"], acts))
            weight = torch.where(first, self.config.goal_first_weight, 1.0) * goal_valid
            goal_loss = (miss * weight).sum() / weight.sum().clamp(min=1e-6)
            loss = self.config.goal_loss * goal_loss
            error_m = (mode - target).norm(dim=-1) / GOAL_SCALE
            metrics = {
                "goal_loss": goal_loss.detach(),
                "goal_error_m": masked_mean(error_m, goal_valid),
                "goal_first_error_m": masked_mean(error_m, goal_valid & first),
            }
            # The expert learns from true goals, a little off: which one is the goal head's task.
            off = torch.randn(target.shape, generator=generator, device=target.device)
            told = target + off * (self.config.goal_noise_m * GOAL_SCALE)
            told = torch.where(goal_valid[:, None], told, mode)
            self._point_at_goal(features, told, at(acting, segment.obs[HAND]))
        chunk = self.action_norm.normalize(at(acting, segment.chunk)[:, : self.config.horizon])
        weight = at(acting, segment.chunk_valid)[:, : self.config.horizon] & counts[:, None]
        action_loss = self.head.loss(
            chunk, weight, features["condition"], features["perceptual"], generator
        )
        loss = loss + action_loss
        metrics = {"loss": loss.detach(), "action_loss": action_loss.detach(), **metrics}
        return LossOutput(loss, metrics, state)


def _new_goals(goal_pos: Tensor, acts: Tensor) -> Tensor:
    """Returns at which of the acting ticks [B, T] the goal [B, T, 3] is not the one before."""
    same = (goal_pos[:, 1:] - goal_pos[:, :-1]).norm(dim=-1) < SAME_GOAL_M
    goes_on = torch.zeros_like(acts)
    goes_on[:, 1:] = same & acts[:, :-1]
    return acts & ~goes_on


def _as_wide(width: int, wanted: int) -> nn.Module:
    """Returns a linear map to the wanted width, or nothing where it is that wide."""
    return nn.Identity() if width == wanted else nn.Linear(width, wanted)


def _token_groups(tokens: Tensor) -> Tensor:
    """Returns the four parts [..., 4, D/4] of tokens [..., D], each brought to unit scale."""
    parts = tokens.unflatten(-1, (4, -1))
    return nn.functional.rms_norm(parts, parts.shape[-1:], eps=1e-4)
