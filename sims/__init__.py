"""Simulated tasks. Importing this registers Gymnasium ids as strings and loads no simulator."""

from __future__ import annotations

from typing import Any

_TASK_MODULES = {"remember_color": "sims.memory_bench.tasks.remember_color"}


def task_infos() -> dict[str, Any]:
    """Returns task name -> :class:`embodied.core.task.TaskInfo`; needs numpy only."""
    import importlib

    return {name: importlib.import_module(module).INFO for name, module in _TASK_MODULES.items()}


def _register() -> None:
    try:
        from gymnasium.envs.registration import register, registry
    except ImportError:  # the base install has no simulator and no gymnasium
        return
    for name in _TASK_MODULES:
        env_id = "MemoryBench/" + "".join(word.capitalize() for word in name.split("_")) + "-v0"
        if env_id not in registry:
            register(
                id=env_id,
                entry_point="sims.gym_env:MemoryBenchEnv",
                kwargs={"task": name},
                order_enforce=True,
                disable_env_checker=True,
            )


_register()


def make_vec(task: str, num_envs: int, num_workers: int = 0, **env_kwargs: Any) -> Any:
    """Returns a vector environment; see :class:`sims.vector.MemoryBenchVectorEnv`."""
    from sims.vector import make_vec as make

    return make(task, num_envs, num_workers, **env_kwargs)
