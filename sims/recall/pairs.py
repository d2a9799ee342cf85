"""Paired associative inference: pairs A-B and B-C are shown; does A go with C or with C'?

**Source** of the kind: Banino et al. 2020 (MEMO, arXiv 2001.10913), published as supervised
data with pictures: 16 chains, of which neighbours are shown in pairs, and questions over any
distance within a chain. Here pairs come one after the other, as random codes drawn for the
episode, and one question is answered by an action.

Shape letters: n rows, k some of them, c chains, l length of a chain, p = c (l - 1) pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.specs import ArraySpec
from sims.recall import draws, paint
from sims.recall.game import (
    P_CUE,
    P_EXECUTE,
    P_GAP,
    Game,
    Rows,
    check_knobs,
    code,
    recall_info,
    token,
)

WATCH, WAIT, CHOOSE = range(3)


def _level(length: int, chains: int = 16) -> dict[str, int]:
    return {"length": length, "chains": chains, "gap": 0, "wait": 4, "hops": 0}


def _choice_frame(knobs: Mapping[str, Any]) -> int:
    pairs = int(knobs["chains"]) * (int(knobs["length"]) - 1)
    return pairs * (1 + int(knobs["gap"])) + int(knobs["wait"])


INFO = recall_info(
    name="pairs",
    env_id="Pairs",
    entry="pairs:Pairs",
    summary="see pairs that form chains, then say which of two is on the cue's chain",
    levels={
        "length3_small": _level(3, 4),
        "length3": _level(3),
        "length4": _level(4),
        "length5": _level(5),
        "length6": _level(6),
        "length2_small": _level(2, 4),  # partners alone, nothing to infer
    },
    cues=lambda knobs: 2,
    steps=lambda knobs: _choice_frame(knobs) + 1,
)


class Pairs(Game):
    """Observations: ``cue_code``, ``left_code``, ``right_code`` float32 [32] (0 where nothing
    is shown) and ``instruction_token`` int64 [] (0 watch, 1 wait, 2 choose).

    Each pair is shown for one frame, left and right; ``gap`` empty frames follow each and
    ``wait`` all. The question has a cue and two options from the same place of two chains; the
    action, left or right, decides. ``info["hops"]`` is the distance within the chain, which
    knob ``hops`` fixes (0 draws one of all questions). The cue of the episode says which
    option is right; the other one exchanges the two options' places in their chains.

    State: code_of [n, c l, 32]; shown [n, p, 2] items of each pair, left and right, in order;
    asked [n, 3] items: cue, left, right; hops [n].
    """

    info = INFO
    action_names = option_names = ("left", "right")
    instruction_words = ("watch", "wait", "which goes with the cue?")

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(
            self.info, knobs, length=(2, 16), chains=(2, 64), gap=(0, 10**6), wait=(0, 10**8)
        )
        check_knobs(self.info, knobs, hops=(0, int(knobs["length"]) - 1))
        self.length, self.chains = int(knobs["length"]), int(knobs["chains"])
        self.pairs = self.chains * (self.length - 1)
        self.period, self.choice_frame = 1 + int(knobs["gap"]), _choice_frame(knobs)
        super().__init__(knobs, rows)
        items = self.chains * self.length
        self.code_of = self.keep("code_of", (items, draws.CODE_SIZE), np.float32)
        self.shown = self.keep("shown", (self.pairs, 2))
        self.asked, self.hops = self.keep("asked", (3,)), self.keep("hops")
        first, second = np.triu_indices(self.length, 1)
        wanted = int(knobs["hops"])
        chosen = (second - first == wanted) | (wanted == 0)
        self._questions = np.stack((first[chosen], second[chosen]), 1)

    def specs(self) -> dict[str, ArraySpec]:
        """Three codes and the instruction."""
        codes = {f"{name}_code": code() for name in ("cue", "left", "right")}
        return {**codes, "instruction_token": token(3)}

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Draws codes, the order of the pairs and the question, and shows the first pair."""
        k, length = np.arange(len(rows)), self.length
        items = draws.codes(seeds, "pairs/codes", self.chains * length)
        order = draws.permutations(seeds, "pairs/order", self.pairs)
        chain, link = np.divmod(order, length - 1)
        left = chain * length + link
        turned = draws.integers(seeds, "pairs/turned", 2, self.pairs)
        self.shown[rows] = np.stack((left + turned, left + 1 - turned), -1)

        ends = self._questions[
            draws.integers(seeds, "pairs/question", len(self._questions), 1)[:, 0]
        ]
        flip = draws.integers(seeds, "pairs/direction", 2, 1)
        cue_at, option_at = np.take_along_axis(ends, np.hstack((flip, 1 - flip)), 1).T
        own, foil = draws.permutations(seeds, "pairs/chains", self.chains)[:, :2].T
        right, wrong = own * length + option_at, foil * length + option_at
        # With the other cue the two options change places, and with them what is right.
        swap = cues == 1
        held = items[k, right].copy()
        items[k[swap], right[swap]] = items[k[swap], wrong[swap]]
        items[k[swap], wrong[swap]] = held[swap]
        sides = np.where(swap[:, None], np.stack((wrong, right), 1), np.stack((right, wrong), 1))
        self.code_of[rows] = items
        self.asked[rows] = np.column_stack((own * length + cue_at, sides))
        self.hops[rows], self.target[rows] = abs(option_at - cue_at), cues
        self._show(rows)

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Shows the next frame, or decides."""
        choosing = self.where(rows, self.actionable[rows])
        self._show(self.index if isinstance(rows, slice) else rows)
        arrived = self.where(rows, self.tick[rows] == self.choice_frame)
        if arrived.size:
            self.open(arrived)
        if choosing.size:
            chosen = actions[choosing]
            self.decide(choosing, chosen, chosen == self.target[choosing], 1.0)

    def _show(self, rows: np.ndarray) -> None:
        tick, obs = self.tick[rows], self.obs
        pair, since = np.divmod(tick, self.period)
        shows = (since == 0) & (pair < self.pairs)
        asks = tick >= self.choice_frame
        for name in ("cue_code", "left_code", "right_code"):
            obs[name][rows] = 0.0
        some = rows[shows]
        items = self.shown[some, pair[shows]]
        obs["left_code"][some] = self.code_of[some, items[:, 0]]
        obs["right_code"][some] = self.code_of[some, items[:, 1]]
        some = rows[asks]
        for side, name in enumerate(("cue_code", "left_code", "right_code")):
            obs[name][some] = self.code_of[some, self.asked[some, side]]
        obs["instruction_token"][rows] = np.where(asks, CHOOSE, np.where(shows, WATCH, WAIT))
        self.phase[rows] = np.where(asks, P_EXECUTE, np.where(shows, P_CUE, P_GAP))

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Chooses the side that is believed in."""
        return belief

    def extra_infos(self) -> dict[str, np.ndarray]:
        """The distance within the chain, so that the longest inference can be told apart."""
        return {"hops": self.hops.copy()}

    def evidence(self) -> np.ndarray:
        """The frames of the pairs between the cue and the right option, along the chain."""
        cue, right = self.asked[:, 0], self.asked[self.index, 1 + self.cue]
        low, high = np.minimum(cue, right), np.maximum(cue, right)
        first = self.shown.min(2)  # item at the front of each shown pair
        needed = (first >= low[:, None]) & (first < high[:, None])
        frames = np.full((self.n, self.length - 1, 2), -1)
        row, pair = np.nonzero(needed)
        link = first[row, pair] - low[row]
        frames[row, link] = (pair * self.period)[:, None]
        return frames

    def picture(self, row: int, size: int) -> np.ndarray:
        """Codes as dotted glyphs: cue above, options below."""
        canvas = paint.canvas(size)
        box = size // 3
        for name, y, x in (("cue", 0, 1), ("left", 1, 0), ("right", 1, 2)):
            glyph = paint.glyph(self.obs[f"{name}_code"][row])
            paint.place(canvas, glyph, y * box + box // 5, x * box, box, box)
        line = paint.line_height(size)
        words = self.instruction_words[self.obs["instruction_token"][row]]
        if self.commit[row] >= 0:
            words = self.option_names[self.commit[row]]
        paint.write(canvas, words, size - line, line)
        return canvas
