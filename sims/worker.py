"""The rows of a vector environment: stepped in place, in this process or in a worker's.

As ``python -m sims.worker`` this is one worker: it owns some rows, writes observations into a
file mapped by the parent too, and speaks over an inherited socket. It ends when the parent does.
"""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = os.environ.get(_name, "1")  # before numpy: a worker has one core

import mmap  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from collections.abc import Mapping, Sequence  # noqa: E402
from multiprocessing.connection import Connection  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import numpy as np  # noqa: E402

from embodied.core.errors import ConfigError, unknown_name  # noqa: E402
from embodied.core.specs import DISCRETE, ActionSpec, ArraySpec  # noqa: E402
from sims.resets import SAME_STEP  # noqa: E402

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

_ALIGN = 64


def array_layout(
    observations: Mapping[str, ArraySpec], num_envs: int, action: ActionSpec
) -> tuple[list[tuple[str, str, tuple[int, ...], int]], int]:
    """Returns where each array of all rows lies in one buffer.

    Returns:
      A list of (name, dtype, shape, offset in bytes) and the buffer's size in bytes.
    """
    arrays = [(f"obs/{k}", s.dtype, (num_envs, *s.shape)) for k, s in observations.items()]
    arrays += [
        ("action", "int64", (num_envs,))
        if action.kind == DISCRETE
        else ("action", "float32", (num_envs, action.size)),
        ("seed", "int64", (num_envs,)),
        ("reward", "float64", (num_envs,)),
        ("terminated", "bool", (num_envs,)),
        ("truncated", "bool", (num_envs,)),
    ]
    layout, offset = [], 0
    for name, dtype, shape in arrays:
        layout.append((name, dtype, shape, offset))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        offset += -(-size // _ALIGN) * _ALIGN
    return layout, offset


def views(
    layout: Sequence[tuple[str, str, tuple[int, ...], int]], buffer: Any
) -> dict[str, np.ndarray]:
    """Returns the arrays of `layout` as views of `buffer`."""
    return {
        name: np.ndarray(shape, dtype, buffer=buffer, offset=offset)
        for name, dtype, shape, offset in layout
    }


class Rows:
    """Some rows of a vector environment.

    Args:
      rows: Indices of these rows in the whole batch.
      num_envs: Rows of the whole batch; the stride of automatic seeds.
      autoreset: ``"disabled"`` or ``"same_step"``.
      env_kwargs: Arguments of :func:`sims.memory_bench_env`.
    """

    def __init__(
        self, rows: Sequence[int], num_envs: int, autoreset: str, env_kwargs: Mapping[str, Any]
    ) -> None:
        from sims import memory_bench_env

        self.rows, self.num_envs, self.autoreset = list(rows), num_envs, autoreset
        kwargs = dict(env_kwargs)
        self._draw_always = bool(kwargs.pop("render_every_step", True))
        kwargs.setdefault("render_mode", "rgb_array")
        self._envs: dict[int, MemoryBenchEnv] = {
            row: memory_bench_env(**kwargs, render_every_step=False) for row in self.rows
        }
        self._experts: dict[int, Any] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._obs: dict[int, dict[str, np.ndarray]] = {}

    def facts(self) -> dict[str, Any]:
        """Returns what the parent must know of the environment."""
        env = self._envs[self.rows[0]]
        return {
            "specs": dict(env.observation_specs),
            "action": env.action_spec,
            "control_hz": env.metadata["control_hz"],
            "spec_dict": env.spec_dict(),
            "horizon": env.horizon,
            "mjcf_sha256": env.mjcf_sha256,
        }

    def attach(self, arrays: dict[str, np.ndarray]) -> None:
        """Makes these rows write into `arrays` (all rows, by :func:`array_layout`'s names)."""
        self._arrays = arrays
        for row in self.rows:
            self._obs[row] = {
                name[4:]: array[row] for name, array in arrays.items() if name.startswith("obs/")
            }

    def reset(
        self, mask: Sequence[bool], seeds: Sequence[int], cues: Sequence[int | None]
    ) -> dict[int, dict[str, Any]]:
        """Resets the rows in `mask` (all arguments over the whole batch); returns their infos."""
        return {row: self._start(row, int(seeds[row]), cues[row]) for row in self.rows if mask[row]}

    def _start(self, row: int, seed: int, cue: int | None = None) -> dict[str, Any]:
        env = self._envs[row]
        self._arrays["seed"][row] = seed
        env.start(seed, cue)
        env.fill(self._obs[row], draw=True)
        self._arrays["reward"][row] = 0.0
        self._arrays["terminated"][row] = self._arrays["truncated"][row] = False
        return env.current_info(fresh=True)

    def step(
        self, active: Sequence[bool], render: Sequence[bool] | None
    ) -> dict[int, dict[str, Any]]:
        """Steps the rows in `active` by the shared actions; returns their infos.

        A row whose episode is over is left as it is, with reward 0. Under ``same_step`` such a
        row starts its next episode in the same step; its last observation and info are then in
        ``info["final_obs"]`` and ``info["final_info"]``. One that was over before (its state
        was restored) is not stepped first.
        """
        infos = {}
        arrays, again = self._arrays, self.autoreset == SAME_STEP
        for row in self.rows:
            arrays["reward"][row] = 0.0
            env = self._envs[row]
            if not active[row] or (env.over and not again):
                if again:
                    arrays["terminated"][row] = arrays["truncated"][row] = False
                continue
            gate, draw, moved = False, True, not env.over
            if moved:
                gate = env.advance(arrays["action"][row])
                draw = bool(gate or (self._draw_always if render is None else render[row]))
                env.fill(self._obs[row], draw)
            reward, terminated, truncated = env.outcome()
            info = env.current_info(gate=gate, fresh=draw)
            if env.over and again:
                final = {key: value.copy() for key, value in self._obs[row].items()}
                fresh = self._start(row, env.task.seed + self.num_envs)
                info = {**fresh, "final_obs": final, "final_info": info}
            arrays["reward"][row] = reward if moved else 0.0
            arrays["terminated"][row], arrays["truncated"][row] = terminated, truncated
            infos[row] = info
        return infos

    def states(self) -> dict[int, dict[str, np.ndarray]]:
        """Returns what each row's environment saves."""
        return {row: env.save_state() for row, env in self._envs.items()}

    def resume(self, states: Mapping[int, Mapping[str, np.ndarray]]) -> dict[int, dict[str, Any]]:
        """Puts back the rows in `states`; returns the infos of those that are here."""
        infos = {}
        for row in self._envs.keys() & states.keys():
            env = self._envs[row]
            env.restore_state(states[row])
            env.fill(self._obs[row], draw=True)
            reward, terminated, truncated = env.outcome()
            self._arrays["seed"][row] = env.task.seed
            self._arrays["reward"][row] = reward if env.over else 0.0
            self._arrays["terminated"][row] = terminated
            self._arrays["truncated"][row] = truncated
            infos[row] = env.current_info(fresh=True)
        return infos

    def call(self, name: str, row: int, args: Sequence[Any]) -> Any:
        """Calls a method of a row, or returns an attribute; see the vector environment.

        Raises:
          ConfigError: If there is none of that name, or no expert.
        """
        target: Any = self._envs[row]
        head, _, rest = name.partition(".")
        if head == "expert":
            if row not in self._experts:
                raise ConfigError(f"row {row} has no expert; call('make_expert', {row}) first")
            target, name = self._experts[row], rest
        if not hasattr(target, name):
            raise unknown_name("call", name, [n for n in dir(target) if not n.startswith("_")])
        result = getattr(target, name)
        if callable(result):
            result = result(*args)
        if name == "make_expert":
            self._experts[row] = result
            return None
        return result

    def close(self) -> None:
        """Closes all rows."""
        for env in self._envs.values():
            env.close()


def main(argv: Sequence[str]) -> None:
    """Serves one worker; `argv` holds the socket's and the shared file's descriptors."""
    connection, shared_fd = Connection(int(argv[0])), int(argv[1])
    rows: Rows | None = None
    while True:
        try:
            command, *args = connection.recv()
        except (EOFError, ConnectionError):
            break
        try:
            if command == "make":
                rows = Rows(*args)
                answer: Any = rows.facts()
            elif command == "attach":
                layout, size = args
                buffer = mmap.mmap(shared_fd, size)
                answer = rows.attach(views(layout, buffer))
            elif command == "close":
                if rows is not None:  # none where they could not be made
                    rows.close()
                break
            else:
                answer = getattr(rows, command)(*args)
            connection.send((True, answer))
        except Exception as error:
            connection.send((False, (type(error).__name__, str(error), traceback.format_exc())))


if __name__ == "__main__":
    main(sys.argv[1:])
