"""The exported small MemoryVLA against the same network in torch, and behind a server.

The network is the preset ``small`` untrained: two 64 px cameras, 10 denoising steps. One thread,
one row, unless said otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks import train
from benchmarks.memory_vla import TWO_CAMERAS
from benchmarks.timing import Figure, Plan, milliseconds, repeat, take_turns
from embodied.config import to_plain
from embodied.core.policy import Policy
from embodied.export.bundle import write_bundle
from embodied.export.live import LiveEngine
from embodied.serve.bundle import Bundle, read_bundle
from embodied.serve.client import Client
from embodied.serve.runtime import Runtime
from embodied.serve.server import Server, ServerConfig
from embodied.serve.sessions import Engine
from embodied.train.checkpoint import LoadedPolicy, PolicyMeta

CLIENTS = 16


def measure(plan: Plan, clients: int = CLIENTS) -> list[Figure]:
    """Returns all figures of exported policies."""
    torch.set_num_threads(1)
    policy = train.build(train.MAIN, TWO_CAMERAS).eval()
    loaded = _as_loaded(policy)
    with tempfile.TemporaryDirectory() as directory:
        path = write_bundle(loaded, _seen(policy, 20), Path(directory) / "bundle", (1, clients))
        bundle = read_bundle(path)
        return [*steps(plan, loaded, bundle), *serving(plan, bundle, clients)]


def steps(plan: Plan, loaded: LoadedPolicy, bundle: Bundle) -> Iterator[Figure]:
    """Yields what a step costs: observe and act."""
    runtime, eager = Runtime(bundle), LiveEngine(loaded)
    obs = _seen(loaded.policy, 1)[0]
    rates = take_turns(
        {"ort": repeat(_step(runtime, obs)), "eager": repeat(_step(eager, obs))}, plan
    )
    yield Figure("ort_vs_eager", rates["ort"], rates["eager"], "steps/s", "observe and act")
    once, times = _step(runtime, obs), []
    for _ in range(max(50, int(200 * plan.slice_s))):
        began = time.perf_counter()
        once()
        times.append(1000 * (time.perf_counter() - began))
    yield Figure("step_ms_p50", [statistics.median(times)], None, "ms", "observe and act")
    worst = float(np.percentile(times, 99))
    yield Figure("step_ms_p99", [worst], None, "ms", "observe and act")
    state = sum(array.nbytes for array in runtime.initial(1).values())
    yield Figure("state_bytes", [float(state)], None, "bytes", "memory of one session")


def serving(plan: Plan, bundle: Bundle, clients: int) -> Iterator[Figure]:
    """Yields what the server adds to a step, and what it gains by answering many at once."""
    obs = {key: value[0] for key, value in _seen_of(bundle).items()}
    runtime = Runtime(bundle)
    with _Running(bundle) as uri, Client(uri) as client:
        once = _step(runtime, _seen_of(bundle))
        rates = take_turns(
            {"server": repeat(lambda: client.infer(obs)), "bare": repeat(once)}, plan
        )
        spent = {name: milliseconds(values) for name, values in rates.items()}
        over = [a - b for a, b in zip(spent["server"], spent["bare"], strict=True)]
        yield Figure("server_overhead_ms", over, None, "ms", "a message over loopback, less a step")
        many = [_answers_per_s(uri, clients, obs, plan.slice_s) for _ in range(plan.rounds)]
        one = [_answers_per_s(uri, 1, obs, plan.slice_s) for _ in range(plan.rounds)]
        yield Figure("sessions16_vs_1", many, one, "answers/s", f"{clients} clients against one")


def _step(engine: Engine, obs: dict[str, np.ndarray]):
    memory = {"state": engine.initial(1), "first": True}
    noise = np.zeros((1, *engine.spec.noise_shape), np.float32)

    def once() -> None:
        reset = np.array([memory["first"]])
        work, memory["state"] = engine.tick(obs, np.zeros(1, np.float32), memory["state"], reset)
        engine.answer(work, noise)
        memory["first"] = False

    return once


def _answers_per_s(uri: str, clients: int, obs: dict[str, np.ndarray], seconds: float) -> float:
    def ask(_: int) -> int:
        with Client(uri) as client:
            client.infer(obs)
            barrier.wait()
            count, until = 0, time.perf_counter() + seconds
            while time.perf_counter() < until:
                client.infer(obs)
                count += 1
            return count

    barrier = threading.Barrier(clients)
    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(ask, range(clients))) / seconds


class _Running:
    """A server in a thread of its own, while the block lasts."""

    def __init__(self, bundle: Bundle) -> None:
        self._started, self._loop = threading.Event(), asyncio.new_event_loop()
        self._server = Server(
            lambda batch: Runtime(bundle, batch),
            {},
            ServerConfig(port=0),
            sizes=[1, *bundle.graphs],
        )
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self._task = self._loop.create_task(self._server.run(lambda _: self._started.set()))
        # Cancelled by the end of the block.
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            self._loop.run_until_complete(self._task)

    def __enter__(self) -> str:
        self._thread.start()
        if not self._started.wait(30):
            raise RuntimeError("the server did not start within 30 s")
        return f"ws://127.0.0.1:{self._server.port}"

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)


def _as_loaded(policy: Policy) -> LoadedPolicy:
    meta = PolicyMeta(
        policy="memory_vla",
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=policy.interface.to_json(),
        tasks=["remember_color"],
        level="easy",
        env={},
        train={},
        package_version="0",
    )
    return LoadedPolicy(policy, meta, Path("untrained"))


def _seen(policy: Policy, ticks: int) -> list[dict[str, np.ndarray]]:
    return [_random(policy.spec.observations, tick) for tick in range(ticks)]


def _seen_of(bundle: Bundle) -> dict[str, np.ndarray]:
    return _random(bundle.spec.observations, 0)


def _random(specs: dict, seed: int) -> dict[str, np.ndarray]:
    rng, obs = np.random.default_rng(seed), {}
    for key, spec in specs.items():
        shape = (1, *spec.shape)
        if np.issubdtype(np.dtype(spec.dtype), np.integer):
            high = 255 if spec.high is None else int(spec.high)
            obs[key] = rng.integers(0, high + 1, shape).astype(spec.dtype)
        elif key.endswith(("_intrinsics", "_cam_to_world")):
            # A calibration that no camera has puts tokens metres away, where digits are few.
            obs[key] = np.broadcast_to(np.eye(spec.shape[0], dtype=spec.dtype), shape).copy()
        else:
            obs[key] = rng.standard_normal(shape).astype(spec.dtype)
    return obs
