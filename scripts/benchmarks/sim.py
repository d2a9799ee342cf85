"""Simulation: our fast control and lite pictures against robosuite as it comes.

The rival is ``robosuite.make("Lift", robots="Panda")`` with its default OSC_POSE controller:
the same arm, gripper, table, 7-D action and 20 Hz tick as ours, and one cube. Our RememberColor
holds more (three cubes, phase lamp). Resets are not part of step figures, on either side.
"""

from __future__ import annotations

import importlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np

from benchmarks.timing import Figure, Plan, Slice, repeat, take_turns
from embodied import registry
from embodied.core.rng import derive
from embodied.core.task import EnvConfig

TASK, LEVEL = "remember_color", "easy"
STATE = EnvConfig(observation="state")
ROWS = 8
CAMERAS, STOCK_CAMERAS = ["front", "wrist"], ["agentview", "robot0_eye_in_hand"]
IMAGE_SIZE = 64
STEPS, RESETS = "steps/s", "resets/s"


def measure(plan: Plan) -> list[Figure]:
    """Returns all figures of the simulator."""
    return [
        *against_stock(plan),
        *workers(plan, ROWS),
    ]


# -- against stock robosuite ------------------------------------------------------------------


def against_stock(plan: Plan) -> list[Figure]:
    """Steps without pictures, steps with two pictures each, and resets."""
    figures = []
    with closing(registry.make_env(TASK, LEVEL, STATE)) as ours:
        stock, soft = stock_env(), stock_env(hard_reset=False)
        seeds = itertools.count(1)
        rates = take_turns(
            {"ours": _ours(ours), "stock": _stock(soft)},
            plan,
        )
        figures.append(
            Figure("fast_vs_stock_steps", rates["ours"], rates["stock"], STEPS,
                   "RememberColor, state, against robosuite Lift, OSC_POSE")
        )  # fmt: skip
        rates = take_turns(
            {
                "ours": repeat(lambda: ours.reset(seed=next(seeds))),
                "stock": repeat(stock.reset),
                "soft": repeat(soft.reset),
            },
            plan,
        )
        figures += [
            Figure("resets", rates["ours"], rates["stock"], RESETS,
                   "RememberColor against robosuite Lift as it comes"),
            Figure("resets_vs_soft", rates["ours"], rates["soft"], RESETS,
                   "RememberColor against robosuite Lift, hard_reset=False"),
        ]  # fmt: skip
        stock.close()
        soft.close()
    pictures = EnvConfig(cameras=CAMERAS, image_size=IMAGE_SIZE)
    with closing(registry.make_env(TASK, LEVEL, pictures)) as ours:
        stock = stock_env(
            hard_reset=False,  # every hard one keeps some 300 MB of the renderer
            use_camera_obs=True,
            has_offscreen_renderer=True,
            camera_names=STOCK_CAMERAS,
            camera_heights=IMAGE_SIZE,
            camera_widths=IMAGE_SIZE,
        )
        rates = take_turns({"ours": _ours(ours), "stock": _stock(stock)}, plan)
        stock.close()
    figures.append(
        Figure("fast_vs_stock_rgb2x64", rates["ours"], rates["stock"], STEPS,
               "the same, two 64 px pictures a step (front/agentview, wrist)")
    )  # fmt: skip
    return figures


def stock_env(**options: Any) -> Any:
    """Returns robosuite's Lift with its default controller, without a viewer."""
    # First, because it chooses the GL backend and quietens robosuite.
    importlib.import_module("sims.memory_bench.scene")
    import robosuite

    settings = {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "control_freq": 20,
        "ignore_done": True,
        "seed": 0,
        **options,
    }
    env = robosuite.make("Lift", robots="Panda", **settings)
    controller = env.robots[0].part_controllers["right"]
    if type(controller).__name__ != "OperationalSpaceController" or env.action_dim != 7:
        raise RuntimeError(f"robosuite's Panda no longer starts with OSC_POSE but {controller}")
    return env


def smooth_actions(count: int, seed: int = 0) -> np.ndarray:
    """Returns float32 [count, 7] in [-0.5, 0.5]: motions that wander about the table's centre."""
    noise = derive(seed, "bench_actions").standard_normal((count + 9, 7))
    smooth = np.stack([np.convolve(column, np.ones(10) / 10, "valid") for column in noise.T], 1)
    return np.clip(0.7 * smooth, -0.5, 0.5).astype(np.float32)


def _ours(env: Any) -> Slice:
    seeds = itertools.count(1)

    def step(action: np.ndarray) -> bool:
        _, _, terminated, truncated, _ = env.step(action)
        return terminated or truncated

    return _stepping(step, lambda: env.reset(seed=next(seeds)))


def _stock(env: Any) -> Slice:
    # robosuite makes its GL context current once, when it makes it. Beside another renderer it
    # would go on with that one's, and draw that one's cheap scene.
    renderer = env.sim._render_context_offscreen

    def own(call: Callable[..., Any], *arguments: Any) -> Any:
        if renderer is not None:
            renderer.gl_ctx.make_current()
        return call(*arguments)

    return _stepping(lambda action: own(env.step, action)[2], lambda: own(env.reset))


def _stepping(step: Callable[[np.ndarray], bool], restart: Callable[[], object]) -> Slice:
    """Steps through the same actions on both sides; the clock stands during restarts."""
    actions = smooth_actions(400)

    def work(seconds: float) -> tuple[float, float]:
        restart()
        count, spent = 0, 0.0
        while spent < seconds:
            began = time.perf_counter()
            over = step(actions[count % len(actions)])
            spent += time.perf_counter() - began
            count += 1
            if over or count % len(actions) == 0:
                restart()
        return count, spent

    return work


# -- worker processes -------------------------------------------------------------------------


def workers(plan: Plan, rows: int) -> Iterator[Figure]:
    """Yields what worker processes bring, without pictures and with one at every step."""
    for suffix, config in (("", STATE), ("_rgb", EnvConfig(image_size=IMAGE_SIZE))):
        vectors = {count: _vector(config, rows, count) for count in (0, 1, 2)}
        try:
            rates = take_turns({str(n): _vector_steps(v) for n, v in vectors.items()}, plan)
        finally:
            for vector in vectors.values():
                vector.close()
        seen = "one 64 px picture a step" if suffix else "state"
        what = f"{rows} rows, {seen}, resets included"
        yield Figure(f"vector_scaling{suffix}", rates["2"], rates["1"], STEPS,
                     f"two workers against one, {what}")  # fmt: skip
        yield Figure(f"vector_worker_vs_none{suffix}", rates["1"], rates["0"], STEPS,
                     f"one worker against none, {what}")  # fmt: skip


def _vector(config: EnvConfig, rows: int, count: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on one core two workers are no mistake here
        return registry.make_vec(TASK, LEVEL, config, rows, count, autoreset="same_step")


def _vector_steps(vector: Any) -> Slice:
    rows = vector.num_envs
    actions = smooth_actions(400 * rows).reshape(400, rows, 7)
    turns = itertools.cycle(actions)
    vector.reset(seed=1)
    return repeat(lambda: vector.step(next(turns)), rows)
