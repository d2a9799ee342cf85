"""The table of MemoryBench tasks. Importing it needs numpy only, no simulator."""

from __future__ import annotations

from embodied.core.task import TaskInfo
from sims.memory_bench.tasks import (
    bind_shape_color,
    blink_count,
    checklist_inspect,
    gather_and_recall,
    insert_as_shown,
    intercept_behind_screen,
    key_trial,
    lift,
    odd_one_out,
    order_recall,
    pick_times,
    put_block_back,
    rearrange_block,
    remember_color,
    reopen_drawer,
    set_recall,
    shell_game_swap,
    stack,
    stale_fact,
    stop_at_nth_pass,
    take_it_back,
    trace_route,
)

TASKS: dict[str, TaskInfo] = {
    info.name: info
    for info in (
        remember_color.INFO,
        put_block_back.INFO,
        rearrange_block.INFO,
        reopen_drawer.INFO,
        order_recall.INFO,
        pick_times.INFO,
        checklist_inspect.INFO,
        shell_game_swap.INFO,
        stale_fact.INFO,
        key_trial.INFO,
        intercept_behind_screen.INFO,
        gather_and_recall.INFO,
        trace_route.INFO,
        bind_shape_color.INFO,
        odd_one_out.INFO,
        blink_count.INFO,
        stop_at_nth_pass.INFO,
        insert_as_shown.INFO,
        set_recall.INFO,
        take_it_back.INFO,
        lift.INFO,
        stack.INFO,
    )
}
"""Task name -> its row. A new task is one file in ``tasks/`` and one entry here."""
