"""Learning and acting: each memory in the same policy, against the memoryless twin.

The data is made up, in the shape of RememberColor easy from one 64 px camera: whole episodes
of 12 to 17 observation ticks, of which the last three act. A sample is one observation tick.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from benchmarks.timing import Figure, Plan, Slice, milliseconds, repeat, take_turns
from embodied import registry
from embodied.commands.compose import config_root
from embodied.config import from_plain, load_yaml
from embodied.core.policy import Policy
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.core.types import Segment
from embodied.memory import MEMORIES
from embodied.train.config import OptimConfig, TrainConfig
from embodied.train.optim import Ema, learning_rate, make_optimizer

TASK, TWIN, MAIN = "remember_color", "none", "perceptual_cognitive"
INTERFACE = Interface(
    observations={
        "eef_pos_world_m": ArraySpec((3,), "float32"),
        "eef_quat_xyzw": ArraySpec((4,), "float32"),
        "gripper_opening": ArraySpec((1,), "float32"),
        "joint_pos_rad": ArraySpec((7,), "float32"),
        "instruction_u8": ArraySpec((160,), "uint8"),
        **camera_specs("front", 64),
    },
    max_ticks=35,
)
LENGTHS, ACTING, LABEL_HORIZON = (12, 13, 14, 15, 16, 17), 3, 16
"""Observation ticks of an episode (10 % to 90 % of 2,500 demonstrations), those that act, K."""
BATCH = TrainConfig(task=[TASK]).batch_episodes
SAMPLES, COST = "samples/s", "ms a sample"


def measure(plan: Plan, batch: int = BATCH) -> list[Figure]:
    """Returns all figures of training and acting."""
    torch.set_num_threads(1)
    return [*training(plan, batch), *acting(plan, 1), *acting(plan, 16)]


def training(plan: Plan, batch: int) -> Iterator[Figure]:
    """Yields samples/s of each memory, and what each costs against the twin."""
    rates = take_turns({name: learning(build(name), segment(batch)) for name in MEMORIES}, plan)
    cost = {name: milliseconds(values) for name, values in rates.items()}
    for name in _memories():
        yield Figure(
            "train_cost_vs_memoryless" + ("" if name == MAIN else f"_{name}"),
            cost[name],
            cost[TWIN],
            COST,
            f"{name} against none, {batch} episodes a step",
        )
    for name in MEMORIES:
        yield Figure(f"train_samples_{name}", rates[name], None, SAMPLES, f"memory={name}")


def acting(plan: Plan, batch: int) -> Iterator[Figure]:
    """Yields milliseconds of a policy step (observe, then act) with a full memory."""
    rates = take_turns({name: stepping(build(name), batch) for name in MEMORIES}, plan)
    cost = {name: milliseconds(values) for name, values in rates.items()}
    for name in _memories():
        yield Figure(
            "policy_step_ms"
            + ("" if batch == 1 else f"_batch{batch}")
            + ("" if name == MAIN else f"_{name}"),
            cost[name],
            cost[TWIN],
            "ms",
            f"{name} against none, observe and act, batch {batch}",
        )


def _memories() -> list[str]:
    return [name for name in MEMORIES if name != TWIN]


def build(memory: str, interface: Interface = INTERFACE, **options: object) -> Policy:
    """Returns an untrained MemoryVLA with a memory, as ``embodied train memory=...`` makes it.

    Args:
      memory: Name of the memory.
      interface: What it is built for.
      **options: Fields of its configuration.
    """
    memory_config = load_yaml(config_root() / "memory" / f"{memory}.yaml")["config"]
    schema = registry.policy_config_class("memory_vla")
    plain = {"memory": memory, "memory_config": memory_config, **options}
    torch.manual_seed(0)
    config = from_plain(schema, plain, where="bench")
    return registry.policy_class("memory_vla")(config, interface)


def segment(
    batch: int,
    seed: int = 0,
    interface: Interface = INTERFACE,
    lengths: Sequence[int] = LENGTHS,
) -> Segment:
    """Returns `batch` made-up episodes as `SegmentDataset` would give them."""
    random = np.random.default_rng(seed)
    lengths = np.array(list(itertools.islice(itertools.cycle(lengths), batch)))
    ticks = int(lengths.max())
    tick = np.arange(ticks)[None]
    valid = tick < lengths[:, None]
    act = valid & (tick >= lengths[:, None] - ACTING)
    shape = (batch, ticks)
    chunk = random.uniform(-1, 1, (*shape, LABEL_HORIZON, INTERFACE.action_size))
    arrays = {
        "time_s": np.broadcast_to(tick * interface.observe_period_s, shape).astype(np.float32),
        "is_first": np.broadcast_to(tick == 0, shape).copy(),
        "valid": valid,
        "act_mask": act,
        "chunk": chunk.astype(np.float32),
        "chunk_valid": np.repeat(act[..., None], LABEL_HORIZON, axis=-1),
    }
    goal = random.uniform(-0.2, 0.2, (*shape, 3)).astype(np.float32)
    return Segment(
        obs={k: torch.from_numpy(v) for k, v in observation(shape, random, interface).items()},
        **{key: torch.from_numpy(value) for key, value in arrays.items()},
        extras={"goal_pos_world_m": torch.from_numpy(goal), "goal_valid": torch.from_numpy(act)},
    )


def observation(
    lead: tuple[int, ...], random: np.random.Generator, interface: Interface = INTERFACE
) -> dict[str, np.ndarray]:
    """Returns random observations with the leading axes `lead`."""
    return {
        key: random.integers(0, 256, (*lead, *spec.shape)).astype(np.uint8)
        if spec.dtype == "uint8"
        else random.standard_normal((*lead, *spec.shape)).astype(np.float32)
        for key, spec in interface.observations.items()
    }


def learning(policy: Policy, data: Segment) -> Slice:
    """Whole updates as the trainer does them, on one segment at hand; units are its ticks."""
    config, steps = OptimConfig(), itertools.count()
    optimizer, ema = make_optimizer(policy, config), Ema(policy, config.ema)
    noise, batch = torch.Generator().manual_seed(0), len(data.valid)
    policy.train()

    def update() -> None:
        step = next(steps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step, 10**6)
        out = policy.loss(data, policy.initial_state(batch), noise)
        optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.clip_norm)
        optimizer.step()
        ema.update(policy, step)

    return repeat(update, int(data.valid.sum()))


def stepping(policy: Policy, batch: int, interface: Interface = INTERFACE) -> Slice:
    """Policy steps at the last tick of the longest episode, so that memory is as full as ever."""
    policy.eval()
    random = np.random.default_rng(0)
    obs = {k: torch.from_numpy(v) for k, v in observation((batch,), random, interface).items()}
    noise = torch.from_numpy(
        random.standard_normal((batch, *policy.spec.noise_shape)).astype(np.float32)
    )
    reset = torch.zeros(batch, dtype=torch.bool)

    def clock(tick: int) -> torch.Tensor:
        return torch.full((batch,), tick * interface.observe_period_s)

    with torch.inference_mode():
        state = policy.initial_state(batch)
        for tick in range(max(LENGTHS) - 1):
            state = policy.observe(obs, clock(tick), state, reset | (tick == 0))[1]
    last = clock(max(LENGTHS) - 1)

    def work(seconds: float) -> tuple[float, float]:
        with torch.inference_mode():
            calls, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < seconds or not calls:
                policy.step(obs, last, state, reset, noise)
                calls += 1
        return calls, spent

    return work
