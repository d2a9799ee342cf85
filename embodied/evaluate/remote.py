"""A policy behind a server, evaluated as one of this process is: ours, or any that speaks openpi's
protocol.

Memory is the server's: a connection for each row of the batch, and nothing of it can be seen or
changed here. One of ours says what it reads, how it was trained and which weights it has, and is
told seeds, times and where episodes begin, so it answers as it would here. Another one gets the
observations under the names that it wants and a new connection for each episode, which is where
such servers begin anew.

Shape letters: B rows, K actions in a chunk, A action size.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied import registry
from embodied.config import to_plain
from embodied.core.errors import ActionError, ConfigError, SpecMismatch, unknown_name
from embodied.core.policy import Policy
from embodied.core.rng import NO_NOISE
from embodied.core.specs import EE_DELTA_CHUNK, KEYFRAME, ActionSpec, PolicySpec
from embodied.core.text import INSTRUCTION, decode_instruction
from embodied.core.ticks import PERIOD
from embodied.core.types import Action, Observation, State, Working
from embodied.evaluate.config import EvaluateConfig, RemoteConfig
from embodied.evaluate.results import NONE
from embodied.export import exported
from embodied.serve.client import TOKEN_VARIABLE, Client, is_uri
from embodied.train.checkpoint import LoadedPolicy, PolicyMeta

LEVEL = "easy"
"""Level of a server that does not say what it was trained on."""


@contextlib.contextmanager
def opened(config: EvaluateConfig, source: str) -> Iterator[LoadedPolicy]:
    """Loads a run, a checkpoint, a claim or a bundle, or connects to a server until the end.

    Args:
      config: What the policy is wanted for.
      source: Where it is; a server by its address, such as ``"ws://127.0.0.1:8000"``.

    Raises:
      CheckpointError: For anything but a complete, matching checkpoint or bundle.
      SimulatorError: If there is no server, or it does not let this client in.
      ConfigError, SpecMismatch: If a server can't do what is asked.
    """
    if not is_uri(source):
        yield exported.load(source, config.device)
        return
    _check_asked(config, source)
    with contextlib.ExitStack() as stack:
        with _connect(source, config.remote) as client:
            said = client.metadata if isinstance(client.metadata, dict) else {}
            make = _described if "spec" in said else _undescribed
            policy, meta = make(source, client, said, config)
        stack.callback(policy.close)
        yield LoadedPolicy(policy.eval(), meta, Path(source.partition("://")[2]))


class RemotePolicy(Policy):
    """Asks a server; only whole ticks can be asked for, by `ask`.

    Args:
      uri: Its address.
      spec: What it reads and answers.
      said: What it told about itself.
      config: How it is asked.

    Attributes:
      described: It is one of ours, which says what it is and takes what goes beyond openpi's
        protocol.
    """

    def __init__(
        self, uri: str, spec: PolicySpec, said: Mapping[str, Any], config: RemoteConfig
    ) -> None:
        super().__init__()
        self.uri, self.spec, self.said, self._config = uri, spec, said, config
        self.described = "spec" in said
        self._clients: dict[int, Client] = {}

    def ask(
        self,
        obs: Mapping[str, np.ndarray],
        time_s: np.ndarray,
        first: np.ndarray,
        due: np.ndarray,
        acting: np.ndarray,
        seeds: Sequence[int],
    ) -> np.ndarray:
        """Lets the rows in `due` observe, all at once, and returns the chunks float32 [B, K, A].

        Args:
          obs: Observation key -> [B, ...].
          time_s: [B] seconds of each row's episode.
          first: bool [B]; the tick begins an episode.
          due: bool [B].
          acting: bool [B]; rows of `due` whose answer is wanted, the others' are zeros.
          seeds: B episode seeds.

        Raises:
          ServerError: What the server says is wrong.
          SpecMismatch, ActionError: For an answer that is no chunk of finite actions.
        """
        rows = [int(row) for row in np.flatnonzero(due)]
        for row in rows:
            message = {key: obs[key][row] for key in self.spec.observations}
            if self.described:
                message["reset"], message["time_s"] = bool(first[row]), float(time_s[row])
                message["seed"], message["observe_only"] = int(seeds[row]), not acting[row]
            else:
                message = renamed(message, self._config.names)
            if row not in self._clients or (first[row] and not self.described):
                self._connect(row)
            self._clients[row].send(message)
        action = self.spec.action
        chunks = np.zeros((len(due), action.horizon, action.size), np.float32)
        for row in rows:
            answer = self._clients[row].receive()
            if acting[row]:
                chunk = chunk_of(answer, self.uri)
                if chunk.shape != chunks.shape[1:]:
                    raise SpecMismatch(
                        f"{self.uri}: expected actions {list(chunks.shape[1:])}, got "
                        f"{list(chunk.shape)}"
                    )
                chunks[row] = chunk
        return chunks

    def check_environment(self, vec_env: Any) -> None:
        """Refuses an environment with other actions or another rate than the server's.

        Raises:
          SpecMismatch: Showing both sides.
        """
        space, spec = vec_env.single_action_space, self.spec
        size = int(getattr(space, "n", 0)) or int(space.shape[0])
        rate = float(vec_env.metadata["control_hz"])
        # A keyframe is a pose; an executor makes the environment's actions of it.
        same = spec.action.kind == KEYFRAME or spec.action.size == size
        if not same or spec.control_hz != rate:
            raise SpecMismatch(
                f"{self.uri} answers actions of {spec.action.size} numbers at {spec.control_hz:g} "
                f"Hz, and the task takes {size} at {rate:g} Hz; evaluate it on a task that it is "
                "made for"
            )

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        # What the server holds for them; it is told to the results and never read.
        return {name: torch.from_numpy(s.zeros(batch)) for name, s in self.spec.state.items()}

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        raise ConfigError(_ELSEWHERE.format(self.uri))

    def act(self, working: Working, noise: Tensor) -> Action:
        raise ConfigError(_ELSEWHERE.format(self.uri))

    def parameter_count(self) -> int:
        told = self.said.get("parameters", 0)
        return told if isinstance(told, int) else 0

    def close(self) -> None:
        """Ends all connections."""
        while self._clients:
            self._clients.popitem()[1].close()

    def _connect(self, row: int) -> None:
        if row in self._clients:
            self._clients.pop(row).close()
        self._clients[row] = client = _connect(self.uri, self._config)
        if self.described and client.metadata.get("sha256") != self.said.get("sha256"):
            raise SpecMismatch(
                f"{self.uri} serves another policy than when the evaluation began; evaluate again"
            )


def renamed(obs: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns a row's observations as a server wants them that knows nothing of ours.

    Args:
      obs: Observation key -> array.
      names: Observation key -> the server's name; empty keeps all keys. Arrays of one name are
        joined end to end. The instruction goes as text, ``prompt``.
    """
    joined: dict[str, list[np.ndarray]] = {}
    for key, name in (names or {key: key for key in obs if key != INSTRUCTION}).items():
        joined.setdefault(name, []).append(obs[key])
    message: dict[str, Any] = {
        name: parts[0] if len(parts) == 1 else np.concatenate([part.ravel() for part in parts])
        for name, parts in joined.items()
    }
    if INSTRUCTION in obs and INSTRUCTION not in names:
        message["prompt"] = decode_instruction(obs[INSTRUCTION])
    return message


def chunk_of(answer: Any, uri: str) -> np.ndarray:
    """Returns the actions float32 [K, A] in a server's answer.

    Raises:
      SpecMismatch, ActionError: If there are none, or they are not finite.
    """
    chunk = answer.get("actions") if isinstance(answer, dict) else None
    if not isinstance(chunk, np.ndarray) or chunk.ndim != 2 or chunk.dtype.kind != "f":
        raise SpecMismatch(
            f"{uri}: expected an answer with 'actions', an array of numbers [ticks, size], got "
            f"{sorted(answer) if isinstance(answer, dict) else type(answer).__name__}"
        )
    if not np.isfinite(chunk).all():
        raise ActionError(f"{uri} answered actions that are NaN or infinite")
    return chunk.astype(np.float32)


_ELSEWHERE = "the memory of {} is there, and can't be looked at; use the checkpoint or the bundle"


def _check_asked(config: EvaluateConfig, source: str) -> None:
    """Refuses what a server can't do."""
    kinds = [kind for kind in config.intervene if kind != NONE and source == config.source]
    asked = {
        f"intervene={','.join(kinds)}": bool(kinds),
        f"capacity={config.capacity}": config.capacity > 0,
        "inspect=true": config.inspect,
        f"device={config.device}": config.device != "cpu",
    }
    for what, wanted in asked.items():
        if wanted:
            raise ConfigError(
                f"{what}: {source} is a server; its memory and device are its own, and can't be "
                "looked at or changed from here. Leave it out, or evaluate the checkpoint"
            )


def _connect(uri: str, config: RemoteConfig) -> Client:
    return Client(uri, os.environ.get(TOKEN_VARIABLE, ""), timeout_s=config.timeout_s)


def _described(
    uri: str, client: Client, said: Mapping[str, Any], config: EvaluateConfig
) -> tuple[RemotePolicy, PolicyMeta]:
    """Understands a server of ours by what it says."""
    if config.remote != RemoteConfig(config.remote.timeout_s):
        raise ConfigError(
            f"{uri} says itself what it reads and how often; leave out remote.env, remote.names "
            "and remote.observe_period_s"
        )
    try:
        spec = PolicySpec.from_json(said["spec"])
        meta = PolicyMeta(
            policy=str(said["policy"]),
            policy_version=0,  # of the server's package, which need not be this one
            config=dict(said["config"]),
            interface={},
            tasks=[str(task) for task in said["tasks"]],
            level=str(said["level"]),
            levels=[str(level) for level in said["levels"]],
            env=dict(said["env"]),
            train=dict(said["train"]),
            package_version=str(said["package_version"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecMismatch(
            f"{uri} describes itself in a way that this package does not understand ({error!r}); "
            "use the same version of embodied-memory on both sides"
        ) from error
    return RemotePolicy(uri, spec, said, config.remote), meta


def _undescribed(
    uri: str, client: Client, said: Mapping[str, Any], config: EvaluateConfig
) -> tuple[RemotePolicy, PolicyMeta]:
    """Understands another server by its answer to the first observation of the first task."""
    if not config.task:
        raise ConfigError(
            f"{uri} does not say what it was trained on; name tasks, for example "
            "task=remember_color level=easy, what it observes (remote.env.cameras=[front] "
            "remote.env.image_size=224), and its names of that "
            "(remote.names.front_image_u8=observation/image)"
        )
    remote, level = config.remote, config.level or LEVEL
    vector = registry.make_vec(config.task[0], level, remote.env)
    with contextlib.closing(vector):
        obs, _ = vector.reset(seed=[config.seed_start])
        specs = dict(vector.observation_specs)
        control_hz = float(vector.metadata["control_hz"])
        obs = {key: np.array(obs[key][0]) for key in specs}
    for key in remote.names:
        if key not in specs:
            raise unknown_name("observation in remote.names", key, specs)
    answer = client.infer(renamed(obs, remote.names))
    horizon, size = chunk_of(answer, uri).shape
    read = {key: specs[key] for key in specs if key in remote.names or not remote.names}
    read |= {key: specs[key] for key in (INSTRUCTION,) if key in specs}
    spec = PolicySpec(
        observations=read,
        action=ActionSpec(EE_DELTA_CHUNK, size, horizon),
        control_hz=control_hz,
        observe_on=PERIOD,
        observe_period_s=remote.observe_period_s,
        noise_shape=(),
        noise_law=NO_NOISE,
    )
    meta = PolicyMeta(
        policy=str(said.get("policy", "remote"))[:80],
        policy_version=0,
        config={},
        interface={},
        tasks=list(config.task),
        level=level,
        env=to_plain(remote.env),
        train={},
        package_version="",
    )
    return RemotePolicy(uri, spec, said, remote), meta
