"""Sessions: one memory each, with a clock of its own and a stated rule for starting anew.

Shape letters: K actions in a chunk, A action size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from embodied.core.errors import ConfigError, SpecMismatch, unknown_name
from embodied.core.rng import draw_noise
from embodied.core.specs import PolicySpec
from embodied.core.text import INSTRUCTION, encode_instruction
from embodied.serve.codec import MessageError

WALL, CALLS = "wall", "calls"
CLOCKS = (WALL, CALLS)

OWN_KEYS = ("reset", "time_s", "session", "observe_only", "seed", "prompt")
"""Keys of a message that are no observations."""

Arrays = dict[str, np.ndarray]


class Engine(Protocol):
    """What computes: a `Runtime`, or a checkpoint behind the same methods."""

    spec: PolicySpec

    def initial(self, batch: int) -> Arrays: ...

    def tick(
        self, obs: Mapping[str, np.ndarray], time_s: Any, state: Mapping[str, Any], reset: Any
    ) -> tuple[Arrays, Arrays]: ...

    def answer(self, work: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass
class SessionConfig:
    """When sessions begin and end.

    Attributes:
      clock: Time of messages that bring none: ``"wall"`` (seconds since the session's episode
        began) or ``"calls"`` (their number times the observation period).
      idle_reset_s: A session that was silent longer begins a new episode; 0 for never.
      forget_s: A session that was silent longer is dropped.
      reset_on_prompt: A changed instruction begins a new episode.
      most: Sessions at a time.
    """

    clock: str = WALL
    idle_reset_s: float = 30.0
    forget_s: float = 600.0
    reset_on_prompt: bool = False
    most: int = 256

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise unknown_name("clock", self.clock, CLOCKS)
        if self.idle_reset_s < 0 or self.forget_s <= 0 or self.most < 1:
            raise ConfigError(
                "expected idle_reset_s >= 0, forget_s > 0 and most >= 1, got "
                f"{self.idle_reset_s}, {self.forget_s} and {self.most}"
            )


@dataclasses.dataclass
class Session:
    """One client's memory.

    Attributes:
      state: State name -> [1, ...].
      fresh: The next tick begins an episode.
      tick: Ticks of the episode so far.
      began_s: When the episode began, on the server's clock.
      used_s: When the session was last used.
      time_s: Time of the last tick, in seconds of the episode.
      seed: Of the noise.
      prompt: The last instruction that came as text.
      busy: A message of it is being answered.
    """

    state: Arrays
    fresh: bool = True
    tick: int = 0
    began_s: float = 0.0
    used_s: float = 0.0
    time_s: float = 0.0
    seed: int = 0
    prompt: str = ""
    busy: bool = False


@dataclasses.dataclass
class Request:
    """A message that has been understood.

    Attributes:
      session: Whose.
      obs: Observation key -> [1, ...].
      time_s: Seconds of the episode.
      reset: The tick begins an episode.
      acts: An answer is asked for.
    """

    session: Session
    obs: Arrays
    time_s: float
    reset: bool
    acts: bool


class Sessions:
    """All sessions of a server.

    Args:
      spec: What the policy reads.
      initial: Returns empty memory of one row.
      config: When sessions begin and end.
      now: The clock, in seconds.
    """

    def __init__(
        self,
        spec: PolicySpec,
        initial: Callable[[], Arrays],
        config: SessionConfig | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.config = spec, config or SessionConfig()
        self._initial, self._now = initial, now
        self._named: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._named)

    def state_bytes(self) -> int:
        """Returns the bytes of all memories."""
        return sum(a.nbytes for s in self._named.values() for a in s.state.values())

    def open(self, name: str) -> Session:
        """Returns the session of a name, a new one where there is none.

        Raises:
          MessageError: If there are too many.
        """
        self.forget()
        if name not in self._named:
            if len(self._named) >= self.config.most:
                raise MessageError(
                    f"{self.config.most} sessions are open, and no more are served; close one"
                )
            self._named[name] = Session(self._initial(), used_s=self._now())
        return self._named[name]

    def close(self, name: str) -> None:
        """Drops a session, if it is there."""
        self._named.pop(name, None)

    def forget(self) -> None:
        """Drops sessions that were silent for too long."""
        for name, session in list(self._named.items()):
            if not session.busy and self._now() - session.used_s > self.config.forget_s:
                self.close(name)

    def read(self, message: Any, connection: str) -> Request:
        """Understands a message.

        Args:
          message: What came: observation keys without a batch axis, and `OWN_KEYS`.
          connection: Name of the session of a message that names none.

        Raises:
          MessageError, SpecMismatch: Saying what was expected; the session stays as it was.
        """
        if not isinstance(message, dict):
            raise MessageError(f"a message must be a map, got {type(message).__name__}")
        name = message.get("session", connection)
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise MessageError("session: expected a text of 1 to 200 characters")
        obs = self._observation(message)
        given, seed = _number(message, "time_s"), _number(message, "seed")
        reset, only = (_flag(message, key) for key in ("reset", "observe_only"))
        session = self.open(name)
        if session.busy:
            raise MessageError(
                f"session {name[:40]!r} is still busy with its last message; wait for the answer"
            )
        now = self._now()
        reset = reset or session.fresh or (given is not None and given < session.time_s)
        idle = self.config.idle_reset_s
        reset = reset or (idle > 0 and now - session.used_s > idle and session.tick > 0)
        prompt = message.get("prompt", "")
        if prompt and session.prompt not in ("", prompt) and self.config.reset_on_prompt:
            reset = True
        session.prompt = prompt or session.prompt
        if seed is not None:
            session.seed = int(seed)
        if reset:
            session.tick, session.began_s = 0, now
        session.used_s, session.busy = now, True
        time_s = given
        if time_s is None:
            calls = session.tick * self.spec.observe_period_s
            time_s = calls if self.config.clock == CALLS else now - session.began_s
        return Request(session, obs, float(time_s), bool(reset), not only)

    def _observation(self, message: Mapping[str, Any]) -> Arrays:
        obs: Arrays = {}
        if INSTRUCTION in self.spec.observations and "prompt" in message:
            prompt = message["prompt"]
            if not isinstance(prompt, str):
                raise MessageError(f"prompt: expected text, got {type(prompt).__name__}")
            obs[INSTRUCTION] = encode_instruction(prompt)[None]
        for key, spec in self.spec.observations.items():
            if key in message:
                value = message[key]
                if not isinstance(value, np.ndarray):
                    value = np.asarray(value, spec.dtype) if np.isscalar(value) else value
                if not isinstance(value, np.ndarray):
                    raise MessageError(f"{key}: expected an array, got {type(value).__name__}")
                spec.check(key, value)
                if value.dtype.kind == "f" and not np.isfinite(value).all():
                    raise MessageError(f"{key}: holds NaN or infinity, which memory must not keep")
                obs[key] = value[None]
            elif key not in obs:
                raise SpecMismatch(
                    f"observation {key!r} is missing; this policy reads "
                    f"{', '.join(self.spec.observations)}"
                )
        return obs


def work(engine: Engine, requests: Sequence[Request]) -> list[np.ndarray | None]:
    """Answers requests of different sessions, each as it would be answered alone.

    Returns:
      The chunk float32 [K, A] of each, or None where none was asked for.
    """
    obs = {key: np.concatenate([r.obs[key] for r in requests]) for key in requests[0].obs}
    time_s = np.array([r.time_s for r in requests], np.float32)
    state = {
        name: np.concatenate([r.session.state[name] for r in requests])
        for name in requests[0].session.state
    }
    done, after = engine.tick(obs, time_s, state, np.array([r.reset for r in requests]))
    chunks: list[np.ndarray | None] = [None] * len(requests)
    if any(r.acts for r in requests):
        spec = engine.spec
        noise = np.stack(
            [
                draw_noise(r.session.seed, r.session.tick, spec.noise_shape, spec.noise_law)
                for r in requests
            ]
        )
        answers = engine.answer(done, noise)
        chunks = [
            answer if request.acts else None
            for answer, request in zip(answers, requests, strict=True)
        ]
    for row, request in enumerate(requests):
        session = request.session
        session.state = {name: array[row : row + 1].copy() for name, array in after.items()}
        session.fresh, session.time_s = False, request.time_s
        session.tick += 1
    return chunks


def _number(message: Mapping[str, Any], key: str) -> float | None:
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, (bool, str, bytes, list, dict)) or not np.isscalar(value):
        raise MessageError(f"{key}: expected a number, got {type(value).__name__}")
    if not 0 <= float(value) < 2**53:
        raise MessageError(f"{key}: expected a number >= 0, got {value!r}")
    return float(value)


def _flag(message: Mapping[str, Any], key: str) -> bool:
    value = message.get(key, False)
    if not isinstance(value, (bool, np.bool_)):
        raise MessageError(f"{key}: expected true or false, got {type(value).__name__}")
    return bool(value)
