"""Simulated tasks. Importing this registers Gymnasium ids as strings and loads no simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embodied.core.task import TaskInfo

RECALL = "recall/"
_RECALL_ENV = "sims.recall.gym_env:RecallEnv"

# Kept apart from the task table, so that registering ids imports nothing.
ENV_IDS = {
    "remember_color": "MemoryBench/RememberColor-v0",
    "put_block_back": "MemoryBench/PutBlockBack-v0",
    "rearrange_block": "MemoryBench/RearrangeBlock-v0",
    "reopen_drawer": "MemoryBench/ReopenDrawer-v0",
    "order_recall": "MemoryBench/OrderRecall-v0",
    "pick_times": "MemoryBench/PickTimes-v0",
    "checklist_inspect": "MemoryBench/ChecklistInspect-v0",
    "shell_game_swap": "MemoryBench/ShellGameSwap-v0",
    "stale_fact": "MemoryBench/StaleFact-v0",
    "key_trial": "MemoryBench/KeyTrial-v0",
    "intercept_behind_screen": "MemoryBench/InterceptBehindScreen-v0",
    "gather_and_recall": "MemoryBench/GatherAndRecall-v1",
    "trace_route": "MemoryBench/TraceRoute-v0",
    "bind_shape_color": "MemoryBench/BindShapeColor-v0",
    "odd_one_out": "MemoryBench/OddOneOut-v0",
    "blink_count": "MemoryBench/BlinkCount-v0",
    "stop_at_nth_pass": "MemoryBench/StopAtNthPass-v0",
    "insert_as_shown": "MemoryBench/InsertAsShown-v0",
    "set_recall": "MemoryBench/SetRecall-v0",
    "take_it_back": "MemoryBench/TakeItBack-v0",
    "lift": "MemoryBench/Lift-v0",
    "stack": "MemoryBench/Stack-v0",
    "recall/ballet_lite": "Recall/BalletLite-v0",
    "recall/ballet_grid": "Recall/BalletGrid-v0",
    "recall/ballet_pixel": "Recall/BalletPixel-v0",
    "recall/visual_match": "Recall/VisualMatch-v0",
    "recall/match_lite": "Recall/MatchLite-v0",
    "recall/t_maze": "Recall/TMaze-v0",
    "recall/pairs": "Recall/Pairs-v0",
    "recall/words": "Recall/Words-v0",
    "recall/boxes": "Recall/Boxes-v0",
    "recall/graph": "Recall/Graph-v0",
}
"""Task name -> Gymnasium id. Names of the recall suite begin with ``recall/``."""


def task_infos() -> dict[str, TaskInfo]:
    """Returns task name -> :class:`embodied.core.task.TaskInfo`; loads no simulator."""
    from sims.memory_bench.catalog import TASKS
    from sims.recall.catalog import TASKS as RECALL_TASKS

    return {**TASKS, **RECALL_TASKS}


def make_env(info: TaskInfo, **env_kwargs: Any) -> Any:
    """Returns an environment of a task by its row alone, without a Gymnasium id."""
    if _is_recall(info):
        from sims.recall.gym_env import RecallEnv

        return RecallEnv(info, **env_kwargs)
    return memory_bench_env(info, **env_kwargs)


def memory_bench_env(task: str | TaskInfo, control: str = "fast", **env_kwargs: Any) -> Any:
    """Returns a MemoryBench environment: an arm to move, or under ``"choice"`` a thing to name.

    See :class:`sims.gym_env.MemoryBenchEnv` and
    :class:`sims.memory_bench.control_choice.ChoiceEnv`.
    """
    if control == "choice":
        from sims.memory_bench.control_choice import ChoiceEnv

        return ChoiceEnv(task, **env_kwargs)
    from sims.gym_env import MemoryBenchEnv

    return MemoryBenchEnv(task, control=control, **env_kwargs)


def make_vec(
    task: str | TaskInfo,
    num_envs: int,
    num_workers: int = 0,
    autoreset: str = "disabled",
    **env_kwargs: Any,
) -> Any:
    """Returns a vector environment of `task`.

    See :class:`sims.vector.MemoryBenchVectorEnv` and, for the recall suite,
    :class:`sims.recall.vector_env.RecallVectorEnv`.
    """
    if _is_recall(task):
        from sims.recall.vector_env import RecallVectorEnv

        return RecallVectorEnv(task, num_envs, num_workers, autoreset=autoreset, **env_kwargs)
    from sims.vector import MemoryBenchVectorEnv

    return MemoryBenchVectorEnv(task, num_envs, num_workers, autoreset=autoreset, **env_kwargs)


def check_rendering() -> dict[str, Any]:
    """Draws a frame; see :func:`sims.memory_bench.selfcheck.check_rendering`."""
    from sims.memory_bench import selfcheck

    return selfcheck.check_rendering()


def _is_recall(task: str | TaskInfo) -> bool:
    if isinstance(task, str):
        return task.startswith(RECALL)
    from sims.recall.game import RecallInfo

    return isinstance(task, RecallInfo)


def _register() -> None:
    try:
        from gymnasium.envs.registration import register, registry
    except ImportError:  # the base install has no simulator and no gymnasium
        return
    for name, env_id in ENV_IDS.items():
        if env_id not in registry:
            register(
                id=env_id,
                entry_point=_RECALL_ENV if _is_recall(name) else "sims:memory_bench_env",
                kwargs={"task": name},
                disable_env_checker=True,  # it would copy and check every observation of a run
            )


_register()
