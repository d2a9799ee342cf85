"""SAM2Act at its small size: the renderer, the search for a point, acting and learning.

The small size is the preset ``sam2act_small``: 64 px views, three cameras of 128 px. Scenes are
made up. One thread.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks import train
from benchmarks.timing import Figure, Plan, Slice, milliseconds, repeat, take_turns
from embodied import registry
from embodied.commands.compose import config_root
from embodied.config import from_plain, load_yaml
from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.core.types import Segment
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
    """Yields keyframes a second, decisions learnt a second, and what memory costs."""
    built = {memory: build(memory) for memory in MEMORIES}
    acting = take_turns({m: stepping(policy) for m, policy in built.items()}, plan)
    yield Figure(
        "keyframes_per_s", acting["spatial"], acting["none"], "keyframes/s", "with memory, without"
    )
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
