"""``embodied benchmark``: memories on a suite of tasks, one table."""

from __future__ import annotations

import dataclasses
import sys

from embodied.benchmark.config import BenchmarkConfig
from embodied.commands.base import Command, finish
from embodied.core.errors import unknown_name
from embodied.core.task import file_name


@dataclasses.dataclass
class Options(BenchmarkConfig):
    """Keys of ``embodied benchmark``.

    Attributes:
      out: Directory; empty for ``benchmarks/<policy>-<task>-<level>``, which names several tasks
        by their number (``4tasks``). One that is there is carried on, with more memories or seeds
        if asked for.
    """

    task: list[str] = dataclasses.field(default_factory=list)


def run(options: Options) -> int:
    """Checks every name before anything is made; exit code 1 if a cell failed."""
    from embodied import registry
    from embodied.benchmark.run import benchmark
    from embodied.commands.compose import options as presets

    memories = {*presets("memory"), *registry.memory_names()}
    for memory in options.memory:
        if memory not in memories:
            raise unknown_name("memory", memory, memories)
    registry.policy_config_class(options.policy)
    if not options.out:
        levels = "-".join(dict.fromkeys(level for _, level in options.settings()))
        options.out = f"benchmarks/{options.policy}-{file_name(*options.task)}-{levels}"
    out, failed = benchmark(options)
    if failed:
        # What each said was printed when it failed.
        print(
            f"{len(failed)} of the runs failed, the table holds the others: {', '.join(failed)}; "
            "the same command tries them again",
            file=sys.stderr,
        )
    finish(out, f"less {out}/table.md")
    return 1 if failed else 0


COMMAND = Command(
    run,
    Options,
    config="benchmark",
    resumes=True,
    examples=(
        "benchmark suite=memory_bench_4 train=[steps=2000] jobs=2",
        "benchmark task=remember_color memory=[gru,none] seeds=[0,1,2] out=benchmarks/colours",
        "benchmark suite=memory_bench_4 beyond.longer=[knobs.gap_max_s=30]",
    ),
)
