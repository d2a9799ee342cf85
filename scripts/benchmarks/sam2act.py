"""SAM2Act at its small size: the renderer, the search for a point, acting and learning.

The small size is the preset ``sam2act_small``: 64 px views, three cameras of 128 px. Scenes are
made up, but those of the closed loop, which are the simulator's. One thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import train
from benchmarks.timing import Figure, Plan, Slice, milliseconds, repeat, take_turns
from embodied import registry
from embodied.collect import PAUSE_TICKS
from embodied.commands.compose import config_root
from embodied.config import from_plain, load_yaml, to_plain
from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.core.task import EnvConfig
from embodied.core.ticks import DECISION
from embodied.core.types import Action, Observation, Segment, State, Working
from embodied.data.record import RecordPlan, record_episode
from embodied.evaluate.executors.keyframe import CLIPPED
from embodied.evaluate.runner import run
from policies.sam2act import heatmaps
from policies.sam2act.cloud import Cloud
from policies.sam2act.views import render

POINTS = 65_536
SIDES = (128, 224)
MAP_SIDE = 112
DECISIONS, ROWS = 12, 2
"""Keyframes of an episode of PutBlockBack, and episodes of an update."""
INTERFACE = Interface(
    observations={
        "eef_pos_world_m": ArraySpec((3,), "float32"),
        "gripper_opening": ArraySpec((1,), "float32"),
        "instruction_u8": ArraySpec((160,), "uint8"),
        **camera_specs("front", 128, depth=True),
        **camera_specs("overhead", 128, depth=True),
        **camera_specs("wrist", 128, depth=True),
    },
    observe_on="decision",
    max_ticks=2 * DECISIONS,
)
MEMORIES = ("spatial", "none")
TASK, LEVEL, SEED = "put_block_back", "easy", 1
"""The episode of the closed loop."""


def measure(plan: Plan, sides: tuple[int, ...] = SIDES, map_side: int = MAP_SIDE) -> list[Figure]:
    """Returns all figures of SAM2Act."""
    torch.set_num_threads(1)
    return [*drawing(plan, sides), *searching(plan, map_side), *policies(plan)]


def drawing(plan: Plan, sides: tuple[int, ...]) -> Iterator[Figure]:
    """Yields the milliseconds of three views of one cloud."""
    torch.manual_seed(0)
    xyz, rgb = torch.rand(1, POINTS, 3) * 2 - 1, torch.rand(1, POINTS, 3)
    cloud = Cloud(xyz, rgb, torch.ones(1, POINTS, dtype=torch.bool))
    for side in sides:
        rates = take_turns({"ours": repeat(lambda side=side: render(cloud, side))}, plan)
        yield Figure(
            f"renderer_ms_{side}",
            milliseconds(rates["ours"]),
            None,
            "ms",
            f"three views of {side} px from {POINTS:,} points",
        )


def searching(plan: Plan, side: int) -> Iterator[Figure]:
    """Yields how much faster the exact separable search is than trying every point."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 3, side, side)
    rates = take_turns(
        {
            "separable": repeat(lambda: heatmaps.decode(logits)),
            "brute": repeat(lambda: _try_every_point(logits)),
        },
        plan,
    )
    yield Figure(
        "separable_vs_brute",
        rates["separable"],
        rates["brute"],
        "maps/s",
        f"the best point of three heatmaps of {side} px",
    )


@torch.no_grad()
def _try_every_point(logits: Tensor) -> Tensor:
    """Returns the best of S^3 points [B, 3], each read from the maps at its projections."""
    side = logits.shape[-1]
    line = -1 + (2 * torch.arange(side) + 1) / side
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    heat = logits.flatten(2).softmax(dim=-1).view_as(logits)
    pixels = heatmaps.project(grid, side)
    score = torch.zeros(len(logits), len(grid))
    for view in range(logits.shape[1]):
        at = pixels[:, view]
        low = at.floor().long().clamp(max=side - 2)
        (u, v), (right, down) = low.unbind(-1), (at - low).unbind(-1)
        seen = heat[:, view]
        upper = seen[:, v, u] * (1 - right) + seen[:, v, u + 1] * right
        lower = seen[:, v + 1, u] * (1 - right) + seen[:, v + 1, u + 1] * right
        score += torch.where((at > side - 1).any(dim=-1), 0.0, upper * (1 - down) + lower * down)
    return grid[score.argmax(dim=-1)]


def policies(plan: Plan) -> Iterator[Figure]:
    """Yields decisions and keyframes a second, decisions learnt a second, what memory costs."""
    built = {memory: build(memory) for memory in MEMORIES}
    acting = take_turns({m: stepping(policy) for m, policy in built.items()}, plan)
    yield Figure(
        "decisions_per_s",
        acting["spatial"],
        acting["none"],
        "decisions/s",
        "the network alone, with memory, without",
    )
    yield closed_loop(plan, built)
    learning = take_turns({m: train.learning(p, segment(p)) for m, p in built.items()}, plan)
    yield Figure(
        "train_samples_per_s",
        learning["none"],
        None,
        "decisions/s",
        f"{ROWS} episodes of {DECISIONS} decisions, without memory",
    )
    cost = {memory: milliseconds(rates) for memory, rates in learning.items()}
    yield Figure(
        "train_cost_vs_memoryless",
        cost["spatial"],
        cost["none"],
        "ms a decision",
        "everything learnt at once, with memory against without",
    )


def build(memory: str) -> Policy:
    """Returns an untrained SAM2Act as ``preset=sam2act_small memory=...`` makes it."""
    root = config_root()
    options = load_yaml(root / "preset" / "sam2act_small.yaml")["policy"]["config"]
    remembers = load_yaml(root / "memory" / f"{memory}.yaml")["config"]
    plain = {"memory": memory, "memory_config": remembers, **options}
    torch.manual_seed(0)
    config = from_plain(registry.policy_config_class("sam2act"), plain, where="bench")
    return registry.policy_class("sam2act")(config, INTERFACE)


def scene(policy: Policy, leading: tuple[int, ...]) -> dict[str, Tensor]:
    """Returns observations [..., ...]: cameras that look straight down on a rough table."""
    rng, obs = np.random.default_rng(0), {}
    for key, spec in policy.spec.observations.items():
        shape = (*leading, *spec.shape)
        if key.endswith("_depth_m"):
            value = rng.uniform(0.35, 0.65, shape)
        elif key.endswith("_intrinsics"):
            side = policy.spec.observations[key.replace("_intrinsics", "_depth_m")].shape[0]
            value = np.broadcast_to([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]], shape)
        elif key.endswith("_cam_to_world"):
            pose = np.diag([1.0, -1.0, -1.0, 1.0])
            pose[:3, 3] = np.add(policy.config.scene_center_m, (0.0, 0.0, 0.5))
            value = np.broadcast_to(pose, shape)
        elif spec.dtype == "uint8":
            value = rng.integers(0, 256, shape)
        else:
            value = rng.uniform(0, 1, shape)
        obs[key] = torch.from_numpy(np.array(value).astype(spec.dtype))
    return obs


def stepping(policy: Policy) -> Slice:
    """Whole steps with a memory as full as at an episode's end."""
    policy.eval()
    obs, reset = scene(policy, (1,)), torch.zeros(1, dtype=torch.bool)
    noise = torch.zeros(1, *policy.spec.noise_shape)
    with torch.inference_mode():
        state = policy.initial_state(1)
        for tick in range(DECISIONS):
            state = policy.observe(obs, torch.full((1,), float(tick)), state, reset)[1]

    def once() -> None:
        with torch.inference_mode():
            policy.step(obs, torch.full((1,), float(DECISIONS)), state, reset, noise)

    return repeat(once)


def closed_loop(plan: Plan, built: dict[str, Policy]) -> Figure:
    """Returns keyframes carried out a second: decisions, pictures, the arm's way, resets."""
    some = next(iter(built.values()))
    size = some.spec.observations[f"{some.cameras[0]}_depth_m"].shape[0]
    config = EnvConfig(observation="rgbd", cameras=some.cameras, image_size=size)
    goals = demonstrated(config)
    with closing(registry.make_vec(TASK, LEVEL, config, 1, 0)) as env:
        led = {memory: playing(Led(policy, goals), env) for memory, policy in built.items()}
        rates = take_turns(led, plan)
    return Figure(
        "keyframes_per_s",
        rates["spatial"],
        rates["none"],
        "keyframes/s",
        f"{TASK} in closed loop along a demonstration, simulator and pictures included",
    )


def demonstrated(config: EnvConfig) -> Tensor:
    """Returns the keyframes [n, 1, 9] that a demonstration heads for at each of its decisions."""
    plan = RecordPlan(0.0, DECISION, pause_ticks=PAUSE_TICKS)
    with closing(registry.make_env(TASK, LEVEL, config, render_every_step=False)) as env:
        episode = record_episode(env, SEED, plan, env_config=to_plain(config), versions={})
    if isinstance(episode, str):
        raise RuntimeError(f"the demonstrator failed: {episode}")
    return torch.from_numpy(episode.label["keyframe"]).float()[:, None]


class Led(Policy):
    """Decides, and then heads where a demonstration did: untrained weights lead an arm astray.

    Args:
      policy: What decides.
      goals: [n, 1, 9], where to head at each decision.
    """

    def __init__(self, policy: Policy, goals: Tensor) -> None:
        super().__init__()
        self.policy, self.spec, self._goals, self._at = policy, policy.spec, goals, 0

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        return self.policy.initial_state(batch, capacity)

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        self._at = 0 if bool(reset.any()) else self._at + 1
        return self.policy.observe(obs, time_s, state, reset)

    def act(self, working: Working, noise: Tensor) -> Action:
        self.policy.act(working, noise)
        return Action(self._goals[min(self._at, len(self._goals) - 1)][None])


def playing(led: Led, env: Any) -> Slice:
    """Whole episodes in one row of a vector env."""

    def work(seconds: float) -> tuple[float, float]:
        ended, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not ended:
            (row,) = run(led, env, [SEED], progress=False)
            ended += sum(n for outcome, n in row.keyframes.items() if outcome != CLIPPED)
        return ended, spent

    return work


def segment(policy: Policy) -> Segment:
    """Returns made-up episodes whose keyframes lie in the scene."""
    rng, leading = np.random.default_rng(0), (ROWS, DECISIONS)
    valid = torch.ones(leading, dtype=torch.bool)
    first = torch.zeros_like(valid)
    first[:, 0] = True
    pose = rng.standard_normal((*leading, 9)).astype(np.float32)
    pose[..., :3] = policy.config.scene_center_m + rng.uniform(-0.2, 0.2, (*leading, 3))
    pose[..., 3:7] /= np.linalg.norm(pose[..., 3:7], axis=-1, keepdims=True)
    return Segment(
        obs=scene(policy, leading),
        time_s=torch.arange(DECISIONS).expand(leading).float(),
        is_first=first,
        valid=valid,
        act_mask=valid,
        chunk=torch.zeros(*leading, 1, 9),
        chunk_valid=valid[..., None],
        extras={"keyframe": torch.from_numpy(pose), "keyframe_valid": valid},
    )
