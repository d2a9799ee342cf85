"""Evaluating a checkpoint: from a path to a results directory.

The directory holds ``results.json`` (a row for each task and intervention), ``episodes.jsonl``
(a row an episode), ``report.md``, ``report.html`` and ``videos/``. It appears whole or not at
all; see :mod:`embodied.evaluate.place`. Whatever can be refused is refused before the first
episode, and finished episodes are kept whatever comes after.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from embodied import __version__, registry
from embodied.config import from_plain, to_plain
from embodied.core import ticks
from embodied.core.errors import ConfigError
from embodied.core.files import write_json
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import EnvConfig, file_name
from embodied.evaluate import inspection, latency, place, provenance, remote, report, twins, video
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.executors import resolved
from embodied.evaluate.interventions import check_intervention
from embodied.evaluate.process import process_rates
from embodied.evaluate.results import (
    EPISODES,
    FORMAT_VERSION,
    NONE,
    RESULTS,
    TWIN_EPISODES,
    EpisodeResult,
    write_episodes,
)
from embodied.evaluate.runner import closing, fitted, run
from embodied.evaluate.summary import compare_with_twin, summarise
from embodied.evaluate.twins import StoredTwin
from embodied.train.checkpoint import LoadedPolicy

FILES = {"policy": EPISODES, "twin": TWIN_EPISODES}
"""Role -> file of its episodes."""


def evaluate(source: str | Path, **options: Any) -> Path:
    """Evaluates a checkpoint; keyword arguments are the fields of `EvaluateConfig`.

    Returns:
      The results directory.
    """
    return run_evaluation(EvaluateConfig(source=str(source), **options))


def run_evaluation(config: EvaluateConfig) -> Path:
    """Evaluates as `config` says and writes the results directory.

    Returns:
      The results directory.

    Raises:
      ConfigError: For unknown names, an existing `out`, or seeds that were trained on.
      CheckpointError: If a checkpoint can't be loaded.
    """
    torch.set_num_threads(config.threads)
    with remote.opened(config, config.source) as loaded, twins.opened(config) as twin:
        executor = resolved(config.executor, loaded.policy.spec)
        return _evaluate(dataclasses.replace(config, executor=executor), loaded, twin)


def _evaluate(
    config: EvaluateConfig, loaded: LoadedPolicy, twin: LoadedPolicy | StoredTwin | None
) -> Path:
    out = place.free(config, loaded)
    tasks = settings(config, loaded)  # all is checked before anything is written
    check_fresh_seeds(loaded, config.seed_start, max(config.episodes, config.intervene_episodes))
    _check_twin(config, twin, tasks)
    with place.scratch(out) as scratch:
        results = _measure(config, loaded, twin, tasks, scratch)
        with place.writing(scratch):
            write_json(scratch / RESULTS, results)
            report.write(scratch, results)
        return place.settle(scratch, out, config, loaded)


@dataclasses.dataclass
class Setting:
    """One task as it is evaluated."""

    task: str
    level: str
    env: EnvConfig
    knobs: dict[str, Any]
    ceiling: float
    n_cues: int
    expert: float | None
    capacity: int | None
    """Memory slots instead of the policy's own number."""

    def fields(self) -> dict[str, Any]:
        """Returns it as the fields of a result row, those of `twins.SETTING` among them."""
        env = self.env
        return {
            "task": self.task,
            "level": self.level,
            "knobs": to_plain(self.knobs),
            "control": env.control,
            "visuals": env.visuals,
            "observation": env.observation,
            "cameras": list(env.cameras),
            "image_size": env.image_size,
        }


def settings(config: EvaluateConfig, loaded: LoadedPolicy) -> list[Setting]:
    """Returns the tasks that `config` asks for, checked against the task table."""
    meta, found = loaded.meta, []
    trained = meta.trained_on()
    for task, level in _asked(config, trained, meta.level):
        info = registry.task_info(task)
        env = from_plain(EnvConfig, meta.env, where="policy.json:env")
        overrides = {**(env.knobs if (task, level) in trained else {}), **config.knobs}
        env = dataclasses.replace(env, knobs=overrides)
        knobs = info.knobs(level, overrides)
        # Where progress must be remembered, a memory of less progress is what to swap in.
        n_cues = max(info.cues(knobs), 2) if info.progress else info.cues(knobs)
        for kind in config.intervene:
            check_intervention(kind, n_cues)
        found.append(
            Setting(
                task=task,
                level=level,
                env=env,
                knobs=knobs,
                ceiling=info.ceiling(knobs),
                n_cues=n_cues,
                expert=provenance.expert_success(task, level, env, overrides),
                capacity=_capacity(loaded, info.horizon_s(knobs), config.capacity),
            )
        )
    return found


def _asked(
    config: EvaluateConfig, trained: list[tuple[str, str]], level: str
) -> list[tuple[str, str]]:
    """Returns the tasks and levels to evaluate: those named, else those trained on."""
    pairs = []
    for task in config.task or [task for task, _ in trained]:
        known = [lev for name, lev in trained if name == task] or [level]
        pairs += [(task, lev) for lev in ([config.level] if config.level else known)]
    return list(dict.fromkeys(pairs))


def check_fresh_seeds(loaded: LoadedPolicy, first: int, count: int) -> None:
    """Refuses evaluation seeds among those of the training data.

    Raises:
      ConfigError: Naming both ranges.
    """
    known = loaded.meta.train.get("data_seeds")
    if known and known[0] <= first + count - 1 and first <= known[1]:
        raise ConfigError(
            f"evaluation seeds {first}..{first + count - 1} overlap the seeds "
            f"{known[0]}..{known[1]} of the data that {loaded.path} was trained on; "
            f"leave seed_start at its default {EVAL_SEED_START} or above"
        )


def _check_twin(
    config: EvaluateConfig, twin: LoadedPolicy | StoredTwin | None, tasks: Sequence[Setting]
) -> None:
    """Refuses a twin that can't be evaluated on all tasks, or compared with.

    Raises:
      ConfigError, SpecMismatch: Saying what doesn't fit.
    """
    if isinstance(twin, LoadedPolicy):
        check_fresh_seeds(twin, config.seed_start, config.episodes)
        one = dataclasses.replace(config, batch=1, workers=0)
        for setting in tasks:
            with closing(make_vec(one, setting)) as vector:
                _check_server(twin, vector)
                fitted(twin.policy, vector, config.executor)
    elif twin is not None:
        seeds = range(config.seed_start, config.seed_start + config.episodes)
        for setting in tasks:
            twin.check(setting.fields(), seeds)


def _check_server(loaded: LoadedPolicy, vector: Any) -> None:
    if isinstance(loaded.policy, remote.RemotePolicy):
        loaded.policy.check_environment(vector)


def make_vec(config: EvaluateConfig, setting: Setting) -> Any:
    """Returns the vector environment of one task, to be closed by the caller."""
    return registry.make_vec(
        setting.task,
        setting.level,
        setting.env,
        num_envs=config.batch,
        num_workers=config.workers,
        autoreset="disabled",
        copy=False,  # the runner copies what it keeps
    )


def run_episodes(
    config: EvaluateConfig,
    loaded: LoadedPolicy,
    setting: Setting,
    vector: Any,
    intervene: str,
    seeds: Sequence[int],
    *,
    cues: Sequence[int | None] | None = None,
    rows: Sequence[int] | None = None,
    recorder: video.VideoRecorder | None = None,
    inspector: inspection.MemoryInspector | None = None,
) -> list[EpisodeResult]:
    """Runs episodes of one task as an evaluation does; see :func:`runner.run`."""
    _check_server(loaded, vector)
    return run(
        loaded.policy,
        vector,
        seeds,
        cues=cues,
        rows=rows,
        n_cues=setting.n_cues,
        executor=config.executor,
        intervene=intervene,
        device=config.device,
        capacity=setting.capacity,
        clock=config.clock,
        recorder=recorder,
        inspector=inspector,
        task=setting.task,
        level=setting.level,
        train_seed=loaded.meta.train.get("seed"),
        progress=config.progress,
    )


def replay(
    loaded: LoadedPolicy,
    config: EvaluateConfig,
    setting: Setting,
    intervene: str,
    seeds: Sequence[int],
    **options: Any,
) -> list[EpisodeResult]:
    """Makes the environment, runs some episodes as `run_episodes` does, and closes it."""
    with closing(make_vec(config, setting)) as vector:
        return run_episodes(config, loaded, setting, vector, intervene, seeds, **options)


def _measure(
    config: EvaluateConfig,
    loaded: LoadedPolicy,
    twin: LoadedPolicy | StoredTwin | None,
    tasks: list[Setting],
    scratch: Path,
) -> dict[str, Any]:
    """Runs everything, writes episodes and pictures, returns the content of results.json."""
    rows, step_ms, finished = [], None, _Finished(scratch)
    # Now: a training that goes on deletes its older checkpoints.
    networks = {
        "policy": provenance.describe(loaded),
        "twin": provenance.describe(twin) if isinstance(twin, LoadedPolicy) else None,
    }
    for setting in tasks:
        with closing(make_vec(config, setting)) as vector:
            first, before = len(rows), len(finished.episodes["policy"])
            for kind in config.intervene:
                row, own = _row(config, loaded, setting, vector, kind, finished, "policy")
                rows.append(row)
                if kind != NONE or twin is None:
                    continue
                if isinstance(twin, LoadedPolicy):
                    other, theirs = _row(config, twin, setting, vector, kind, finished, "twin")
                    rows.append(other)
                else:
                    theirs = twin.of(setting.task, setting.level)
                    finished.add("twin", theirs)
                row["twin"] = compare_with_twin(own, theirs, setting.ceiling)
            if setting is tasks[0]:
                seen, _ = vector.reset(seed=config.seed_start)
                step_ms = latency.step_ms(loaded.policy, seen, setting.capacity)
            if config.process:
                plain = next(row for row in rows[first:] if row["intervene"] == NONE)
                plain["process"] = process_rates(finished.episodes["policy"][before:])
    return {
        "format_version": FORMAT_VERSION,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "package_version": __version__,
        "commit": provenance.commit(),
        "command": command(config),
        "config": _shown(config),
        "machine": provenance.machine(config.device),
        "policy": {**networks["policy"], "step_ms": step_ms},
        "twin": networks["twin"],
        "rows": rows,
    }


class _Finished:
    """Episodes as they are finished, written at once so that no later error loses them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.episodes: dict[str, list[EpisodeResult]] = {role: [] for role in FILES}

    def add(self, role: str, episodes: Sequence[EpisodeResult]) -> None:
        self.episodes[role] += episodes
        write_episodes(self.scratch / FILES[role], self.episodes[role])


def _row(
    config: EvaluateConfig,
    loaded: LoadedPolicy,
    setting: Setting,
    vector: Any,
    kind: str,
    finished: _Finished,
    role: str,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """Evaluates one policy on one task under one intervention."""
    meta = loaded.meta
    count = config.episodes if kind == NONE else config.intervene_episodes or config.episodes
    seeds = list(range(config.seed_start, config.seed_start + count))
    memory = str(meta.config.get("memory", ""))
    title = f"{meta.policy}, memory: {memory}" if memory else meta.policy
    filmed = range(min(config.videos, count))
    recorder = video.VideoRecorder(filmed, title)
    inspector = None
    if config.inspect and role == "policy":
        inspector = inspection.MemoryInspector(filmed)
    began = time.monotonic()
    episodes = run_episodes(
        config, loaded, setting, vector, kind, seeds, recorder=recorder, inspector=inspector
    )
    wall_s = time.monotonic() - began
    finished.add(role, episodes)
    scratch, stem = finished.scratch, f"{file_name(setting.task)}-{setting.level}-{role}-{kind}"
    with place.writing(scratch):
        pictures = _pictures(scratch, stem, recorder) if config.videos else {}
        if inspector is not None:
            pictures["inspection"] = _inspections(scratch, stem, inspector, recorder, seeds)
    return {
        "role": role,
        **setting.fields(),
        "policy": meta.policy,
        "memory": memory,
        "intervene": kind,
        "train_seed": meta.train.get("seed"),
        "privileged": provenance.privileged(loaded),
        "eval_seeds": [seeds[0], seeds[-1]],
        "batch": config.batch,
        **summarise(episodes, setting.ceiling, setting.expert),
        "twin": None,
        "process": None,
        "wall_s": round(wall_s, 2),
        **pictures,
    }, episodes


def _pictures(scratch: Path, stem: str, recorder: video.VideoRecorder) -> dict[str, Any]:
    recordings = list(recorder.recordings.values())
    files = [
        video.write_video(scratch / "videos" / f"{stem}-{recording.result.seed}.mp4", recording)
        for recording in recordings
    ]
    if len(recordings) > 1:
        files.append(video.write_video(scratch / "videos" / f"{stem}-together.mp4", recordings))
    sheet = scratch / "pictures" / f"{stem}.jpg"
    sheet.parent.mkdir(exist_ok=True)
    sheet.write_bytes(video.encode_picture(video.contact_sheet(recordings)))
    return {
        "videos": [str(file.relative_to(scratch)) for file in files],
        "picture": str(sheet.relative_to(scratch)),
    }


def _inspections(
    scratch: Path,
    stem: str,
    inspector: inspection.MemoryInspector,
    recorder: video.VideoRecorder,
    seeds: Sequence[int],
) -> list[str]:
    files = []
    for index, found in inspector.inspections.items():
        name, filmed = f"{stem}-{seeds[index]}", recorder.recordings[index]
        files += inspection.write_inspection(scratch / "inspection", name, found, filmed)
    return [str(file.relative_to(scratch)) for file in files]


def _capacity(loaded: LoadedPolicy, horizon_s: float, asked: int) -> int | None:
    """Returns how many slots memory gets; None for its own number.

    A memory that must hold a whole episode grows where episodes are longer than in training, and
    refuses a smaller number that was asked for. No time bounds decisions: a policy that observes
    at those neither grows nor refuses.
    """
    spec = loaded.policy.spec
    memory = getattr(loaded.policy, "memory", None)
    if not hasattr(memory, "capacity_for") or spec.observe_on != ticks.PERIOD:
        return asked or None
    period = ticks.period_ticks(spec.observe_period_s, spec.control_hz)
    most = ticks.most_observations(round(horizon_s * spec.control_hz), period)
    if asked:
        memory.check_horizon(most, memory.initial(1, asked))
        return asked
    needed = int(memory.capacity_for(most))
    return needed if needed > memory.capacity else None


def command(config: EvaluateConfig) -> str:
    """Returns the command line that repeats an evaluation."""
    default = to_plain(EvaluateConfig(source=config.source))
    plain = _shown(config)
    words = ["embodied", "evaluate", plain["source"]]
    for key, value in plain.items():
        if key in ("source", "out", "progress", "workers") or value == default[key]:
            continue
        words += _words(key, value, default[key])
    return shlex.join(words)


def _words(key: str, value: Any, default: Any) -> list[str]:
    """Returns the overrides that set `key` to `value`, one for each inner key that differs."""
    if isinstance(value, dict):
        inner = default if isinstance(default, dict) else {}
        changed = {k: v for k, v in value.items() if inner.get(k) != v}
        return [word for k, v in changed.items() for word in _words(f"{key}.{k}", v, inner.get(k))]
    return [f"{key}={','.join(map(str, value)) if isinstance(value, list) else value}"]


def _shown(config: EvaluateConfig) -> dict[str, Any]:
    """Returns the configuration as plain data with paths as results show them."""
    plain = to_plain(config)
    for key in ("source", "twin", "out"):
        if plain[key]:
            plain[key] = provenance.shown_source(plain[key])
    return plain
