"""Rapid word learning: new objects get new names, then other things happen, then a name is asked.

**Source** of the kind: the fast mapping tasks with distractors of Lampinen et al. 2021 (arXiv
2105.14039) and Hill et al. 2020, a closed 3-D world. A re-creation in which objects and names
are random codes drawn for the episode and distractor phases pass by themselves. Three objects,
0 to 2 phases in training and 10 or 20 in tests, and tests over several lessons without a reset
are theirs.

Shape letters: n rows, k some of them, o objects.
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

LEARN, WAIT, CHOOSE = range(3)


def _level(distractors: int, lessons: int = 1) -> dict[str, int]:
    return {
        "objects": 3,
        "hold": 1,
        "distractors": distractors,
        "distractor_steps": 10,
        "lessons": lessons,
    }


def _lesson_steps(knobs: Mapping[str, Any]) -> int:
    naming = int(knobs["objects"]) * int(knobs["hold"])
    return naming + int(knobs["distractors"]) * int(knobs["distractor_steps"]) + 1


INFO = recall_info(
    name="words",
    env_id="Words",
    entry="words:Words",
    summary="learn the names of new objects, then choose the one that is named",
    levels={
        "distractors0": _level(0),
        "distractors1": _level(1),
        "distractors2": _level(2),
        "distractors10": _level(10),
        "distractors20": _level(20),
        "lessons4": _level(0, 4),
        "lessons2_distractors5": _level(5, 2),
        "lessons3_distractors5": _level(5, 3),
    },
    cues=lambda knobs: int(knobs["objects"]),
    steps=lambda knobs: int(knobs["lessons"]) * _lesson_steps(knobs),
)


class Words(Game):
    """Observations: ``objects_code`` float32 [o, 32], ``name_code`` float32 [32] (0 where
    nothing is shown), ``instruction_token`` int64 [] (0 learn, 1 wait, 2 choose).

    A lesson shows each object (first row of ``objects_code``) with its name for ``hold``
    frames, then ``distractors`` phases of ``distractor_steps`` frames with other codes and no
    names, then all its objects in a new order and one name; the action is the place of the
    object. Each right answer is rewarded with 1. With several ``lessons`` the last question is
    about an earlier one, drawn for the episode; it alone decides success. The cue of the
    episode is the place of its answer; others hand the names of that lesson round.

    State: object_of, name_of [n, o, 32] codes of the present lesson; shift [n]: object j is
    called by name j + shift; order [n, o] of the objects in the question; answers, right [n].
    """

    info = INFO
    instruction_words = ("learn", "wait", "choose what is named")

    def __init__(self, knobs: Mapping[str, Any], rows: int) -> None:
        check_knobs(self.info, knobs, objects=(2, 16), hold=(1, 10**6), lessons=(1, 10**4))
        check_knobs(self.info, knobs, distractors=(0, 10**6), distractor_steps=(1, 10**6))
        self.objects, self.hold = int(knobs["objects"]), int(knobs["hold"])
        self.lessons, self.lesson_steps = int(knobs["lessons"]), _lesson_steps(knobs)
        self.action_names = tuple(f"place{p}" for p in range(self.objects))
        self.option_names = self.action_names
        super().__init__(knobs, rows)
        shape = (self.objects, draws.CODE_SIZE)
        self.object_of = self.keep("object_of", shape, np.float32)
        self.name_of = self.keep("name_of", shape, np.float32)
        self.shift, self.order = self.keep("shift"), self.keep("order", (self.objects,))
        self.answers, self.right = self.keep("answers"), self.keep("right")

    def specs(self) -> dict[str, ArraySpec]:
        """Objects, a name and the instruction."""
        return {
            "objects_code": code(self.objects),
            "name_code": code(),
            "instruction_token": token(3),
        }

    def begin(self, rows: np.ndarray, seeds: np.ndarray, cues: np.ndarray) -> None:
        """Starts the first lesson."""
        self.answers[rows] = self.right[rows] = 0
        self._show(rows)

    def asked_lesson(self, seeds: np.ndarray) -> np.ndarray:
        """Returns int64 [k]: the lesson that the last question is about."""
        return draws.integers(seeds, "words/lesson", max(1, self.lessons - 1), 1)[:, 0]

    def _shift_in(self, rows: np.ndarray, lesson: np.ndarray) -> np.ndarray:
        """Returns int64 [k]: the shift between objects and names in a lesson."""
        seeds = self.seed[rows]
        own = draws.integers(seeds, "words/shift", self.objects, 1, lesson)[:, 0]
        name, order = self._question(seeds, np.full(len(rows), self.lessons - 1))
        final = (name - order[np.arange(len(rows)), self.cue[rows]]) % self.objects
        return np.where(lesson == self.asked_lesson(seeds), final, own)

    def _question(self, seeds: np.ndarray, lesson: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the name [k] and the order of objects [k, o] in a lesson's question."""
        name = draws.integers(seeds, "words/name", self.objects, 1, lesson)[:, 0]
        return name, draws.permutations(seeds, "words/order", self.objects, lesson)

    def _load(self, rows: np.ndarray, lesson: np.ndarray) -> None:
        """Takes the codes of `lesson` [k]; the answer follows from the present question."""
        seeds = self.seed[rows]
        self.object_of[rows] = draws.codes(seeds, "words/objects", self.objects, lesson)
        self.name_of[rows] = draws.codes(seeds, "words/names", self.objects, lesson)
        self.shift[rows] = self._shift_in(rows, lesson)

    def _prepare(self, rows: np.ndarray, lesson: np.ndarray) -> np.ndarray:
        """Draws a lesson's question and its answer; returns the name that is asked, [k]."""
        name, self.order[rows] = self._question(self.seed[rows], lesson)
        wanted = (name - self.shift[rows]) % self.objects
        self.target[rows] = (self.order[rows] == wanted[:, None]).argmax(1)
        return name

    def advance(self, actions: np.ndarray, rows: Rows) -> None:
        """Marks an answer, then shows the next frame or ends."""
        answering = self.where(rows, self.actionable[rows])
        if answering.size:
            self._mark(answering, actions[answering])
        self._show(self.where(rows, ~self.terminated[rows]))

    def _mark(self, rows: np.ndarray, chosen: np.ndarray) -> None:
        right = chosen == self.target[rows]
        self.answers[rows] += 1
        self.right[rows] += right
        self.actionable[rows] = False
        last = self.answers[rows] == self.lessons
        self.decide(rows[last], chosen[last], right[last], 1.0)
        self.reward[rows[~last]] = right[~last]

    def _show(self, rows: np.ndarray) -> None:
        lesson, since = np.divmod(self.tick[rows], self.lesson_steps)
        fresh, asks = since == 0, since == self.lesson_steps - 1
        names = since < self.objects * self.hold
        if fresh.any():
            self._load(rows[fresh], lesson[fresh])
            self._prepare(rows[fresh], lesson[fresh])
        obs = self.obs
        obs["objects_code"][rows] = obs["name_code"][rows] = 0.0
        some, item = rows[names], since[names] // self.hold
        obs["objects_code"][some, 0] = self.object_of[some, item]
        obs["name_code"][some] = self.name_of[some, (item + self.shift[some]) % self.objects]
        some = rows[~names & ~asks]
        obs["objects_code"][some] = draws.codes(
            self.seed[some], "words/distractors", self.objects, self.tick[some]
        )
        self._ask(rows[asks], lesson[asks])
        obs["instruction_token"][rows] = np.where(asks, CHOOSE, np.where(names, LEARN, WAIT))
        self.phase[rows] = np.where(asks, P_EXECUTE, np.where(names, P_CUE, P_GAP))

    def _ask(self, rows: np.ndarray, lesson: np.ndarray) -> None:
        if not rows.size:
            return
        last = lesson == self.lessons - 1
        about = np.where(last, self.asked_lesson(self.seed[rows]), lesson)
        self._load(rows, about)
        name = self._prepare(rows, lesson)
        k = rows[:, None]
        self.obs["objects_code"][rows] = self.object_of[k, self.order[rows]]
        self.obs["name_code"][rows] = self.name_of[rows, name]
        self.open(rows, gate=False)
        self.gate[rows[last]] = True

    def expert(self, belief: np.ndarray) -> np.ndarray:
        """Answers rightly, and the last question by what is believed."""
        last = self.answers == self.lessons - 1
        return np.where(last, belief, np.maximum(self.target, 0)).astype(np.int64)

    def extra_infos(self) -> dict[str, np.ndarray]:
        """Questions answered so far, and how many of them rightly."""
        return {"answers": self.answers.copy(), "answers_right": self.right.copy()}

    def evidence(self) -> np.ndarray:
        """The frames in which the object of the last answer is named."""
        lesson = self.asked_lesson(self.seed)
        _, order = self._question(self.seed, np.full(self.n, self.lessons - 1))
        item = order[self.index, np.maximum(self.cue, 0)]
        first = lesson * self.lesson_steps + item * self.hold
        return np.stack((first, first + self.hold - 1), -1)[:, None]

    def picture(self, row: int, size: int) -> np.ndarray:
        """Objects as dotted glyphs above, the name's glyph below."""
        canvas = paint.canvas(size)
        width, height = size // self.objects, int(0.45 * size)
        asked = self.obs["instruction_token"][row] == CHOOSE
        for place, glyph in enumerate(self.obs["objects_code"][row]):
            if self.commit[row] == place and asked:
                canvas[: height + 4, place * width : (place + 1) * width] = paint.MUTED
            paint.place(canvas, paint.glyph(glyph), 4, place * width, width, height)
        name = paint.glyph(self.obs["name_code"][row]).transpose(1, 0, 2)
        paint.place(canvas, name, height + 12, 0, size, int(0.25 * size))
        line = paint.line_height(size)
        words = self.instruction_words[self.obs["instruction_token"][row]]
        paint.write(canvas, words, size - line, line)
        return canvas
