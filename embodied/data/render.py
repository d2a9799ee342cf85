"""Derives a dataset with other cameras, sizes, depth, ticks or chunk length from stored states.

No demonstration is made anew: each episode's stored simulator states are restored one after the
other, observed and labelled, and the expert must repeat its stored actions exactly.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from embodied.collect import CollectResult, build_dataset, worker_count
from embodied.core import ticks
from embodied.core.errors import ConfigError, unknown_name
from embodied.core.task import EnvConfig
from embodied.data.reader import EpisodeStore
from embodied.data.record import RecordPlan
from embodied.data.schema import optional
from embodied.data.workers import EnvFactory, Job, Pool

FIXED = ("control", "knobs")
"""Fields of `EnvConfig` that made the states and so can't be changed afterwards."""


def render(
    source: str | Path,
    out: str | Path,
    env: dict[str, Any] | None = None,
    *,
    observe_on: str | None = None,
    observe_period_s: float | None = None,
    label_horizon: int | None = None,
    num_workers: int | None = None,
    resume: bool = True,
    progress: bool = True,
    env_factory: EnvFactory | None = None,
) -> CollectResult:
    """Renders a finished dataset again in another way.

    Args:
      source: Finished dataset directory.
      out: Directory of the new dataset; an interrupted run is continued.
      env: Fields of `EnvConfig` to change, for example ``{"cameras": ["front", "wrist"],
        "image_size": 96, "observation": "rgbd"}``.
      observe_on: ``"period"`` or ``"decision"``; as in the source when None.
      observe_period_s: Seconds between observation ticks; as in the source when None.
      label_horizon: K; as in the source when None.
      num_workers: Processes; 0 works in this process; all available cores when None.
      resume: Continue what is in `out`; False refuses an existing dataset.
      progress: Show a progress bar.
      env_factory: Makes the environment; `embodied.registry.make_env` when None.

    Raises:
      ConfigError: For an unknown field, or one that can't be changed afterwards.
      DataError: If the source is damaged, or the simulator no longer repeats it.
    """
    with EpisodeStore(source) as store:
        settings, content = store.manifest.settings, store.manifest.content_sha256
        seeds = [ref.seed for ref in store.episodes]
    fields = {field.name for field in dataclasses.fields(EnvConfig)}
    for key, value in (env or {}).items():
        if key not in fields:
            raise unknown_name("environment field", key, fields)
        if key in FIXED and value != settings["env"][key]:
            raise ConfigError(
                f"{key}={value!r}: {source} was made with {key}={settings['env'][key]!r}, which "
                "shaped the motion itself; collect a new dataset instead"
            )
    config = EnvConfig(**{**settings["env"], **(env or {})})
    chosen = {
        "observe_on": observe_on,
        "observe_period_s": observe_period_s,
        "label_horizon": label_horizon,
    }
    asked = {k: settings[k] if v is None else v for k, v in chosen.items()}
    ticks.period_ticks(asked["observe_period_s"], settings["control_hz"])  # refuse early
    if asked["label_horizon"] < 1:
        raise ConfigError(f"label_horizon must be at least 1, got {asked['label_horizon']}")
    if env_factory is None:
        from embodied.registry import make_env as env_factory
    directory = Path(out)
    if directory.resolve() == Path(source).resolve():
        raise ConfigError(f"out={out} is the source itself; choose another directory")
    job = Job(
        settings["task"],
        settings["level"],
        config,
        RecordPlan(noise=settings["noise"], **optional(settings), **asked),
        directory / "unfinished",
        env_factory,
        Path(source).resolve(),
        content,
    )
    workers = worker_count(num_workers, len(seeds))
    return build_dataset(
        job, seeds, directory, lambda: Pool(job, workers), resume=resume, progress=progress
    )
