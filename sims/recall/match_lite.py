"""Match-Lite: values shown with keys at some steps of noise; later one key's value is asked.

A re-creation of delayed match to sample without vision. With one pair the value is shown in
the first frame; with more, pairs stand at random frames and are asked by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws, paint
from sims.recall.game import P_CUE, P_GAP, Game, Rows, check_knobs, recall_info, token

MAX_PAIRS, MAX_VALUES, NOISE = 16, 16, 16


def _level(values: int, pairs: int, length: int) -> dict[str, int]:
    return {"values": values, "pairs": pairs, "length": length}


INFO = recall_info(
    name="match_lite",
    env_id="MatchLite",
    entry="match_lite:MatchLite",
    summary="see values with keys among noise, then name the value of one key",
    levels={
        "4_gap32": _level(4, 1, 32),
        "4_gap250": _level(4, 1, 250),
        "8_gap250": _level(8, 1, 250),
        "4_pairs8_gap250": _level(4, 8, 250),
    },
    cues=lambda knobs: int(knobs["values"]),
    steps=lambda knobs: int(knobs["length"]) + 1,
)


class MatchLite(Game):
    """Observations, all int64 []: ``key_token`` (0 none, else 1 + key), ``value_token`` (0
    none, else 1 + value), ``noise_token`` (new at each step), ``instruction_token`` (0 watch,
    1 choose).

    The question stands in frame ``length``; the action, a value, decides.

    State: shown_at [n, pairs] frame of each key; value_of [n, pairs]; asked [n].
    """

    info = INFO
    instruction_words = ("watch", "choose the value")

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(self.info, knobs, values=(2, MAX_VALUES), pairs=(1, MAX_PAIRS))
        check_knobs(self.info, knobs, length=(int(knobs["pairs"]), 10**9))
        self.values, self.pairs = int(knobs["values"]), int(knobs["pairs"])
        self.length = int(knobs["length"])
        self.action_names = tuple(f"value{v}" for v in range(self.values))
        self.option_names = self.action_names
        super().__init__(knobs, rows)
        self.shown_at = self.keep("shown_at", (self.pairs,))
        self.value_of = self.keep("value_of", (self.pairs,))
        self.asked = self.keep("asked")

    def specs(self) -> dict[str, ArraySpec]:
        """Key, value, noise and instruction."""
        return {
            "key_token": token(1 + self.pairs),
            "value_token": token(1 + self.values),
            "noise_token": token(NOISE),
            "instruction_token": token(2),
        }

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws where pairs stand, all values and the question."""
        pairs = self.pairs
        if pairs == 1:
            self.shown_at[rows] = 0
        else:  # distinct frames: sorted draws, pushed apart
            free = draws.integers(seeds, "match/frames", self.length - pairs + 1, pairs)
            self.shown_at[rows] = np.sort(free, 1) + np.arange(pairs)
        asked = draws.integers(seeds, "match/asked", pairs, 1)[:, 0]
        values = draws.integers(seeds, "match/values", self.values, pairs)
        values[np.arange(len(rows)), asked] = cues
        # Keys come in a random order, so that the asked one says nothing about when.
        order = draws.permutations(seeds, "match/keys", pairs)
        self.shown_at[rows] = np.take_along_axis(self.shown_at[rows], order, 1)
        self.value_of[rows], self.asked[rows], self.target[rows] = values, asked, cues
        self._show(rows)

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Shows the next frame, or decides."""
        choosing = self.where(rows, self.actionable[rows])
        self._show(self.index if isinstance(rows, slice) else rows)
        arrived = self.where(rows, self.tick[rows] == self.length)
        if arrived.size:
            self.obs["key_token"][arrived] = 1 + self.asked[arrived]
            self.obs["instruction_token"][arrived] = 1
            self.open(arrived)
        if choosing.size:
            chosen = actions[choosing]
            self.decide(choosing, chosen, chosen == self.target[choosing], 1.0)

    def _show(self, rows: np.ndarray) -> None:
        rows = rows[self.tick[rows] <= self.length]
        tick, obs = self.tick[rows], self.obs
        obs["noise_token"][rows] = draws.integers(self.seed[rows], "match/noise", NOISE, 1, tick)[
            :, 0
        ]
        obs["key_token"][rows] = obs["value_token"][rows] = obs["instruction_token"][rows] = 0
        hit = self.shown_at[rows] == tick[:, None]
        at, pair = np.nonzero(hit)
        shown = rows[at]
        obs["key_token"][shown] = 1 + pair
        obs["value_token"][shown] = 1 + self.value_of[shown, pair]
        self.phase[rows] = np.where(hit.any(1), P_CUE, P_GAP)

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Names the value that is believed in."""
        return belief

    def evidence(self) -> np.ndarray:
        """The frame of the asked pair."""
        frame = self.shown_at[self.index, self.asked]
        return np.stack((frame, frame), -1)[:, None]

    def picture(self, row: int, size: int) -> np.ndarray:
        """Key and value as coloured blocks over a strip of noise."""
        canvas = paint.canvas(size)
        key, value = (int(self.obs[f"{k}_token"][row]) for k in ("key", "value"))
        if key:
            paint.disc(canvas, 0.3, 0.3, 0.14, tuple(paint.HUES[(key - 1) % 8]))
        if value:
            paint.block(canvas, 0.18, 0.58, 0.24, 0.24, tuple(paint.HUES[(value - 1) % 8]))
        level = 0.05 * int(self.obs["noise_token"][row])
        paint.block(canvas, 0.6, 0.1, 0.1, 0.05 + level, paint.MUTED)
        line = paint.line_height(size)
        words = self.instruction_words[self.obs["instruction_token"][row]]
        if self.commit[row] >= 0:
            words = self.option_names[self.commit[row]]
        paint.write(canvas, words, size - line, line)
        return canvas
