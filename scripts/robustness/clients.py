"""Clients of a server with recorded observations, each of which knows what it would get alone."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence

import numpy as np

from embodied.core.errors import EmbodiedError
from embodied.serve.client import Client

Arrays = dict[str, np.ndarray]
TOLERANCE = 1e-5
WAYS = ("reset", "connection", "time", "session")
"""How an episode begins: by the flag, by a new connection, by time going back, or by the flag in
a named session of a new connection."""
OBSERVE_ONLY = 0.1
"""Share of ticks that only memory sees."""


@dataclasses.dataclass
class Recording:
    """Observations of an episode.

    Attributes:
      observations: One a tick.
      seed: Of the policy's noise.
      period_s: Seconds between ticks.
      alone: The chunk float32 [K, A] that each tick gets where no other client is served.
    """

    observations: list[Arrays]
    seed: int
    period_s: float
    alone: list[np.ndarray] = dataclasses.field(default_factory=list)


def recordings(
    seen: Sequence[Arrays], period_s: float, count: int, ticks: int, seed: int
) -> list[Recording]:
    """Returns episodes, each a stretch of recorded ticks that begins at a drawn one.

    Args:
      seen: Recorded observations, without a batch axis; after the last the first follows.
      period_s: Seconds between ticks.
      count: How many episodes.
      ticks: How long each.
      seed: Draws where they begin.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        begin = int(rng.integers(len(seen)))
        stretch = [seen[(begin + tick) % len(seen)] for tick in range(ticks)]
        found.append(Recording(stretch, 1000 * seed + number, period_s))
    return found


def ask_alone(uri: str, token: str, episodes: Sequence[Recording]) -> None:
    """Fills in what each tick gets alone; nobody else may be served meanwhile."""
    with Client(uri, token) as client:
        for episode in episodes:
            for tick, observation in enumerate(episode.observations):
                answer = client.infer(
                    observation,
                    reset=tick == 0,
                    time_s=tick * episode.period_s,
                    seed=episode.seed,
                )
                episode.alone.append(answer["actions"])


class Visitor(threading.Thread):
    """One client: episodes of its own, cut off and begun anew at times of its own.

    Args:
      uri: The server.
      token: Its token.
      episodes: What it replays, in a drawn order.
      seconds: How long.
      seed: Draws the order, where episodes are cut, and how they begin.

    Attributes:
      episodes: How many it began, in each of the `WAYS`.
      compared: How many answers were compared.
      wrong: How many differed by more than `TOLERANCE`.
      largest: The largest difference.
      latencies_ms: Of each answer.
      failure: What ended it early, or "".
    """

    def __init__(
        self, uri: str, token: str, episodes: Sequence[Recording], seconds: float, seed: int
    ) -> None:
        super().__init__(name=f"visitor {seed}", daemon=True)
        self.uri, self.token, self.seconds = uri, token, seconds
        self._recordings, self._rng = episodes, np.random.default_rng(seed)
        self.episodes = dict.fromkeys(WAYS, 0)
        self.compared = self.wrong = 0
        self.largest, self.failure = 0.0, ""
        self.latencies_ms: list[float] = []

    def run(self) -> None:
        client, end = Client(self.uri, self.token), time.monotonic() + self.seconds
        try:
            while time.monotonic() < end:
                way = str(self._rng.choice(WAYS)) if sum(self.episodes.values()) else "reset"
                if way in ("connection", "session"):
                    client.close()
                    client = Client(self.uri, self.token, self.name if way == "session" else "")
                self.episodes[way] += 1
                self._episode(client, way, end)
        except EmbodiedError as error:
            self.failure = str(error)
        finally:
            client.close()

    def _episode(self, client: Client, way: str, end: float) -> None:
        episode = self._recordings[int(self._rng.integers(len(self._recordings)))]
        # Two ticks at least, so that time can go back.
        for tick in range(int(self._rng.integers(2, len(episode.observations) + 1))):
            if time.monotonic() > end:
                return
            own = {"time_s": tick * episode.period_s, "seed": episode.seed}
            if tick == 0 and way in ("reset", "session"):
                own["reset"] = True
            only = bool(self._rng.random() < OBSERVE_ONLY)
            began = time.monotonic()
            answer = client.infer(episode.observations[tick], observe_only=only, **own)
            self.latencies_ms.append(1e3 * (time.monotonic() - began))
            if not only:
                self._compare(answer["actions"], episode.alone[tick])

    def _compare(self, found: np.ndarray, expected: np.ndarray) -> None:
        difference = float("inf")
        if found.shape == expected.shape and np.isfinite(found).all():
            difference = float(np.abs(found - expected).max())
        self.compared += 1
        self.wrong += difference > TOLERANCE
        self.largest = max(self.largest, difference)
