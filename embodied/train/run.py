"""What every trainer does with its run: refuses it or writes down what it is, stops on signals."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from embodied.config import from_plain, load_yaml, save_yaml, to_plain
from embodied.core.errors import CheckpointError, ConfigError
from embodied.core.files import LOCK, TEMPORARY_PREFIX
from embodied.train.config import TrainConfig

CONFIG_FILE = "config.yaml"


def check_run_directory(run: Path, config: TrainConfig, resume: bool) -> None:
    """Refuses a run that is there already, or, on resuming, one of another configuration."""
    plain = to_plain(config)
    file = run / CONFIG_FILE
    if resume:
        if not file.exists():
            raise CheckpointError(f"{run} has no {CONFIG_FILE}: nothing to resume; drop --resume")
        stored = to_plain(from_plain(TrainConfig, load_yaml(file), source=str(file)))
        differing = [
            f"{key}: {stored[key]!r} in the run, {plain[key]!r} asked for"
            for key in plain
            if stored[key] != plain[key]
        ]
        if differing:
            raise ConfigError(
                f"{run} was started differently ({'; '.join(differing)}); resume it with the same "
                f"keys or with none (embodied train --resume out={run}), or choose another out="
            )
        return
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run} is a file; choose another directory as out=")
    # What a kill left of writing the configuration itself is nothing to protect or resume.
    names = [p.name for p in run.iterdir()] if run.exists() else []
    if any(name != LOCK and not name.startswith(TEMPORARY_PREFIX) for name in names):
        what = "pass --resume to carry on, or choose"
        if not file.exists():
            what = f"it is no run (it has no {CONFIG_FILE}); choose"
        raise ConfigError(f"{run} already exists; {what} another out=. Nothing was written")


def write_config(run: Path, config: TrainConfig) -> None:
    """Writes the configuration, where there is none yet."""
    if not (run / CONFIG_FILE).exists():
        save_yaml(run / CONFIG_FILE, to_plain(config))


def autocast(precision: str, device: torch.device) -> Callable[[], Any]:
    """Returns a context for the forward pass; bf16 only where the hardware is fast at it."""
    if precision == "auto":
        # On a CPU, AVX-512 bf16 alone helps these small networks little: fp32 is the default.
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "fp32"
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, torch.bfloat16)


@contextlib.contextmanager
def until_signal() -> Iterator[Callable[[], bool]]:
    """Turns SIGINT and SIGTERM into 'write a checkpoint and stop' while the loop runs."""
    caught: list[int] = []

    def note(number: int, _frame: Any) -> None:
        caught.append(number)

    try:
        old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: leave signals alone
        old = {}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
