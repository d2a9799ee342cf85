"""The table of recall tasks. Importing it needs numpy only."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from sims.recall import boxes, graph, match_lite, pairs, t_maze, visual_match, words
from sims.recall.ballet import grid, lite, pixel
from sims.recall.game import Game, RecallInfo

_MODULES = (lite, grid, pixel, visual_match, match_lite, t_maze, pairs, words, boxes, graph)
TASKS: dict[str, RecallInfo] = {module.INFO.name: module.INFO for module in _MODULES}
"""Task name -> its row. A new task is one file and one entry here."""


def make_game(info: RecallInfo, level: str, knobs: Mapping[str, Any] | None, rows: int) -> Game:
    """Returns the rules of a task for so many rows, without an episode yet.

    Raises:
      ConfigError: For an unknown level or knob, or a knob out of range.
    """
    module, _, name = info.entry.partition(":")
    return getattr(importlib.import_module(module), name)(info.knobs(level, knobs), rows)
