"""Players that see observations alone and remember all of them: what the tasks ask of memory.

Each has `act(obs) -> action`; a new one plays each episode.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from tests.sims.recall.naive_ballet import DANCES, STEPS

Obs = dict[str, np.ndarray]


class BalletLitePlayer:
    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def act(self, obs: Obs) -> int:
        self.seen.append(obs["homes_token"].astype(int))
        asked = int(obs["instruction_token"])
        if not asked:
            return 0
        wanted, at = [], np.zeros(2, int)
        for move in DANCES[list(DANCES)[asked - 1]]:
            at = at + STEPS[move]
            wanted.append(1 + 3 * (at[0] + 1) + at[1] + 1)
        seen = np.stack(self.seen)
        for home in range(8):
            moved = np.flatnonzero((seen[:, home] != 5) & (seen[:, home] != 0))
            if moved.size and seen[moved[0] : moved[0] + 16, home].tolist() == wanted:
                return home
        raise AssertionError("the asked dance was not danced")


class VisualMatchPlayer:
    """Walks up until it sees the doors; the first sight of a color is the cue."""

    def __init__(self) -> None:
        self.cue = 0

    def act(self, obs: Obs) -> int:
        view = obs["view_token"]
        if not self.cue:
            self.cue = int(view.max())
        doors = np.argwhere(view == self.cue)
        if not len(doors) or (view >= 4).sum() == 1:
            return 0
        x = doors[0][1]
        return 1 if x > 2 else 3 if x < 2 else 0


class MatchPlayer:
    def __init__(self) -> None:
        self.value: dict[int, int] = {}

    def act(self, obs: Obs) -> int:
        key, value = int(obs["key_token"]), int(obs["value_token"])
        if value:
            self.value[key] = value - 1
        return self.value[key] if obs["instruction_token"] else 0


class MazePlayer:
    def __init__(self) -> None:
        self.side = 0

    def act(self, obs: Obs) -> int:
        self.side = self.side or int(obs["sign_token"])
        return self.side - 1


class PairsPlayer:
    """Joins pairs to chains; may follow only so many links."""

    def __init__(self, links: int = 99) -> None:
        self.next_to: dict[bytes, set[bytes]] = {}
        self.links = links

    def act(self, obs: Obs) -> int:
        cue, left, right = (obs[f"{k}_code"].tobytes() for k in ("cue", "left", "right"))
        if obs["instruction_token"] == 0:
            self.next_to.setdefault(left, set()).add(right)
            self.next_to.setdefault(right, set()).add(left)
        if obs["instruction_token"] != 2:
            return 0
        reached = {cue}
        for _ in range(self.links):
            reached |= {other for code in reached for other in self.next_to[code]}
        return int(right in reached)


class WordsPlayer:
    def __init__(self) -> None:
        self.named: dict[bytes, bytes] = {}

    def act(self, obs: Obs) -> int:
        name, objects = obs["name_code"].tobytes(), obs["objects_code"]
        if obs["instruction_token"] == 0:
            self.named[name] = objects[0].tobytes()
        if obs["instruction_token"] != 2:
            return 0
        return [code.tobytes() for code in objects].index(self.named[name])


class BoxesPlayer:
    def __init__(self) -> None:
        self.place: dict[int, int] = {}

    def act(self, obs: Obs) -> int:
        for place, content in enumerate(obs["places_token"].tolist()):
            if content > 1:
                self.place[content - 2] = place
        asked = int(obs["instruction_token"])
        return self.place[asked - 1] if asked else 0


class GraphPlayer:
    """Learns where each move leads from each street; explores the nearest unknown move."""

    def __init__(self) -> None:
        self.leads: dict[tuple[int, int], int] = {}
        self.last: tuple[int, int] | None = None

    def act(self, obs: Obs) -> int:
        here, goal = int(obs["here_token"]), int(obs["goal_token"])
        if self.last:
            self.leads[self.last] = here
        self.last = None
        if here == goal:
            return 3
        way = self._way(here, lambda street: street == goal)
        if way is None:
            way = self._way(here, lambda s: any((s, a) not in self.leads for a in range(3)))
        action = way[0] if way else next(a for a in range(3) if (here, a) not in self.leads)
        self.last = (here, action)
        return action

    def _way(self, start: int, wanted: Any) -> tuple[int, ...] | None:
        queue, seen = deque([(start, ())]), {start}
        while queue:
            street, path = queue.popleft()
            if wanted(street):
                return path
            for action in range(3):
                there = self.leads.get((street, action))
                if there is not None and there not in seen:
                    seen.add(there)
                    queue.append((there, (*path, action)))
        return None


PLAYERS = {
    "recall/ballet_lite": BalletLitePlayer,
    "recall/visual_match": VisualMatchPlayer,
    "recall/match_lite": MatchPlayer,
    "recall/t_maze": MazePlayer,
    "recall/pairs": PairsPlayer,
    "recall/words": WordsPlayer,
    "recall/boxes": BoxesPlayer,
    "recall/graph": GraphPlayer,
}


def play(env: Any, player: Any, seed: int) -> dict[str, Any]:
    """Plays one episode; returns its last info."""
    obs, info = env.reset(seed=seed)
    over = False
    while not over:
        obs, _, terminated, truncated, info = env.step(player.act(obs))
        over = terminated or truncated
    return info
