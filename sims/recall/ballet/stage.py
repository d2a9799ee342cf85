"""What all Ballet tasks share: who dances where, and the clock of the dances.

Shape letters: n rows, k some of them, d dancers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sims.recall import draws
from sims.recall.ballet import facts
from sims.recall.game import P_CUE, P_EXECUTE, P_GAP, Game, Rows, check_knobs

AT_HOME = 4
"""Displacement code of no displacement: codes are 3 (row + 1) + column + 1, in 0..8."""
_STANDING = len(facts.DANCES)  # a dance without a move, for after the last dancer
_STILL = facts.MOVES  # a 17th move, for the delay
_CODES = np.full((_STANDING + 1, facts.MOVES + 1), AT_HOME)
_CODES[:_STANDING, : facts.MOVES] = (facts.OFFSETS_OF + 1) @ (3, 1)
_CODES_FLAT = _CODES.ravel()
_NEVER = -1

MAX_DANCERS = len(facts.DIRECTIONS)
MAX_DELAY = 10**7

Knobs = Mapping[str, Any]


def period(knobs: Knobs) -> int:
    """Returns the frames from one dancer's first move to the next one's."""
    return facts.PERIOD_WITHOUT_DELAY + int(knobs["delay"])


def choice_frame(knobs: Knobs) -> int:
    """Returns the frame in which the instruction appears; the action after it counts."""
    return int(knobs["lead"]) + int(knobs["dancers"]) * period(knobs)


class BalletGame(Game):
    """Base of the Ballet tasks; knobs ``dancers``, ``delay``, ``dances`` and ``lead``.

    ``lead`` frames without a move come before all, 0 in the published levels: memories that
    cut time into chunks can be tested with other cuts.

    The cue says which dancer performs the dance that will be asked for. Other cues hand the
    same dances round, so the choice looks alike for all of them.

    State: home_of [n,d] direction of each dancer's home; dance_of [n,d]; asked [n] dance;
    who [n] dancer on stage; since, until [n] ticks of its first frame and of the next change;
    code [n] displacement of the dancer on stage.
    """

    option_names = facts.DIRECTIONS
    action_names = facts.DIRECTIONS
    instruction_words = ("watch", *facts.DANCES)

    def __init__(self, knobs: Knobs, rows: int) -> None:
        most = len(facts.DANCES)
        check_knobs(self.info, knobs, dancers=(1, MAX_DANCERS), delay=(1, MAX_DELAY))
        check_knobs(self.info, knobs, lead=(0, MAX_DELAY))
        # Dances are all different, so the pool holds at least one for each dancer.
        check_knobs(self.info, knobs, dances=(int(knobs["dancers"]), most))
        self.dancers, self.pool = int(knobs["dancers"]), int(knobs["dances"])
        self.period, self.choice_frame = period(knobs), choice_frame(knobs)
        self.lead = int(knobs["lead"])
        super().__init__(knobs, rows)
        self.home_of = self.keep("home_of", (self.dancers,))
        self.dance_of = self.keep("dance_of", (self.dancers,))
        self.asked, self.who = self.keep("asked"), self.keep("who")
        self.since, self.until = self.keep("since"), self.keep("until")
        self.code = self.keep("code", fill=AT_HOME)
        # Copies of what is looked up at each tick.
        self.home_now, self.dance_now = self.keep("home_now"), self.keep("dance_now")

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws homes and dances and makes the first move of the first dancer."""
        d = self.dancers
        bits = draws.words(seeds, "ballet/plan", MAX_DANCERS + self.pool)
        homes = draws.shuffled(bits[:, :MAX_DANCERS])[:, :d]
        order = draws.shuffled(bits[:, MAX_DANCERS:])[:, :d]
        turn = (np.arange(d) - cues[:, None]) % d
        self.home_of[rows] = homes
        self.dance_of[rows] = np.take_along_axis(order, turn, 1)
        self.asked[rows] = order[:, 0]
        self.target[rows] = homes[np.arange(len(rows)), cues]
        self.since[rows] = 0
        self.home_now[rows] = homes[:, 0]
        if self.lead:
            self.who[rows], self.until[rows], self.dance_now[rows] = -1, self.lead, _STANDING
            self.phase[rows] = P_GAP
        else:
            self.who[rows], self.until[rows] = 0, self.period
            self.dance_now[rows] = self.dance_of[rows, 0]
        self.code[rows] = _CODES[self.dance_now[rows], 0]
        self.obs["instruction_token"][rows] = 0

    def dance(self, rows: Rows) -> None:
        """Moves the dancer on stage; changes the dancer, or opens the choice, where it is time."""
        changing = self.where(rows, self.tick[rows] == self.until[rows])
        if changing.size:
            self._change(changing)
        move = np.minimum(self.tick[rows] - self.since[rows], _STILL)
        self.code[rows] = _CODES_FLAT.take(self.dance_now[rows] * (_STILL + 1) + move)
        # A dancer that has moved 16 times, or none yet: P_CUE is 0, P_GAP is 1.
        quiet = ((move == _STILL) | (self.dance_now[rows] == _STANDING)).view(np.uint8)
        self.phase[rows] = np.where(self.until[rows] == _NEVER, P_EXECUTE, quiet)

    def _change(self, rows: np.ndarray) -> None:
        self.who[rows] += 1
        self.since[rows] = self.tick[rows]
        self.until[rows] += self.period
        done = self.who[rows] == self.dancers
        if done.any():
            last, rows = rows[done], rows[~done]
            self.until[last], self.dance_now[last] = _NEVER, _STANDING
            self.obs["instruction_token"][last] = 1 + self.asked[last]
            self.open(last)
        now = self.who[rows]
        self.home_now[rows], self.dance_now[rows] = (
            self.home_of[rows, now],
            self.dance_of[rows, now],
        )

    def evidence(self) -> np.ndarray:
        """The frames in which the asked dance is danced."""
        first = self.lead + self.cue * self.period
        return np.stack((first, first + facts.MOVES - 1), -1)[:, None]

    def believed_home(self, belief: np.ndarray) -> np.ndarray:
        """Returns int64 [n]: the direction of the home of dancer `belief`."""
        return self.home_of[self.index, belief]


assert (P_CUE, P_GAP) == (0, 1)
