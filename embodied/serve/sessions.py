"""Sessions: one memory each, with a clock of its own and a stated rule for starting anew.

Shape letters: K actions in a chunk, A action size.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from embodied.core.errors import ConfigError, DataError, SpecMismatch, unknown_name
from embodied.core.rng import draw_noises
from embodied.core.specs import PolicySpec
from embodied.core.text import INSTRUCTION, encode_instruction
from embodied.serve.codec import MessageError
from embodied.serve.keeping import Keeper, Snapshot

WALL, CALLS = "wall", "calls"
CLOCKS = (WALL, CALLS)

OWN_KEYS = (
    "reset", "time_s", "session", "observe_only", "seed", "prompt", "keep", "sequence",
)  # fmt: skip
"""Keys of a message that are no observations."""

MOST_PROMPT = 4096
"""Characters of an instruction that a session remembers, whether or not its policy reads one."""

Arrays = dict[str, np.ndarray]


class Engine(Protocol):
    """What computes: a `Runtime`, or a checkpoint behind the same methods."""

    spec: PolicySpec

    def check(self, obs: Mapping[str, np.ndarray], source: str) -> None: ...

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
      name: What messages call it.
      past: How far it is.
      used_s: When it was last used, on the server's clock.
      busy: A message of it is being answered.
    """

    name: str
    past: Snapshot
    used_s: float
    busy: bool = False


@dataclasses.dataclass
class Request:
    """A message that has been understood.

    Attributes:
      session: Whose.
      before: The session as it was.
      begin: As it was, with what the message changes.
      obs: Observation key -> [1, ...].
      time_s: Seconds of the episode.
      reset: The tick begins an episode.
      acts: An answer is asked for.
      again: The message was answered before; the session's last answer is the answer.
    """

    session: Session
    before: Snapshot
    begin: Snapshot
    obs: Arrays
    time_s: float
    reset: bool
    acts: bool
    again: bool = False


class Sessions:
    """All sessions of a server.

    Args:
      spec: What the policy reads.
      initial: Returns empty memory of one row.
      config: When sessions begin and end.
      now: The clock, in seconds.
      keeper: Where sessions that ask for it outlive the server; None for nowhere.
    """

    def __init__(
        self,
        spec: PolicySpec,
        initial: Callable[[], Arrays],
        config: SessionConfig | None = None,
        now: Callable[[], float] = time.monotonic,
        keeper: Keeper | None = None,
    ) -> None:
        self.spec, self.config = spec, config or SessionConfig()
        self._initial, self._now, self._keeper = initial, now, keeper
        self._named: dict[str, Session] = {}
        for name, (past, used_s) in (keeper.load() if keeper else {}).items():
            self._named[name] = Session(name, past, used_s)
        self.forget()

    def __len__(self) -> int:
        return len(self._named)

    def state_bytes(self) -> int:
        """Returns the bytes of all memories."""
        return sum(a.nbytes for s in self._named.values() for a in s.past.state.values())

    def close(self, name: str) -> None:
        """Drops a session, if it is there."""
        session = self._named.pop(name, None)
        if session is not None and session.past.kept and self._keeper is not None:
            self._keeper.remove(name)

    def forget(self) -> None:
        """Drops sessions that were silent for too long, and their files."""
        for name, session in list(self._named.items()):
            if not session.busy and self._now() - session.used_s > self.config.forget_s:
                # A file that can't be deleted now is too old at the next start as well.
                with contextlib.suppress(DataError):
                    self.close(name)

    def read(self, message: Any, connection: str) -> Request:
        """Understands a message.

        Args:
          message: What came: observation keys without a batch axis, and `OWN_KEYS`.
          connection: Name of the session of a message that names none.

        Raises:
          MessageError, SpecMismatch, ConfigError: Saying what was expected; the session stays as
            it was.
        """
        if not isinstance(message, dict):
            raise MessageError(f"a message must be a map, got {type(message).__name__}")
        name = message.get("session", connection)
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise MessageError("session: expected a text of 1 to 200 characters")
        prompt = _prompt(message)
        obs = self._observation(message, prompt)
        given, seed, sequence = (_number(message, k) for k in ("time_s", "seed", "sequence"))
        reset, only = (bool(_flag(message, key)) for key in ("reset", "observe_only"))
        keep = self._keep(message)
        self.forget()
        session, now = self._find(name, reset), self._now()
        past = session.past
        if sequence is not None and sequence == past.sequence - 1:
            return Request(session, past, past, obs, past.time_s, past.tick == 1, not only, True)
        if sequence is not None and sequence != past.sequence:
            raise MessageError(
                f"session {name[:40]!r} has answered {past.sequence} messages, so that "
                f"{past.sequence} is the sequence number of its next, got {sequence:g}; begin a "
                "new episode with reset=true, without a sequence number"
            )
        reset = reset or past.fresh or (given is not None and given < past.time_s)
        idle = self.config.idle_reset_s
        reset = reset or (idle > 0 and now - session.used_s > idle and past.tick > 0)
        if prompt and past.prompt not in ("", prompt) and self.config.reset_on_prompt:
            reset = True
        begin = dataclasses.replace(
            past,
            tick=0 if reset else past.tick,
            began_s=now if reset else past.began_s,
            seed=past.seed if seed is None else int(seed),
            prompt=prompt or past.prompt,
            kept=past.kept if keep is None else keep,
        )
        self._named[name] = session
        session.used_s, session.busy = now, True
        time_s = given
        if time_s is None:
            calls = begin.tick * self.spec.observe_period_s
            time_s = calls if self.config.clock == CALLS else now - begin.began_s
        return Request(session, past, begin, obs, float(time_s), bool(reset), not only)

    def keep(self, request: Request) -> None:
        """Writes an answered session to its file, or removes it; only where that was asked for.

        Raises:
          DataError: If it can't be written; the session is as it was before the message.
        """
        session = request.session
        if self._keeper is None or not (session.past.kept or request.before.kept):
            return
        try:
            if session.past.kept:
                self._keeper.write(session.name, session.past)
            else:
                self._keeper.remove(session.name)
        except DataError:
            session.past = request.before
            raise

    def _find(self, name: str, reset: bool) -> Session:
        """Returns the session of a name, or a new one, which is not among the others yet."""
        session = self._named.get(name)
        if session is None:
            if len(self._named) >= self.config.most:
                raise MessageError(
                    f"{self.config.most} sessions are open, and no more are served; close one"
                )
            broken = self._keeper.broken(name) if self._keeper else ""
            if broken and not reset:
                raise MessageError(
                    f"session {name[:40]!r} was kept and can't go on: {broken}; begin a new "
                    "episode with reset=true"
                )
            # A new episode over a broken file replaces it: its client asked to be kept.
            past = Snapshot(self._initial(), kept=bool(broken))
            return Session(name, past, self._now())
        if session.busy:
            raise MessageError(
                f"session {name[:40]!r} is still busy with its last message; wait for the answer"
            )
        return session

    def _keep(self, message: Mapping[str, Any]) -> bool | None:
        """Returns whether a message asks to be kept; None where it says nothing."""
        keep = _flag(message, "keep")
        if keep and self._keeper is None:
            raise MessageError("keep: this server keeps no sessions; start it with keep=DIRECTORY")
        if keep and "session" not in message:
            raise MessageError("keep: a session that is kept needs a name; send session as well")
        return keep

    def _observation(self, message: Mapping[str, Any], prompt: str | None) -> Arrays:
        obs: Arrays = {}
        if INSTRUCTION in self.spec.observations and prompt is not None:
            obs[INSTRUCTION] = encode_instruction(prompt)[None]
        for key, spec in self.spec.observations.items():
            if key in message:
                value = _array(key, message[key], spec.dtype)
                spec.check(key, value)
                if wrong := spec.fault(value):
                    raise MessageError(f"{key}: {wrong}, which memory must not keep")
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

    Raises:
      SpecMismatch: If a session begins with an observation that the policy refuses; no session
        has moved on then.
    """
    for request in requests:
        if request.before.fresh:
            engine.check(request.obs, f"session {request.session.name[:40]!r}")
    obs = {key: np.concatenate([r.obs[key] for r in requests]) for key in requests[0].obs}
    time_s = np.array([r.time_s for r in requests], np.float32)
    state = {
        name: np.concatenate([r.begin.state[name] for r in requests])
        for name in requests[0].begin.state
    }
    done, after = engine.tick(obs, time_s, state, np.array([r.reset for r in requests]))
    chunks: list[np.ndarray | None] = [None] * len(requests)
    if any(r.acts for r in requests):
        spec, begins = engine.spec, [r.begin for r in requests]
        seeds, ticks = [b.seed for b in begins], [b.tick for b in begins]
        noise = draw_noises(seeds, ticks, spec.noise_shape, spec.noise_law)
        answers = engine.answer(done, noise)
        chunks = [
            answer.copy() if request.acts else None
            for answer, request in zip(answers, requests, strict=True)
        ]
    for row, request in enumerate(requests):
        request.session.past = dataclasses.replace(
            request.begin,
            state={name: array[row : row + 1].copy() for name, array in after.items()},
            fresh=False,
            time_s=request.time_s,
            tick=request.begin.tick + 1,
            sequence=request.begin.sequence + 1,
            answer=chunks[row],
        )
    return chunks


def _array(key: str, value: Any, dtype: str) -> np.ndarray:
    """Returns an array of a message, or a number of it as one of the policy's type."""
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, (bool, int, float, np.generic)):
        raise MessageError(f"{key}: expected an array, got {type(value).__name__}")
    try:
        return np.asarray(value, dtype)
    except (ValueError, OverflowError) as error:
        raise MessageError(f"{key}: {value!r} is no number of {dtype}") from error


def _prompt(message: Mapping[str, Any]) -> str | None:
    prompt = message.get("prompt")
    if prompt is None:
        return None
    if not isinstance(prompt, str):
        raise MessageError(f"prompt: expected text, got {type(prompt).__name__}")
    if len(prompt) > MOST_PROMPT:
        raise MessageError(
            f"prompt: expected at most {MOST_PROMPT:,} characters, got {len(prompt):,}"
        )
    return prompt


def _number(message: Mapping[str, Any], key: str) -> float | None:
    value = message.get(key)
    if value is None:
        return None
    if isinstance(value, (bool, str, bytes, list, dict)) or not np.isscalar(value):
        raise MessageError(f"{key}: expected a number, got {type(value).__name__}")
    if not 0 <= float(value) < 2**53:
        raise MessageError(f"{key}: expected a number >= 0, got {value!r}")
    return float(value)


def _flag(message: Mapping[str, Any], key: str) -> bool | None:
    value = message.get(key)
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise MessageError(f"{key}: expected true or false, got {type(value).__name__}")
    return None if value is None else bool(value)
