"""Rules of a task that its row and its class show, before anything is simulated.

What a few episodes show is in `played_rules`, what only many rollouts show is certified
(:mod:`sims.memory_bench.certify`). All are for every task, those of other packages included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from embodied.core.errors import ConfigError, EmbodiedError
from embodied.core.task import TaskInfo
from embodied.core.text import encode_instruction
from sims.memory_bench.action import CONTROL_HZ
from sims.memory_bench.machines import task_class
from sims.memory_bench.parts import PALETTE

T = TypeVar("T")

SIDES = frozenset({"left", "right", "near", "far", "top", "bottom", "upper", "lower"})
ANSWERS = SIDES | frozenset(PALETTE)
"""Words that tell one candidate from another."""
PARAPHRASES = 2


def check(info: TaskInfo) -> None:
    """Refuses a task that breaks a rule.

    Raises:
      ConfigError: Naming the task, the rule, and what was found.
    """
    keep(RULES, info, info)


def keep(rules: Mapping[str, Callable[[T], str]], info: TaskInfo, shown: T) -> None:
    """Refuses a task of which `shown` breaks one of `rules`; see `check`."""
    for rule, found in rules.items():
        wrong = found(shown)
        if wrong:
            raise ConfigError(
                f"{info.name} breaks the rule {rule!r}: {wrong}. The rules are in "
                "sims/memory_bench/README.md"
            )


def _levels(info: TaskInfo) -> str:
    if not info.levels:
        return "it has none"
    first, *others = info.levels.items()
    for name, knobs in others:
        odd = sorted(set(knobs) ^ set(first[1]))
        if odd:
            return f"knob {odd[0]!r} is in only one of {first[0]!r} and {name!r}"
    return ""


def _ceiling(info: TaskInfo) -> str:
    for level, knobs in info.levels.items():
        ceiling, cues = info.ceiling(knobs), info.cues(knobs)
        if not 0 < ceiling <= 1:
            return f"expected a fraction above 0 and at most 1 at {level!r}, got {ceiling}"
        if (ceiling < 1) != info.needs_memory(knobs):
            return f"{ceiling:.3g} at {level!r} does not go with {cues} cue(s)"
    return ""


def _knobs(info: TaskInfo) -> str:
    for level, knobs in info.levels.items():
        try:
            task = task_class(info)(knobs)
        except EmbodiedError as error:
            return f"the class refuses those of {level!r}: {error}"
        stated = info.horizon_s(knobs) * CONTROL_HZ
        if abs(task.horizon - stated) > 1:
            return f"horizon_s at {level!r} is {stated:.0f} ticks, an episode's {task.horizon}"
    return ""


def _instructions(info: TaskInfo) -> str:
    texts = task_class(info).instructions
    if len(set(texts)) < max(PARAPHRASES, len(texts)):
        return f"expected {PARAPHRASES} or more that differ, got {list(texts)}"
    for text in texts:
        try:
            encode_instruction(text)
        except EmbodiedError as error:
            return str(error)
    return ""


def _no_answer(info: TaskInfo) -> str:
    if all(info.cues(knobs) == 1 for knobs in info.levels.values()):
        return ""
    for text in task_class(info).instructions:
        told = sorted(set(re.findall(r"\w+", text.lower())) & ANSWERS)
        if told:
            return f"{text!r} says {told[0]!r}"
    return ""


RULES: Mapping[str, Callable[[TaskInfo], str]] = {
    "all levels have the same knobs": _levels,
    "the ceiling is below 1 exactly where something must be remembered": _ceiling,
    "every level can be made, and lasts as long as the row says": _knobs,
    "an instruction has paraphrases": _instructions,
    "no instruction holds the answer": _no_answer,
}
"""Rule -> what is wrong with a task, empty where it is kept."""
