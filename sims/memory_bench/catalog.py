"""The table of MemoryBench tasks. Importing it needs numpy only, no simulator."""

from __future__ import annotations

from embodied.core.task import TaskInfo
from sims.memory_bench.tasks import remember_color

TASKS: dict[str, TaskInfo] = {info.name: info for info in (remember_color.INFO,)}
"""Task name -> its row. A new task is one file in ``tasks/`` and one entry here."""
