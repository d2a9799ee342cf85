"""An exported policy at work: observations in, action chunks out, memory kept as arrays.

Shape letters: B rows, K actions in a chunk, A action size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.errors import CheckpointError, ConfigError, MissingExtra, SpecMismatch
from embodied.core.files import sha256, write_atomic
from embodied.core.prompt import PROMPT_LENGTH, PROMPT_TOKENS, PromptReader
from embodied.core.specs import check_values
from embodied.core.text import INSTRUCTION
from embodied.serve.bundle import (
    CARRIED,
    CARRY,
    CHUNK,
    MANIFEST,
    NEXT,
    OBS,
    ONNX,
    RESET,
    STATE,
    STEP,
    TIME,
    TOKENIZER,
    WORK,
    Bundle,
    Graph,
    read_arrays,
    read_bundle,
)
from embodied.serve.tokens import read_tokenizer

Arrays = dict[str, np.ndarray]


class Runtime:
    """Runs a bundle's graphs; one object serves all B rows.

    Memory is in `state`, a dictionary of arrays [B, ...] that may be read, copied and replaced
    between calls. Rows are independent: nothing of one reaches another.

    Args:
      bundle: What `read_bundle` gave.
      batch: B. A batch that the bundle has no graph for is run row by row.
      threads: CPU threads of each graph.

    Attributes:
      state: State name -> [B, ...].
    """

    def __init__(self, bundle: Bundle, batch: int = 1, threads: int = 1) -> None:
        if batch < 1 or threads < 1:
            raise ConfigError(f"batch and threads must be >= 1, got {batch} and {threads}")
        if batch not in bundle.graphs and 1 not in bundle.graphs:
            raise ConfigError(
                f"{bundle.path} has graphs for batches of {', '.join(map(str, bundle.graphs))}, "
                f"not for {batch} or 1; export again with batches=[1,{batch}]"
            )
        self.bundle, self.spec, self.batch = bundle, bundle.spec, batch
        self._size = batch if batch in bundle.graphs else 1
        parts = bundle.graphs[self._size]
        self._observe, self._act = (self._open(parts[n], threads) for n in ("observe", "act"))
        self._prompt: PromptReader | None = None
        if bundle.prompt is not None:
            self._prompt = read_tokenizer(bundle.path / TOKENIZER, bundle.prompt)
        self._empty = bundle.initial()
        self.state = self.initial(batch)
        self._work: Arrays = {}

    @classmethod
    def load(cls, path: str | Path, batch: int = 1, threads: int = 1) -> Runtime:
        """Checks a bundle and returns it ready to run.

        Raises:
          CheckpointError: If the bundle is incomplete, changed or of another schema.
          MissingExtra: If a package that it needs is not installed.
        """
        return cls(read_bundle(path), batch, threads)

    def _open(self, graph: Graph, threads: int) -> Callable[[Arrays], Arrays]:
        if ONNX not in graph.files:
            raise ConfigError(
                f"{self.bundle.path} holds its graphs as {', '.join(graph.files)} alone, which "
                "are for controllers that embed torch; to run it here export again with "
                "format=onnx or format=both"
            )
        return _Session(self.bundle.path / graph.files[ONNX], graph, threads)

    def check(self, obs: Mapping[str, np.ndarray], source: str) -> None:
        """Raises for observations that `ArraySpec.fault` finds something wrong with.

        A bundle holds no more of what its policy would refuse.

        Args:
          obs: Observation key -> [B, ...].
          source: Where they come from, for the message.

        Raises:
          SpecMismatch: Naming the key.
        """
        check_values(self.spec.observations, obs, source)

    def initial(self, batch: int) -> Arrays:
        """Returns empty memory of `batch` rows."""
        return {name: np.repeat(array, batch, axis=0) for name, array in self._empty.items()}

    # -- a tick -------------------------------------------------------------------------------

    def observe(self, obs: Mapping[str, np.ndarray], time_s: np.ndarray, reset: np.ndarray) -> None:
        """Runs one memory tick: rows in `reset` start anew, then all rows see and store.

        Args:
          obs: Observation key -> [B, ...], as in ``spec.observations``; further keys are ignored.
          time_s: [B] seconds since each row's episode began.
          reset: bool [B].

        Raises:
          SpecMismatch: For a missing key, another shape or dtype, or an instruction that is not
            UTF-8.
          ConfigError: For an instruction that is longer than the policy's prompt.
        """
        self._work, self.state = self.tick(obs, time_s, self.state, reset)

    def act(self, noise: np.ndarray) -> np.ndarray:
        """Returns the action chunks float32 [B, K, A] for what was observed last.

        Args:
          noise: float32 [B, *spec.noise_shape]; the only randomness.

        Raises:
          SpecMismatch: If nothing was observed, or the noise has another shape.
        """
        if not self._work:
            raise SpecMismatch("act() before observe(): there is nothing to answer yet")
        return self.answer(self._work, noise)

    def tick(
        self,
        obs: Mapping[str, np.ndarray],
        time_s: np.ndarray,
        state: Mapping[str, np.ndarray],
        reset: np.ndarray,
    ) -> tuple[Arrays, Arrays]:
        """As `observe`, for a caller who keeps memory: returns what acting needs, and memory."""
        feed = {STATE + name: state[name] for name in self.state}
        for key, spec in self.spec.observations.items():
            if key not in obs:
                raise SpecMismatch(
                    f"observation {key!r} is missing; this policy reads "
                    f"{', '.join(self.spec.observations)}"
                )
            feed[OBS + key] = self._fitting(key, obs[key], spec.shape, spec.dtype)
        if self._prompt is not None:
            tokens, length = self._prompt(feed.pop(OBS + INSTRUCTION))
            feed[OBS + PROMPT_TOKENS], feed[OBS + PROMPT_LENGTH] = tokens, length
        feed[TIME] = self._fitting(TIME, np.asarray(time_s, np.float32), (), "float32")
        feed[RESET] = self._fitting(RESET, np.asarray(reset, bool), (), "bool")
        made = self._run(self._observe, feed)
        work = {name: array for name, array in made.items() if name.startswith(WORK)}
        return work, {name: made[NEXT + name] for name in self.state}

    def answer(self, work: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        """As `act`, for what `tick` returned."""
        noise = np.asarray(noise, np.float32)
        carried = self._fitting("noise", noise, self.spec.noise_shape, "float32")
        for step in range(self.bundle.act_steps):
            feed = {**work, CARRIED: carried, STEP: np.asarray(step, np.int64)}
            made = self._run(self._act, feed)
            carried = made[CARRY]
        return made[CHUNK]

    def _run(self, session: Callable[[Arrays], Arrays], feed: Arrays) -> Arrays:
        if self._size == self.batch:
            return session(feed)
        rows = [
            session({k: v if v.ndim == 0 else v[row : row + 1] for k, v in feed.items()})
            for row in range(self.batch)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _fitting(self, name: str, value: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        array = np.asarray(value)
        if array.shape != (self.batch, *shape) or str(array.dtype) != dtype:
            raise SpecMismatch(
                f"{name}: expected {dtype}{[self.batch, *shape]}, got "
                f"{array.dtype}{list(array.shape)}"
            )
        return array

    # -- saving -------------------------------------------------------------------------------

    def save(self, file: str | Path) -> None:
        """Writes memory to a file, whole or not at all; `restore` goes on from it."""
        buffer = io.BytesIO()
        mark = np.frombuffer(sha256(self.bundle.path / MANIFEST).encode(), np.uint8)
        np.savez(buffer, __bundle__=mark, **self.state)
        write_atomic(file, buffer.getvalue())

    def restore(self, file: str | Path) -> None:
        """Goes on with the memory that `save` wrote.

        Raises:
          CheckpointError: If the file is of another bundle or batch, or broken.
        """
        stored = read_arrays(Path(file), "start a new episode")
        mark = bytes(stored.pop("__bundle__", np.zeros(0, np.uint8))).decode(errors="replace")
        if mark != sha256(self.bundle.path / MANIFEST):
            raise CheckpointError(f"{file} holds the memory of another bundle; start a new episode")
        wanted = {name: (array.shape, array.dtype) for name, array in self.state.items()}
        if wanted != {name: (array.shape, array.dtype) for name, array in stored.items()}:
            raise CheckpointError(
                f"{file} does not hold memory of {self.batch} row(s); load the bundle with the "
                "batch it was saved with"
            )
        self.state = stored


class _Session:
    """One graph in ONNX Runtime."""

    def __init__(self, file: Path, graph: Graph, threads: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise MissingExtra("onnxruntime", "serve") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise CheckpointError(f"{file} is no graph that can run: {error}") from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = list(graph.outputs)

    def __call__(self, feed: Mapping[str, np.ndarray]) -> Arrays:
        made = self._session.run(self._outputs, {name: feed[name] for name in self._inputs})
        return dict(zip(self._outputs, made, strict=True))


def describe(bundle: Bundle) -> str:
    """Returns a bundle's contract in a few lines for people."""
    spec, made = bundle.spec, bundle.checkpoint
    reads = [f"{key} {seen.dtype}{list(seen.shape)}" for key, seen in spec.observations.items()]
    state = sum(array.nbytes for array in bundle.initial().values())
    lines = [
        f"{made['policy']} for {', '.join(made['tasks'])} ({made['level']})",
        f"reads   {', '.join(reads)}",
        f"answers {spec.action.horizon} x {spec.action.size} {spec.action.kind} at "
        f"{spec.control_hz:g} Hz",
        f"memory  {len(spec.state)} arrays, {state:,} bytes a session",
        f"graphs  for batches of {', '.join(map(str, sorted(bundle.graphs)))}",
    ]
    return "\n".join(lines)
