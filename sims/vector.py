"""Many environments at once: rows in this process, or in worker processes with shared arrays."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import batch_space

from embodied.core import errors
from embodied.core.errors import ActionError, ConfigError, SimulatorError
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec
from embodied.core.task import TaskInfo
from sims.choices import check_choices
from sims.gym_env import action_space, observation_space
from sims.memory_bench.action import CONTROL_HZ
from sims.resets import DISABLED, MODES, SAME_STEP, ResetReader, check_rows
from sims.worker import Rows, array_layout, views

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class MemoryBenchVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` environments of one task; results do not depend on `num_workers`.

    Args:
      task: Task name, for example ``"remember_color"``, or the row of a task that another
        package installs (its functions at module level, so that workers get it).
      num_envs: Rows n.
      num_workers: Worker processes; 0 steps all rows in this process, one after the other.
      autoreset: ``"disabled"``: a finished row ignores steps until it is reset;
        ``"same_step"``: it starts its next episode at once, with its seed raised by
        `num_envs` (so rows never share a seed and cues stay balanced).
      copy: Whether returned observations are copies; False returns views of shared arrays
        that the next step overwrites.
      timeout_s: Longest wait for a worker's answer.
      **env_kwargs: Arguments of :func:`sims.memory_bench_env` but `task`.

    Infos are a dict of name -> array over all rows (words are Python strings in object arrays),
    for rows that were not stepped as they were. Under ``same_step`` the rows in
    ``infos["_final_obs"]`` and ``infos["_final_info"]`` (bool [n]) ended in this step:
    ``infos["final_obs"]`` holds the observation of each, else None, and ``infos["final_info"]``
    is a dict of arrays as infos are, without meaning in the other rows.

    Raises:
      ConfigError: For an unknown name or a value out of range.
      SimulatorError: If a worker dies or does not answer or its simulation diverges; all workers
        are then closed. They outlive a caller's mistake.
    """

    def __init__(
        self,
        task: str | TaskInfo,
        num_envs: int,
        num_workers: int = 0,
        *,
        autoreset: str = DISABLED,
        copy: bool = True,
        timeout_s: float = 300.0,
        **env_kwargs: Any,
    ) -> None:
        self._pool: _Pool | None = None
        self._rows: Rows | None = None
        check_rows(num_envs, num_workers, autoreset)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        if num_workers > (cores or 1):
            warnings.warn(
                f"{num_workers} simulator workers on {cores} cores are slower than {cores}; "
                f"use num_workers={cores}",
                stacklevel=3,
            )
        self.num_envs, self.autoreset, self._copy = int(num_envs), autoreset, bool(copy)
        kwargs = {"task": task, **env_kwargs}
        if num_workers == 0:
            self._rows = Rows(range(num_envs), num_envs, autoreset, kwargs)
            self._setup(self._rows.facts())
            buffer = np.zeros(self._size, np.uint8)
            self._arrays = views(self._layout, buffer)
            self._rows.attach(self._arrays)
        else:
            self._pool = _Pool(min(num_workers, num_envs), num_envs, timeout_s)
            self._setup(self._pool.make(autoreset, kwargs))
            self._arrays = self._pool.share(self._layout, self._size)
        self._arrays["seed"][:] = -1  # of a row that plays none
        self._infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        own = self._spec_dict
        self._reader = ResetReader(self.num_envs, own["task"], own["num_cues"])

    def _setup(self, facts: Mapping[str, Any]) -> None:
        self.observation_specs: dict[str, ArraySpec] = facts["specs"]
        self._spec_dict, self.horizon = facts["spec_dict"], facts["horizon"]
        self.mjcf_sha256: str = facts["mjcf_sha256"]
        self.action_spec: ActionSpec = facts["action"]
        self._layout, self._size = array_layout(
            self.observation_specs, self.num_envs, self.action_spec
        )
        self.single_observation_space = observation_space(self.observation_specs)
        self.single_action_space = action_space(self.action_spec)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.render_mode = "rgb_array"
        self.metadata = {
            "autoreset_mode": MODES[self.autoreset],
            "render_fps": CONTROL_HZ,
            "control_hz": facts["control_hz"],
            "render_modes": ["rgb_array"],
        }

    def spec_dict(self) -> dict[str, Any]:
        """Returns everything that fixes one row's environment, as JSON-ready data."""
        return dict(self._spec_dict)

    # -- stepping -------------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Starts episodes.

        Args:
          seed: A seed for each row, or one that counts up over the rows. Without one, each row
            goes on from the seed that it plays, raised by n (from random ones at first).
          options: ``reset_mask`` (bool [n], rows to reset; others stay as they are) and
            ``cue`` (a cue or None for each row).

        Returns:
          Observations [n, ...] and infos of all rows.

        Raises:
          ConfigError: For a wrong seed, mask or cue; no row is then reset.
        """
        asked = self._reader.read(seed, options, self._arrays["seed"])
        self._take(self._do("reset", asked.mask.tolist(), asked.seeds, asked.cues))
        return self._observations(), self._collect_infos()

    def step(
        self,
        actions: np.ndarray,
        render: Sequence[bool] | None = None,
        active: Sequence[bool] | None = None,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advances rows by one control tick.

        Args:
          actions: float32 [n, 7] in [-1, 1], or whole numbers [n] under control by choice;
            those of rows that are not stepped are ignored.
          render: bool [n], rows to draw pictures of (gates and resets are always drawn; see
            ``infos["image_fresh"]``). None follows ``render_every_step``.
          active: bool [n], rows to step; others stay as they are. None steps all.

        Returns:
          Observations, rewards float64 [n] (0 for rows that were not stepped), terminated and
          truncated bool [n] (they stay set until the row is reset), infos.

        Raises:
          ActionError: For a wrong shape, or NaN or an element out of range in a stepped row.
          SimulatorError: If a worker dies, a simulation diverges, or a row was never reset.
        """
        n = self.num_envs
        active = np.ones(n, bool) if active is None else np.asarray(active, bool)
        missing = [row for row, info in enumerate(self._infos) if active[row] and not info]
        if missing:
            raise SimulatorError(f"rows {missing} were never reset; call reset(seed=...) first")
        over = self._arrays["terminated"] | self._arrays["truncated"]
        active = active if self.autoreset == SAME_STEP else active & ~over
        actions = self._checked(np.asarray(actions), active)
        self._arrays["action"][active] = actions[active]
        drawn = None if render is None else np.asarray(render, bool).tolist()
        self._take(self._do("step", active.tolist(), drawn))
        arrays = self._arrays
        return (
            self._observations(),
            arrays["reward"].copy(),
            arrays["terminated"].copy(),
            arrays["truncated"].copy(),
            self._collect_infos(),
        )

    def _checked(self, actions: np.ndarray, active: np.ndarray) -> np.ndarray:
        n, spec = self.num_envs, self.action_spec
        if spec.kind == DISCRETE:
            return check_choices(actions, (n,), spec.names, self._spec_dict["task"], active)
        if actions.shape != (n, spec.size):
            raise ActionError(f"actions: expected shape ({n}, {spec.size}), got {actions.shape}")
        bad = active & ~(np.abs(actions).max(1) <= 1.0 + 1e-6)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ActionError(
                f"action of row {row}: expected {spec.size} finite numbers in [-1, 1], got "
                f"{actions[row].tolist()}; clip or rescale it before step()"
            )
        return actions

    def observe(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Returns the present observations and infos of all rows."""
        return self._observations(), self._collect_infos()

    def save_state(self) -> dict[str, np.ndarray]:
        """Returns all episodes as arrays; `restore_state` puts them back exactly.

        Raises:
          SimulatorError: If a row was never reset.
        """
        states = self._do("states")
        return {key: np.stack([states[r][key] for r in range(self.num_envs)]) for key in states[0]}

    def restore_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `save_state` returned.

        Raises:
          ConfigError: If it is of another task, controller or number of rows.
        """
        rows = {len(value) for value in state.values()}
        if rows != {self.num_envs}:
            raise ConfigError(
                f"the saved state is of {sorted(rows)} rows, expected {self.num_envs}; make the "
                "vector environment with as many rows as it was saved with"
            )
        states = [{k: v[row] for k, v in state.items()} for row in range(self.num_envs)]
        self._take(self._do("resume", dict(enumerate(states))))

    def call(self, name: str, row: int, *args: Any) -> Any:
        """Calls a method of one row's environment (or returns an attribute) and returns it.

        For example ``call("render", row)`` (uint8 [256, 256, 3]), ``call("save_state", row)``,
        ``call("restore_state", row, state)``. ``call("make_expert", row, seed, noise)`` keeps
        the expert with its row; then ``call("expert.act", row)``, ``call("expert.reset", row)``.
        """
        if not 0 <= row < self.num_envs:
            raise ConfigError(f"row: expected 0 to {self.num_envs - 1}, got {row}")
        if name == "restore_state":  # what is kept of the row here changes with it
            self._take(self._do("resume", {row: args[0]}))
            return None
        if self._rows is not None:
            return self._rows.call(name, row, args)
        return self._pool.call(name, row, args)

    def render(self) -> tuple[np.ndarray, ...]:
        """Returns one uint8 [256, 256, 3] front picture for each row."""
        return tuple(self.call("render", row) for row in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Closes all rows and workers; called by ``close``."""
        if self._rows is not None:
            self._rows.close()
        if self._pool is not None:
            self._pool.close()

    def _do(self, command: str, *args: Any) -> dict[int, dict[str, Any]]:
        if self._rows is not None:
            return getattr(self._rows, command)(*args)
        return self._pool.do(command, *args)

    def _take(self, infos: Mapping[int, dict[str, Any]]) -> None:
        for row in range(self.num_envs):
            # What held for one tick only must not be reported again for a row left standing.
            self._infos[row].pop("final_obs", None)
            self._infos[row].pop("final_info", None)
        for row, info in infos.items():
            self._infos[row] = info

    def _observations(self) -> dict[str, np.ndarray]:
        return {
            key: self._arrays[f"obs/{key}"].copy() if self._copy else self._arrays[f"obs/{key}"]
            for key in self.observation_specs
        }

    def _collect_infos(self) -> dict[str, Any]:
        infos: dict[str, Any] = _columns(self._infos)
        if self.autoreset == SAME_STEP:
            ended = np.array(["final_obs" in info for info in self._infos])
            infos["final_obs"] = np.full(self.num_envs, None, object)
            for row in np.flatnonzero(ended):
                infos["final_obs"][row] = self._infos[row]["final_obs"]
            infos["final_info"] = _columns([info.get("final_info", {}) for info in self._infos])
            infos["_final_obs"] = infos["_final_info"] = ended
        return infos


_NEUTRAL = {str: "", bool: False, int: -1, float: 0.0}
"""What infos say of a row that was never reset."""


def _columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns name -> array over rows of what each row's info says, final ones left out."""
    known = next((info for info in infos if info), {})
    columns = {}
    for name, example in known.items():
        if name not in ("final_obs", "final_info"):
            values = [info.get(name, _NEUTRAL[type(example)]) for info in infos]
            columns[name] = np.array(values, object if isinstance(example, str) else None)
    return columns


class _Pool:
    """Worker processes, each with a block of rows."""

    def __init__(self, workers: int, num_envs: int, timeout_s: float) -> None:
        self._timeout_s, self._num_envs = timeout_s, num_envs
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        # An unlinked file: nothing is left behind, however the processes end.
        self._file = tempfile.TemporaryFile(dir=shared)  # noqa: SIM115  (closed by close)
        self._rows = [list(block) for block in np.array_split(np.arange(num_envs), workers)]
        self._rows = [[int(r) for r in block] for block in self._rows]
        self._arrays: dict[str, np.ndarray] = {}
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen] = []
        environment = {**os.environ, **dict.fromkeys(_THREADS, "1")}
        root = str(pathlib.Path(__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(
            p for p in (root, os.environ.get("PYTHONPATH", "")) if p
        )
        for _ in range(workers):
            ours, theirs = socket.socketpair()
            fds = (theirs.fileno(), self._file.fileno())
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "sims.worker", *map(str, fds)],
                    pass_fds=fds,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                )
            )
            theirs.close()
            self._connections.append(Connection(ours.detach()))

    def make(self, autoreset: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Builds all rows; returns the first worker's facts."""
        for connection, rows in zip(self._connections, self._rows, strict=True):
            connection.send(("make", rows, self._num_envs, autoreset, dict(kwargs)))
        return self._gather(closing=True)[0]

    def share(self, layout: list, size: int) -> dict[str, np.ndarray]:
        """Gives all workers the shared arrays; returns them."""
        try:
            # All of it now: whoever touches a page that can't be had is killed.
            self._file.write(bytes(size))
            self._file.flush()
        except OSError as error:
            self.close()
            raise SimulatorError(
                f"no room for {size / 2**20:,.0f} MiB that workers share ({error.strerror}; in "
                "/dev/shm where there is one). Give the container more, for example "
                "--shm-size=1g, or use fewer rows, smaller pictures or num_workers=0"
            ) from error
        self._arrays = views(layout, mmap.mmap(self._file.fileno(), size))
        self._broadcast(("attach", layout, size))
        self._gather(closing=True)
        return self._arrays

    def do(self, command: str, *args: Any) -> dict[int, dict[str, Any]]:
        """Runs a command on all workers; returns the infos of all their rows.

        A step's arguments were checked, so that what fails there is the simulation.
        """
        self._broadcast((command, *args))
        infos: dict[int, dict[str, Any]] = {}
        for answer in self._gather(closing=command == "step"):
            infos.update(answer)
        return infos

    def call(self, name: str, row: int, args: Sequence[Any]) -> Any:
        """Calls a method of one row."""
        index = next(i for i, rows in enumerate(self._rows) if row in rows)
        self._send(index, ("call", name, row, args))
        return self._gather([index])[0]

    def _broadcast(self, message: tuple) -> None:
        for index in range(len(self._rows)):
            self._send(index, message)

    def _send(self, index: int, message: tuple) -> None:
        if not self._connections:
            raise SimulatorError("this vector environment is closed; make a new one")
        try:
            self._connections[index].send(message)
        except (BrokenPipeError, ConnectionError):
            self._dead(index)

    def _gather(self, indices: Sequence[int] | None = None, closing: bool = False) -> list[Any]:
        """Returns the answer of each worker; raises its error if one failed.

        All are waited for, or the next command would be answered by what is left of this one.

        Args:
          indices: Workers that were sent something; by default all.
          closing: Whether an error closes all of them.
        """
        pending = list(range(len(self._connections)) if indices is None else indices)
        order, answers, failures = list(pending), {}, {}
        while pending:
            ready = wait([self._connections[i] for i in pending], timeout=self._timeout_s)
            if not ready:
                self._fail(pending[0], f"did not answer within {self._timeout_s:g} s")
            for index in list(pending):
                if self._connections[index] not in ready:
                    continue
                try:
                    good, answer = self._connections[index].recv()
                except (EOFError, ConnectionError):
                    self._dead(index)
                (answers if good else failures)[index] = answer
                pending.remove(index)
        if failures:
            if closing:
                self.close()
            raise _rebuild(*failures[min(failures)])
        return [answers[index] for index in order]

    def _dead(self, index: int) -> None:
        try:
            code = self._processes[index].wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        self._fail(index, f"died (exit code {code})")

    def _fail(self, index: int, what: str) -> None:
        rows = self._rows[index]
        played = self._arrays["seed"][rows].tolist() if self._arrays else [-1] * len(rows)
        seeds = [seed if seed >= 0 else None for seed in played]
        self.close()
        raise SimulatorError(
            f"simulator worker {index} {what}; its rows {rows} played seeds {seeds}. The other "
            "workers were closed. Make a new vector environment; if it happens again, report "
            "the seeds (out of memory is the usual cause)"
        )

    def close(self) -> None:
        """Ends all workers, kindly at first."""
        for connection in self._connections:
            try:
                connection.send(("close",))
                connection.close()
            except (OSError, ValueError):
                pass
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections, self._processes = [], []
        with contextlib.suppress(OSError):  # of a full disk, which has been told
            self._file.close()


def _rebuild(kind: str, text: str, trace: str) -> Exception:
    """Returns a worker's error as the package's own class, or as a SimulatorError."""
    if kind == "MissingExtra":  # its constructor takes other arguments than the message
        return errors.EmbodiedError(text)
    cls = getattr(errors, kind, None)
    if isinstance(cls, type) and issubclass(cls, errors.EmbodiedError):
        return cls(text)
    return SimulatorError(f"a simulator worker failed:\n{trace}")
