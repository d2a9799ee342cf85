"""Simulated tasks. Importing this registers Gymnasium ids as strings and loads no simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embodied.core.task import TaskInfo

# Kept apart from the task table, so that registering ids imports nothing.
ENV_IDS = {
    "remember_color": "MemoryBench/RememberColor-v0",
    "put_block_back": "MemoryBench/PutBlockBack-v0",
    "rearrange_block": "MemoryBench/RearrangeBlock-v0",
    "reopen_drawer": "MemoryBench/ReopenDrawer-v0",
}
"""Task name -> Gymnasium id."""


def task_infos() -> dict[str, TaskInfo]:
    """Returns task name -> :class:`embodied.core.task.TaskInfo`; loads no simulator."""
    from sims.memory_bench.catalog import TASKS

    return dict(TASKS)


def make_vec(
    task: str, num_envs: int, num_workers: int = 0, autoreset: str = "disabled", **env_kwargs: Any
) -> Any:
    """Returns a vector environment of `task`; see :class:`sims.vector.MemoryBenchVectorEnv`."""
    from sims.vector import MemoryBenchVectorEnv

    return MemoryBenchVectorEnv(task, num_envs, num_workers, autoreset=autoreset, **env_kwargs)


def check_rendering() -> dict[str, Any]:
    """Draws a frame; see :func:`sims.memory_bench.selfcheck.check_rendering`."""
    from sims.memory_bench import selfcheck

    return selfcheck.check_rendering()


def _register() -> None:
    try:
        from gymnasium.envs.registration import register, registry
    except ImportError:  # the base install has no simulator and no gymnasium
        return
    for name, env_id in ENV_IDS.items():
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="sims.gym_env:MemoryBenchEnv",
                kwargs={"task": name},
                disable_env_checker=True,  # it would copy and check every observation of a run
            )


_register()
