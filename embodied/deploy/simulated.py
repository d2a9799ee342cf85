"""A simulated robot in a process of its own: it goes on in real time, whoever listens.

At every control tick it tells what it sees, waits until the tick is over and does the newest action
that came; without one it stands still. Faults can be asked for, to see what a controller does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from embodied import registry
from embodied.core.errors import ConfigError, EmbodiedError
from embodied.core.task import EnvConfig
from embodied.deploy.frames import Frames
from embodied.deploy.link import SILENT_S, receive, send
from embodied.deploy.robot import RobotConfig, read_robot

OLD_S = 0.15
"""An action that came longer ago is over: an arm whose controller is silent stands still."""


@dataclasses.dataclass
class SimulatedConfig:
    """A robot at a task.

    Attributes:
      task: Task name.
      level: Level name.
      env: How the environment is made.
      arm: ``"panda"``, or ``"ur5e"`` (with the Panda's hand) to see a policy on another arm.
      speaks: A robot's description in whose terms it speaks; the policy's own by default.
      host: Address to listen at.
      port: Port; 0 for a free one.
      seed_start: Seed of the first episode; they count up.
      episodes: Episodes to play; 0 for no end.
      freeze_at_s: Second of the run after which its cameras freeze, as soon as the arm is not held;
        0 for never.
      freeze_s: How long.
      freeze_stamps: Whether frozen pictures still say when they were taken, as a driver does that
        takes the time with the picture; False stamps them anew.
    """

    task: str = "remember_color"
    level: str = "easy"
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    arm: str = "panda"
    speaks: str = ""
    host: str = "127.0.0.1"
    port: int = 9100
    seed_start: int = 1_441_440
    episodes: int = 0
    freeze_at_s: float = 0.0
    freeze_s: float = 2.0
    freeze_stamps: bool = True

    def __post_init__(self) -> None:
        if self.seed_start < 0 or self.episodes < 0 or self.freeze_s < 0:
            raise ConfigError("seed_start, episodes and freeze_s must be >= 0")


class SimulatedRobot:
    """Plays episodes in real time.

    Args:
      config: Task, place and faults.
      ready: Called with the port once a controller can connect.

    Attributes:
      outcomes: "success" or the failure of each episode that ended.
      late_ticks: Ticks that the simulation itself began more than half a period late.
    """

    def __init__(
        self, config: SimulatedConfig, ready: Callable[[int], None] = lambda port: None
    ) -> None:
        self.config, self._ready = config, ready
        self.outcomes: list[str] = []
        self.late_ticks = 0
        self._lock = threading.Lock()
        self._action: tuple[float, np.ndarray] | None = None
        self._connection: socket.socket | None = None
        self._ended = threading.Event()
        self._frames = Frames(read_robot(config.speaks) if config.speaks else RobotConfig())
        self._session = secrets.randbits(48)
        self._frozen: dict[str, np.ndarray] = {}
        self._froze_s: float | None = None
        self._taken_s = 0.0

    def run(self) -> list[str]:
        """Plays until all episodes are over, or `stop` is called; returns the outcomes."""
        config = self.config
        env = registry.make_env(
            config.task, config.level, config.env, render_every_step=True, arm=config.arm
        )
        world: Any = env.unwrapped
        try:
            listener = socket.create_server((config.host, config.port))
        except OSError as error:
            raise ConfigError(
                f"can't listen at {config.host}:{config.port}: {error.strerror or error}; choose "
                "another port="
            ) from error
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        self._ready(listener.getsockname()[1])
        try:
            self._play(world)
        finally:
            self._ended.set()
            listener.close()
            env.close()
        return self.outcomes

    def stop(self) -> None:
        """Ends the run after the present tick."""
        self._ended.set()

    def _play(self, world: Any) -> None:
        period = 1.0 / world.metadata["render_fps"]
        began = due = time.monotonic()
        episode = 0
        while not self._ended.is_set():
            if self.config.episodes and episode >= self.config.episodes:
                return
            world.start(self.config.seed_start + episode)
            phase, over = 0, False
            while not over and not self._ended.is_set():
                info, obs = world.current_info(), world.observe(draw=True)
                outcome = "success" if info["success"] else str(info["failure_kind"])
                over, now_s = bool(outcome), float(info["time_s"])
                stamps = self._freeze(obs, time.monotonic() - began, now_s, bool(info["held"]))
                self._tell(
                    {
                        "session": self._session,
                        "episode": episode,
                        "phase": phase,
                        "time_s": now_s,
                        "held": bool(info["held"]),
                        "done": over,
                        "outcome": outcome,
                        "obs": self._frames.told(obs),
                        "stamps": stamps,
                    }
                )
                due += period
                wait = due - time.monotonic()
                if wait > 0:
                    time.sleep(wait)
                elif -wait > period / 2:
                    self.late_ticks += 1
                    due = time.monotonic()
                if not over:
                    phase += world.advance(self._newest())
            if over:
                self.outcomes.append(outcome)
            episode += 1

    def _freeze(
        self, obs: dict[str, np.ndarray], run_s: float, now_s: float, held: bool
    ) -> dict[str, float]:
        """Puts frozen pictures into `obs` while the cameras hang; returns when they were taken."""
        at = self.config.freeze_at_s
        if self._froze_s is None and at and run_s >= at and not held:
            self._froze_s, self._taken_s = run_s, now_s
            self._frozen = {k: v for k, v in obs.items() if k.endswith("_image_u8")}
        if self._froze_s is None or run_s >= self._froze_s + self.config.freeze_s:
            return {}
        obs |= self._frozen
        # Taken in an episode that is over: before this one began.
        taken_s = self._taken_s if self._taken_s <= now_s else -self.config.freeze_s
        return dict.fromkeys(self._frozen, taken_s) if self.config.freeze_stamps else {}

    def _newest(self) -> np.ndarray:
        with self._lock:
            action = self._action
        if action is None or time.monotonic() - action[0] > OLD_S:
            return np.zeros(7, np.float32)
        return action[1]

    def _tell(self, message: dict[str, Any]) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            send(connection, message)
        except OSError:  # half a message may have gone: the line is of no use any more
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        """Serves one controller at a time; the next one when it has gone."""
        while not self._ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(SILENT_S)
                self._connection = connection
                with contextlib.suppress(OSError, EmbodiedError):
                    while (message := receive(connection)) is not None:
                        self._take(message)
                self._connection = None
                with self._lock:
                    self._action = None

    def _take(self, message: dict[str, Any]) -> None:
        action = message.get("action")
        fits = isinstance(action, np.ndarray) and action.shape == (7,)
        if fits and np.isfinite(action).all():
            newest = time.monotonic(), np.clip(self._frames.taken(action), -1.0, 1.0)
        else:  # to stop, or nothing that an arm could do
            newest = None
        with self._lock:
            self._action = newest
