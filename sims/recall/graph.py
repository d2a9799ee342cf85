"""Navigation in a new city: find streets that are named by codes, again and again.

**Source** of the kind: One-Shot StreetLearn of Ritter et al. 2021 (arXiv 2006.03662), whose
agent sees where it is and where it shall go as one-hot codes, both new in each episode. A
re-creation: its cities are pieces of a real map, ours are random points joined as in a Gabriel
graph (two points are neighbours if no third one lies in the circle over their line).

Shape letters: n rows, k some of them, j junctions, s = j * j states. State u * j + v stands at
junction u and looks along the street to v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws, paint
from sims.recall.game import ALL, P_EXECUTE, Game, Rows, check_knobs, recall_info, token

CODES = 60
"""Names of directed streets. Source: Ritter et al. 2021. Twelve junctions have at most so many."""
FORWARD, LEFT, RIGHT, COLLECT = range(4)
MAX_JUNCTIONS = 12


def _level(junctions: int, steps: int, needed: int) -> dict[str, int]:
    return {"junctions": junctions, "steps": steps, "needed": needed}


LEVELS = {
    "small": _level(6, 200, 24),
    "medium": _level(8, 200, 15),
    "large": _level(12, 400, 18),
}
_MEASURED = {(6, 200, 24): 0.068, (8, 200, 15): 0.054, (12, 400, 18): 0.021}
"""Junctions, steps, goals needed -> `measured_ceiling` over 20,000 episodes (10,000 the last)."""
_BY_CHANCE = dict.fromkeys(_MEASURED, 0.0)
"""The same -> `random_success`: two goals in the mean, and ten at most, over 2,000 episodes."""


def _key(knobs: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(int(knobs[name]) for name in ("junctions", "steps", "needed"))


def _ceiling(knobs: Mapping[str, Any]) -> float:
    key = _key(knobs)
    return _MEASURED[key] if key in _MEASURED else measured_ceiling(knobs)


def _chance(knobs: Mapping[str, Any]) -> float:
    key = _key(knobs)
    return _BY_CHANCE[key] if key in _BY_CHANCE else random_success(knobs)


INFO = recall_info(
    name="graph",
    env_id="Graph",
    entry="graph:Graph",
    summary="find named streets of a new city, again and again",
    levels=LEVELS,
    cues=lambda knobs: 2,
    steps=lambda knobs: int(knobs["steps"]),
    ceiling=_ceiling,
    chance=_chance,
)


class Graph(Game):
    """Observations: ``here_token`` and ``goal_token``, int64 [] in 0..59: the names of the
    street ahead and of the street to be found.

    Actions: forward (to the street's end, then looking along the street that bends least),
    left, right (to the next street of the junction), collect. Collecting at the goal is
    rewarded with 1 and gives a new goal, another street than the one ahead. The episode lasts
    ``steps``; it is a success if ``needed`` goals were collected. The cue chooses one of two
    cities: nothing is remembered from before the first step that counts.

    State: next_of [n, s, 3] state after forward, left, right; name_of [n, s] or -1 where there
    is no street; listed [n, s] states with streets first; streets [n]; place [n, j, 2]; here,
    goal [n] states; goals [n] collected.
    """

    info = INFO
    action_names = ("forward", "left", "right", "collect")
    option_names = tuple(f"street{k}" for k in range(CODES))
    instruction_words = ("find the street that is named",)

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(self.info, knobs, junctions=(3, MAX_JUNCTIONS), steps=(1, 10**8))
        check_knobs(self.info, knobs, needed=(1, int(knobs["steps"])))
        super().__init__(knobs, rows)
        self.j, self.steps = int(knobs["junctions"]), int(knobs["steps"])
        states = self.j**2
        self.next_of = self.keep("next_of", (states, 3))
        self.name_of = self.keep("name_of", (states,))
        self.listed, self.streets = self.keep("listed", (states,)), self.keep("streets")
        self.place = self.keep("place", (self.j, 2), np.float64)
        self.here, self.goal, self.goals = (self.keep(k) for k in ("here", "goal", "goals"))

    def specs(self) -> dict[str, ArraySpec]:
        """Names of the street ahead and of the goal."""
        return {"here_token": token(CODES), "goal_token": token(CODES)}

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws the city, the names, the start and the first goal."""
        salted = 2 * seeds + cues
        place = draws.uniforms(salted, "graph/places", 2 * self.j).reshape(-1, self.j, 2)
        streets, turns = city(place)
        streets = streets.reshape(len(rows), -1)
        self.place[rows], self.next_of[rows] = place, turns
        rank = streets.cumsum(1) - 1
        names = draws.permutations(salted, "graph/names", CODES)
        named = np.take_along_axis(names, np.minimum(rank, CODES - 1), 1)
        self.name_of[rows] = np.where(streets, named, -1)
        self.listed[rows] = np.argsort(~streets, 1, kind="stable")
        self.streets[rows] = count = streets.sum(1)
        first = draws.integers(salted, "graph/start", count[:, None], 1)[:, 0]
        self.here[rows] = self.listed[rows, first]
        self.goals[rows] = 0
        self._new_goal(rows)
        self.phase[rows], self.actionable[rows] = P_EXECUTE, True
        self._show(rows)

    def _new_goal(self, rows: np.ndarray) -> None:
        """Draws a goal among the streets but the one ahead."""
        salted = 2 * self.seed[rows] + self.cue[rows]
        others = self.streets[rows, None] - 1
        drawn = draws.integers(salted, "graph/goal", others, 1, self.goals[rows])[:, 0]
        own = (self.listed[rows] == self.here[rows, None]).argmax(1)
        self.goal[rows] = self.listed[rows, drawn + (drawn >= own)]

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Moves, or collects."""
        every = self.index if rows is ALL else rows
        every = every[self.actionable[every]]
        action, here = actions[every], self.here[every]
        found = every[(action == COLLECT) & (here == self.goal[every])]
        moves = action != COLLECT
        self.here[every[moves]] = self.next_of[every[moves], here[moves], action[moves]]
        if found.size:
            self.reward[found] = 1.0
            self.goals[found] += 1
            self.success[found] = self.goals[found] >= self.knobs["needed"]
            self._new_goal(found)
        self._show(every)
        late = every[self.tick[every] >= self.steps]
        if late.size:
            self.time_out(late)

    def _show(self, rows: np.ndarray) -> None:
        self.obs["here_token"][rows] = self.name_of[rows, self.here[rows]]
        self.obs["goal_token"][rows] = goal = self.name_of[rows, self.goal[rows]]
        self.target[rows] = goal

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Takes a shortest way; believing in the other city it goes straight on."""
        distance = np.where(np.arange(self.j**2) == self.goal[:, None], 0, self.j**2)
        ahead = self.next_of.reshape(self.n, -1)
        for _ in range(self.j**2):
            steps = 1 + np.take_along_axis(distance, ahead, 1).reshape(self.n, -1, 3).min(2)
            nearer = np.minimum(distance, steps)
            if (nearer == distance).all():
                break
            distance = nearer
        options = np.take_along_axis(distance, self.next_of[self.index, self.here], 1)
        way = np.where(self.here == self.goal, COLLECT, options.argmin(1))
        return np.where(belief == self.cue, way, FORWARD)

    def extra_infos(self) -> dict[str, np.ndarray]:
        """Goals collected so far."""
        return {"goals": self.goals.copy()}

    def evidence(self) -> np.ndarray:
        """Nothing: what is needed depends on where the agent has been."""
        return np.full((self.n, 1, 2), -1)

    def picture(self, row: int, size: int) -> np.ndarray:
        """The city with the agent, the street ahead and the goal."""
        canvas, j = paint.canvas(size), self.j
        place = 0.08 + 0.76 * self.place[row]
        for state in np.flatnonzero(self.name_of[row] >= 0):
            paint.line(canvas, place[state // j], place[state % j], paint.MUTED)
        for state, colour, share in (
            (self.goal[row], paint.TOLD, 1.0),
            (self.here[row], paint.INK, 0.5),
        ):
            u, v = divmod(int(state), j)
            paint.line(canvas, place[u], place[u] + share * (place[v] - place[u]), colour, 0.015)
        for y, x in place:
            paint.disc(canvas, y, x, 0.015, paint.MUTED)
        for state, colour, radius in (
            (self.goal[row], paint.TOLD, 0.03), (self.here[row], paint.INK, 0.022),
        ):  # fmt: skip
            paint.disc(canvas, *place[int(state) // j], radius, colour)
        line = paint.line_height(size)
        paint.write(canvas, f"{self.goals[row]} found", size - line, line)
        return canvas


def city(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins points to a city.

    Args:
      place: float64 [k, j, 2], (y, x) as in a picture: y grows downward.

    Returns:
      Whether there is a street from u to v, bool [k, j, j] (always connected), and the state
      after forward, left, right from each state, int64 [k, s, 3] (itself without a street).
    """
    k, j = place.shape[:2]
    apart = place[:, None] - place[:, :, None]  # [k, u, v]: from u to v
    far = (apart**2).sum(-1)
    eye = np.eye(j, dtype=bool)
    third = far[:, :, None, :] + far[:, None, :, :]  # [k, u, v, w]
    third[:, eye[:, None, :] | eye[None, :, :]] = np.inf  # w is u or v
    streets = (third >= far[..., None]).all(-1) & ~eye
    angle = np.arctan2(apart[..., 1], apart[..., 0])
    full = 2 * np.pi

    def nearest(turn: np.ndarray, there: np.ndarray) -> np.ndarray:
        return np.where(there, turn, np.inf).argmin(-1)

    # [k, u, v, w]: arriving at v from u, or standing at u and looking to v, the street to w.
    bend = (angle[:, None] - angle[..., None] + np.pi) % full - np.pi
    forward = nearest(abs(bend), streets[:, None])
    turn = (angle[:, :, None] - angle[..., None]) % full
    itself = np.broadcast_to(eye, turn.shape)
    left = nearest(np.where(itself, full, turn), streets[:, :, None])
    right = nearest(np.where(itself, full, (-turn) % full), streets[:, :, None])
    u, v = np.arange(j)[:, None], np.arange(j)
    after = np.stack((v * j + forward, u * j + left, u * j + right), -1)
    after = np.where(streets[..., None], after, (u * j + v)[..., None])
    return streets, after.reshape(k, j * j, 3)


WANDERERS = (
    (0.34, 0.33, 0.33), (0.5, 0.5, 0.0), (0.6, 0.4, 0.0), (0.7, 0.3, 0.0), (0.8, 0.2, 0.0),
    (0.87, 0.13, 0.0), (0.94, 0.06, 0.0),
)  # fmt: skip
"""Chances of forward, left and right."""


def measured_ceiling(knobs: Mapping[str, Any], episodes: int = 2_000) -> float:
    """Returns the success of the best memoryless player tried, over `episodes` fixed seeds.

    Names are new in each episode, so a memoryless player knows nothing but whether it has
    arrived: it collects there, and else draws one of the moves with fixed chances. Several
    chances are tried. A measurement, not a bound.
    """
    return max(wandering_success(knobs, chances, episodes) for chances in WANDERERS)


def wandering_success(knobs: Mapping[str, Any], chances: tuple, episodes: int) -> float:
    """Returns the success of one memoryless player; see `measured_ceiling`."""

    def choose(game: Graph, rng: np.random.Generator) -> np.ndarray:
        moves = rng.choice(3, size=episodes, p=chances)
        return np.where(game.here == game.goal, COLLECT, moves)

    return _success(knobs, choose, episodes)


def random_success(knobs: Mapping[str, Any], episodes: int = 2_000) -> float:
    """Returns the success of actions drawn evenly from all four, over `episodes` fixed seeds."""
    return _success(knobs, lambda game, rng: rng.integers(0, COLLECT + 1, episodes), episodes)


def _success(
    knobs: Mapping[str, Any],
    choose: Callable[[Graph, np.random.Generator], np.ndarray],
    episodes: int,
) -> float:
    game = Graph(knobs, episodes)
    rng = np.random.Generator(np.random.PCG64(0))
    game.start(game.index, game.index, np.full(episodes, -1))
    for _ in range(game.steps):
        game.step(choose(game, rng))
    return float(game.success.mean())
