"""Collects demonstrations of a task into a dataset directory.

Episode seeds are ``seed_start .. seed_start + episodes - 1``; each seed's episode depends on the
seed and the settings alone, so the dataset is the same for any number of workers and any number
of interruptions. Seeds on which the demonstrator fails are named and skipped.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embodied.core import ticks
from embodied.core.errors import ConfigError, DataError
from embodied.core.files import LOCK, held_directory
from embodied.core.rng import VALIDATION_SEED_START
from embodied.core.task import EnvConfig, check_moves_arm

if TYPE_CHECKING:
    from embodied.data.manifest import Manifest
    from embodied.data.workers import EnvFactory, Job, Pool

_SHARD_BYTES = 64 * 2**20  # raw pictures of a shard; merged in memory
_SHARD_EPISODES = 32
PAUSE_TICKS = 20
"""Most ticks that a demonstrator observed on decisions waits for rest at a keyframe (it takes 2
to 6 where nothing is in the way)."""


@dataclasses.dataclass
class CollectResult:
    """What a collection made.

    Attributes:
      path: Dataset directory.
      stored: Episodes in it.
      new: Of these, made by this call.
      failed: Seed -> why the demonstrator's episode was not stored.
      content_sha256: Hash of all episodes' contents; equal data, equal hash.
    """

    path: Path
    stored: int
    new: int
    failed: dict[int, str]
    content_sha256: str


def collect(
    task: str,
    level: str,
    config: EnvConfig | None = None,
    *,
    episodes: int,
    out: str | Path,
    seed_start: int = 0,
    noise: float = 1.0,
    clean: float = 0.0,
    num_workers: int | None = None,
    observe_on: str = ticks.PERIOD,
    observe_period_s: float = 0.4,
    label_horizon: int = 16,
    resume: bool = True,
    progress: bool = True,
    env_factory: EnvFactory | None = None,
) -> CollectResult:
    """Collects demonstrations, or continues an interrupted collection.

    Args:
      task: Task name.
      level: Level name.
      config: How the environment is made; defaults of `EnvConfig` when None.
      episodes: Number of seeds to try; more than a finished dataset holds extends it.
      out: Dataset directory.
      seed_start: First seed; training seeds stay below `VALIDATION_SEED_START`.
      noise: Scale of the demonstrator's noise and bursts, 0 for clean episodes.
      clean: Share of episodes without them, as quick and direct as a policy acts.
      num_workers: Processes; 0 works in this process; all available cores when None.
      observe_on: ``"period"`` or ``"decision"``; the demonstrator pauses at keyframes under
        the latter, and each observation is labelled with the next one.
      observe_period_s: Seconds between observation ticks under ``"period"``.
      label_horizon: K, actions in a label chunk.
      resume: Continue what is in `out`; False refuses an existing dataset.
      progress: Show a progress bar.
      env_factory: Makes the environment; `embodied.registry.make_env` when None.

    Raises:
      ConfigError: For numbers out of range.
      DataError: If `out` holds something else or other settings, or the disk is full.
      SimulatorError: If a worker fails; finished episodes are kept.
    """
    from embodied.data.workers import Job, Pool

    config = config or EnvConfig()
    check_moves_arm(config.control)
    plan = _plan(episodes, seed_start, noise, clean, observe_on, observe_period_s, label_horizon)
    if env_factory is None:
        from embodied import registry

        # Fail before processes start.
        registry.imitation_task(task).knobs(level, config.knobs)
        env_factory = registry.make_env
    directory = Path(out)
    job = Job(task, level, config, plan, directory / "unfinished", env_factory)
    return build_dataset(
        job,
        list(range(seed_start, seed_start + episodes)),
        directory,
        lambda: Pool(job, worker_count(num_workers, episodes)),
        resume=resume,
        progress=progress,
    )


def _plan(
    episodes: int,
    seed_start: int,
    noise: float,
    clean: float,
    observe_on: str,
    period_s: float,
    horizon: int,
) -> Any:
    from embodied.data.record import RecordPlan

    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, got {episodes}")
    if seed_start < 0 or seed_start + episodes > VALIDATION_SEED_START:
        raise ConfigError(
            f"seeds {seed_start}..{seed_start + episodes - 1}: training seeds lie within 0.."
            f"{VALIDATION_SEED_START - 1}, so that evaluation never sees a training episode; lower "
            "seed_start or episodes"
        )
    if noise < 0 or not noise < float("inf"):
        raise ConfigError(f"noise must be a number >= 0, got {noise}")
    if not 0 <= clean <= 1:
        raise ConfigError(f"clean is a share of episodes, within 0..1, got {clean}")
    if clean and not noise:
        raise ConfigError(f"clean={clean} does nothing with noise=0, which makes all clean")
    if horizon < 1:
        raise ConfigError(f"label_horizon must be at least 1, got {horizon}")
    if observe_on not in (ticks.PERIOD, ticks.DECISION):
        raise ConfigError(f"observe_on must be 'period' or 'decision', got {observe_on!r}")
    if not period_s > 0:
        raise ConfigError(f"observe_period_s must be above 0, got {period_s}")
    pause_ticks = PAUSE_TICKS if observe_on == ticks.DECISION else 0
    return RecordPlan(
        float(noise), observe_on, float(period_s), int(horizon), pause_ticks, float(clean)
    )


def worker_count(asked: int | None, episodes: int) -> int:
    """Returns how many processes to start; warns when there are more than cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if asked is None:
        return min(cores or 1, episodes)
    if asked < 0:
        raise ConfigError(f"num_workers must be at least 0, got {asked}")
    if asked > (cores or 1):
        print(
            f"embodied: warning: {asked} workers on {cores} cores are slower than {cores}; "
            f"use workers={cores}",
            file=sys.stderr,
        )
    return min(asked, episodes)


def build_dataset(
    job: Job,
    seeds: list[int],
    directory: Path,
    start_pool: Callable[[], Pool],
    *,
    resume: bool = True,
    progress: bool = True,
) -> CollectResult:
    """Fills `directory` with the episodes of `seeds`; the engine of collecting and deriving.

    Args:
      job: What the workers make; `job.directory` must be ``directory / "unfinished"``.
      seeds: All seeds of the dataset, rising.
      directory: Dataset directory, made when missing.
      start_pool: Starts the workers; called only when something is left to do.
      resume: Continue what is there; False refuses it.
      progress: Show a progress bar.
    """
    from embodied.data.builder import Builder
    from embodied.data.manifest import UNFINISHED

    _check_directory(directory, resume)
    with held_directory(directory, UNFINISHED):
        builder = Builder(job, seeds, directory, _shard_episodes(job.config))
        pending = builder.recover()
        new = 0
        if pending or not builder.finished:
            with start_pool() as pool:
                builder.start(pool.facts)
                pending = builder.pending()
                new = _run(pool, builder, pending, progress)
        manifest: Manifest = builder.finish()
    if not manifest.stored:
        first = next(iter(manifest.failed.items()), None)
        raise DataError(
            f"the demonstrator failed on all {len(seeds)} seeds (first: {first}); {directory} "
            "holds no episode. Check the level and the noise, and watch it with `embodied play`"
        )
    return CollectResult(directory, manifest.stored, new, manifest.failed, manifest.content_sha256)


def _run(pool: Pool, builder: Any, pending: list[int], progress: bool) -> int:
    from tqdm import tqdm

    total, job = len(builder.seeds), builder.job
    verb = "render" if job.source else "collect"
    stored, failed = 0, builder.failed_count()
    with tqdm(
        total=total,
        initial=total - len(pending),
        desc=f"{verb} {job.task} {job.level}",
        unit="ep",
        disable=not progress,
    ) as bar:
        for outcome in pool.run(pending):
            builder.add(outcome)
            stored += not outcome.failure
            failed += bool(outcome.failure)
            if outcome.failure:
                bar.write(f"seed {outcome.seed} skipped: the expert failed ({outcome.failure})")
            bar.update()
            bar.set_postfix_str(f"success {1 - failed / (bar.n or 1):.1%}, {failed} skipped")
    return stored


def _check_directory(directory: Path, resume: bool) -> None:
    from embodied.data.manifest import MANIFEST, UNFINISHED

    if not directory.exists():
        return
    if not directory.is_dir():
        raise DataError(f"{directory} is a file; choose a directory as out=")
    names = {path.name for path in directory.iterdir()}
    if MANIFEST not in names and names - {LOCK, UNFINISHED} - {
        n for n in names if n.startswith((".tmp-", "shard-"))
    }:
        raise DataError(
            f"{directory} exists and is no dataset (it holds {', '.join(sorted(names)[:5])}); "
            "nothing was written. Choose another out="
        )
    if not resume and names:
        raise DataError(
            f"{directory} exists already; nothing was written. Choose another out=, or resume=true"
        )


def _shard_episodes(config: EnvConfig) -> int:
    if config.observation == "state":
        return _SHARD_EPISODES
    pixel = 3 if config.observation == "rgb" else 7
    episode = 60 * len(config.cameras) * config.image_size**2 * pixel
    return max(1, min(_SHARD_EPISODES, _SHARD_BYTES // max(1, episode)))
