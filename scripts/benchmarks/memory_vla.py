"""MemoryVLA at its small size: the bank alone, the whole step, what memory costs in training.

The small size is the preset ``small``: one token for 8x8 pixels of 64 px cameras, 96 channels,
10 denoising steps. Times are of one thread.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator

import torch

from benchmarks import train
from benchmarks.timing import Figure, Plan, milliseconds, take_turns
from embodied.core.specs import Interface, camera_specs
from embodied.core.types import State
from embodied.memory.base import Memory

TWO_CAMERAS = Interface(
    observations={**train.INTERFACE.observations, **camera_specs("wrist", 64)}, max_ticks=35
)
TINY = {"trunk": "tiny"}
SOON, LATE = 100, 10_000
"""Ticks at which the bank is timed."""
SEGMENTS = (16, 64, 256)
"""Observation ticks of the segments whose peak memory is measured."""


def measure(plan: Plan, batch: int = train.BATCH, late: int = LATE) -> list[Figure]:
    """Returns all figures of MemoryVLA."""
    torch.set_num_threads(1)
    return [*bank(plan, late), *acting(plan), *training(plan, batch), *peak_memory()]


def bank(plan: Plan, late: int = LATE) -> Iterator[Figure]:
    """Yields the milliseconds of a read and a write of a full bank of 16 slots, soon and late."""
    memory = train.build(train.MAIN).eval().memory
    calls = max(20, int(100 * plan.slice_s))
    rounds: dict[int, list[float]] = {SOON: [], late: []}
    states = {tick: _after(memory, tick) for tick in rounds}
    for turn in range(plan.rounds + 1):
        for tick, state in states.items():
            median = _median_ms(memory, state, tick, calls)
            if turn:  # the first one warms caches
                rounds[tick].append(median)
    yield Figure("bank_ms_p50", rounds[SOON], None, "ms", "read and write, 16 slots, batch 1")
    yield Figure(
        "bank_flatness_10k", rounds[late], rounds[SOON], "ms", f"tick {late:,} against {SOON}"
    )


def acting(plan: Plan) -> Iterator[Figure]:
    """Yields policy steps a second from two cameras, and what a batch gains."""
    policy = train.build(train.MAIN, TWO_CAMERAS)
    rivals = {n: train.stepping(policy, n, TWO_CAMERAS) for n in (1, 16)}
    rates = take_turns({str(n): work for n, work in rivals.items()}, plan)
    yield Figure("policy_hz", rates["1"], None, "steps/s", "observe and act, two 64 px cameras")
    yield Figure(
        "batch16_vs_batch1",
        [16 * rate for rate in rates["16"]],
        rates["1"],
        "rows/s",
        "16 rows at once against one",
    )


def training(plan: Plan, batch: int) -> Iterator[Figure]:
    """Yields what memory costs in training, with the convolutional stem and the tiny trunk."""
    data = train.segment(batch)
    for suffix, options in (("", {}), ("_tiny", TINY)):
        rivals = {
            name: train.learning(train.build(name, **options), data)
            for name in (train.MAIN, train.TWIN)
        }
        cost = {name: milliseconds(rates) for name, rates in take_turns(rivals, plan).items()}
        yield Figure(
            f"train_cost_vs_memoryless{suffix}",
            cost[train.MAIN],
            cost[train.TWIN],
            train.COST,
            f"with memory against without, trunk {options.get('trunk', 'conv')}",
        )


def peak_memory() -> Iterator[Figure]:
    """Yields the peak memory of an update over segments of several lengths, each in a process."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        for ticks in SEGMENTS:
            peaks = {
                memory: pool.apply(_peak_mb, (memory, ticks)) for memory in (train.MAIN, train.TWIN)
            }
            yield Figure(
                f"peak_mb_{ticks}_ticks",
                [peaks[train.MAIN]],
                [peaks[train.TWIN]],
                "MB",
                f"process at its largest, 4 segments of {ticks} ticks, with and without memory",
            )


def _peak_mb(memory: str, ticks: int) -> float:
    torch.set_num_threads(1)
    policy = train.build(memory)
    data = train.segment(4, lengths=[ticks])
    out = policy.loss(data, policy.initial_state(4), torch.Generator().manual_seed(0))
    out.loss.backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.inference_mode()
def _after(memory: Memory, ticks: int) -> State:
    """Returns the bank's state after so many ticks of random tokens."""
    state = memory.initial(1)
    for tick in range(ticks):
        _, state = memory.step(_query(memory, tick), _clock(tick), state, torch.tensor([False]))
    return state


@torch.inference_mode()
def _median_ms(memory: Memory, state: State, tick: int, calls: int) -> float:
    query, clock, reset = _query(memory, tick), _clock(tick), torch.tensor([False])
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        memory.step(query, clock, state, reset)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def _query(memory: Memory, tick: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(tick)
    return {n: torch.randn(1, *shape, generator=generator) for n, shape in memory.streams.items()}


def _clock(tick: int) -> torch.Tensor:
    return torch.full((1,), tick * train.INTERFACE.observe_period_s)
