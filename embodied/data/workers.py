"""Processes that demonstrate: each owns one environment and stores what it finishes.

Workers are spawned, never forked (a fork after GL breaks rendering), run one thread each, and
write finished episodes themselves: only seeds and short reports cross the pipe. A worker whose
parent is killed ends at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import multiprocessing
import os
import platform
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

from embodied import __version__
from embodied.core.errors import DataError, EmbodiedError, SimulatorError
from embodied.core.files import write_atomic
from embodied.core.task import EnvConfig
from embodied.data import shards
from embodied.data.reader import EpisodeStore
from embodied.data.record import RecordPlan, env_facts, record_episode

EnvFactory = Callable[..., Any]
"""``factory(task, level, config: EnvConfig, render_every_step=False)`` -> Gymnasium env."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to make episodes.

    Attributes:
      task: Task name.
      level: Level name.
      config: How the environment is made.
      plan: Noise, ticks, labels.
      directory: Where finished episodes go, one file each.
      factory: Makes the environment.
      source: Dataset directory whose episodes are walked again in place of acting, or None.
      source_sha256: Content hash of the source; "" without one.
    """

    task: str
    level: str
    config: EnvConfig
    plan: RecordPlan
    directory: Path
    factory: EnvFactory
    source: Path | None = None
    source_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one seed.

    Attributes:
      seed: Episode seed.
      failure: "" when stored, else why the demonstrator failed.
    """

    seed: int
    failure: str


def package_versions() -> dict[str, str]:
    """Returns the versions that can change an episode or its pictures."""
    versions = {"embodied-memory": __version__, "python": platform.python_version()}
    for name in ("mujoco", "robosuite", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class Recorder:
    """One environment that turns seeds into episode files.

    Attributes:
      facts: See `env_facts`.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._versions = package_versions()
        self._env = job.factory(job.task, job.level, job.config, render_every_step=False)
        self._source = EpisodeStore(job.source, verify=False) if job.source else None
        self._rows = (
            {ref.seed: i for i, ref in enumerate(self._source.episodes)} if (self._source) else {}
        )
        self.facts = env_facts(self._env)

    def __call__(self, seed: int) -> Outcome:
        """Demonstrates `seed` and stores the episode, or why there is none."""
        replay = self._source.read(self._rows[seed], verify=True) if self._source else None
        result = record_episode(
            self._env,
            seed,
            self._job.plan,
            env_config=dataclasses.asdict(self._job.config),
            versions=self._versions,
            replay=replay,
        )
        failure = result if isinstance(result, str) else ""
        if isinstance(result, str):
            data = shards.failed_file_bytes(seed, result)
        else:
            data = shards.episode_file_bytes(result)
        write_atomic(self._job.directory / f"{shards.group_name(seed)}.h5", data)
        return Outcome(seed, failure)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


class Pool:
    """Runs seeds through recorders; a context manager.

    Args:
      job: What to make.
      num_workers: Processes; 0 works in this process.

    Attributes:
      facts: See `env_facts`.

    Raises:
      SimulatorError: If a worker can't make its environment, fails or dies.
    """

    def __init__(self, job: Job, num_workers: int) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self._recorder: Recorder | None = None
        if num_workers == 0:
            self._recorder = Recorder(job)
            self.facts = self._recorder.facts
            return
        context = multiprocessing.get_context("spawn")
        with _one_thread_each():
            for index in range(num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_worker, args=(job, theirs), name=f"collect-{index}", daemon=True
                )
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
        try:
            all_facts = [self._receive(i, "while starting") for i in range(num_workers)]
        except BaseException:
            self.close()
            raise
        self.facts = all_facts[0]

    def run(self, seeds: Iterable[int]) -> Iterator[Outcome]:
        """Yields the outcome of each seed as soon as it is stored, in any order."""
        if self._recorder is not None:
            yield from map(self._recorder, seeds)
            return
        queue = iter(seeds)
        busy: dict[int, int] = {}
        for index in range(len(self._pipes)):
            self._dispatch(index, queue, busy)
        while busy:
            by_pipe = {self._pipes[i]: i for i in busy}
            for pipe in connection.wait(list(by_pipe)):
                index = by_pipe[pipe]
                outcome = self._receive(index, f"on seed {busy.pop(index)}")
                self._dispatch(index, queue, busy)
                yield outcome

    def _dispatch(self, index: int, queue: Iterator[int], busy: dict[int, int]) -> None:
        seed = next(queue, None)
        if seed is not None:
            busy[index] = seed
            with contextlib.suppress(OSError):  # a dead worker is reported by _receive
                self._pipes[index].send(seed)

    def _receive(self, index: int, when: str) -> Any:
        try:
            kind, value = self._pipes[index].recv()
        except (EOFError, OSError) as error:
            self._processes[index].join(5)
            code = self._processes[index].exitcode
            raise SimulatorError(
                f"a collecting process died {when} (exit code {code}; -9 means killed, often for "
                "lack of memory); finished episodes are kept. Run the same command again, with "
                "fewer workers if memory is short"
            ) from error
        if kind == "data error":
            raise DataError(value)
        if kind == "error":
            text, trace = value
            raise SimulatorError(f"collecting failed {when}: {text}") from RuntimeError(trace)
        return value

    def close(self) -> None:
        """Stops all workers."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(0.5)
            if process.is_alive():
                process.kill()  # everything it finished is on disk
                process.join()
        if self._recorder is not None:
            self._recorder.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    # Read once when numpy loads in the child, so they must stand in its environment at start.
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _worker(job: Job, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        recorder = Recorder(job)
        pipe.send(("ok", recorder.facts))
        while True:
            pipe.send(("ok", recorder(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except DataError as error:
        pipe.send(("data error", str(error)))
    except EmbodiedError as error:
        pipe.send(("error", (str(error), traceback.format_exc())))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        pipe.send(("error", (text, traceback.format_exc())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
