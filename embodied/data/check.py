"""Finds everything that is wrong with a dataset, and re-simulates a sample bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core import rng
from embodied.core.errors import DataError, EmbodiedError
from embodied.core.task import EnvConfig
from embodied.core.text import INSTRUCTION
from embodied.data import shards
from embodied.data.builder import meta_settings
from embodied.data.leak import FEWEST, GoObservations
from embodied.data.manifest import (
    UNFINISHED,
    Manifest,
    load_manifest,
    settings_difference,
)
from embodied.data.schema import OPTIONAL, Episode, pack_state
from embodied.data.workers import package_versions
from embodied.registry import task_info


@dataclasses.dataclass
class CheckReport:
    """What `check` found.

    Attributes:
      path: Dataset directory.
      files: Episode files read.
      episodes: Episodes read and found whole.
      resimulated: Seeds whose states were reproduced bit for bit.
      problems: One line each, naming the file; empty for a sound dataset.
      notes: Things worth knowing that are no fault of the files.
    """

    path: Path
    files: int = 0
    episodes: int = 0
    resimulated: list[int] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def text(self) -> str:
        """Returns the report for a terminal."""
        lines = [f"{self.path}: {self.episodes} whole episodes in {self.files} files"]
        if self.resimulated:
            lines.append(f"re-simulated bit for bit: seeds {self.resimulated}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"PROBLEM: {problem}" for problem in self.problems]
        return "\n".join([*lines, "sound" if self.ok else f"{len(self.problems)} problems"])


def check(
    path: str | Path,
    sample: int = 5,
    *,
    env_factory: Callable[..., Any] | None = None,
) -> CheckReport:
    """Checks every file of a dataset and re-simulates some episodes.

    Files: present, of the recorded size and sha256, readable, of this format, every array as it
    should be, every content hash right, all settings those of ``dataset.json``, nothing foreign
    beside them. All faults are listed, not the first alone. Of tasks that hide their cue at go
    also whether a linear look at what is observed then tells it; see `embodied.data.leak`.

    Args:
      path: Dataset directory; an unfinished one is checked too.
      sample: Episodes to re-simulate; 0 for none (needs no simulator).
      env_factory: Makes the environment; `embodied.registry.make_env` when None.

    Raises:
      DataError: If `path` is no dataset at all.
    """
    directory = Path(path)
    manifest = load_manifest(directory)
    report = CheckReport(directory)
    at_go = GoObservations() if _hides_its_cue(manifest.settings) else None
    places: dict[int, Path] = {}
    for name, info in sorted(manifest.shards.items()):
        file = directory / name
        if not file.exists():
            report.problems.append(
                f"{file} is missing ({len(info.seeds)} episodes, seeds {_span(info.seeds)}); run "
                "the same `embodied collect` again"
            )
            continue
        size = file.stat().st_size
        if size != info.bytes:
            report.problems.append(
                f"{file} has {size:,} bytes, expected {info.bytes:,}: truncated or replaced; "
                "delete it and run the same `embodied collect` again"
            )
        elif shards.file_sha256(file) != info.sha256:
            report.problems.append(
                f"{file} was edited or damaged: its sha256 is not the recorded one; delete it and "
                "run the same `embodied collect` again"
            )
        found = _check_file(file, manifest, report, at_go)
        if sorted(found) != info.seeds and size == info.bytes:
            report.problems.append(f"{file} holds other seeds than dataset.json says")
        _place(found, file, places, report)
    loose = sorted((directory / UNFINISHED).glob("*.h5"))
    for file in loose:
        _place(_check_file(file, manifest, report, at_go), file, places, report)
    unlisted = sorted({p.name for p in directory.glob("*.h5")} - set(manifest.shards))
    for name in unlisted:
        report.problems.append(
            f"{directory / name} is not listed in dataset.json: a foreign file, or one from an "
            "interrupted collect; run the same `embodied collect` again or move it away"
        )
    if not manifest.complete:
        report.notes.append(
            f"unfinished: {manifest.stored} of {manifest.episodes} in shards, {len(loose)} more "
            "finished; run the same `embodied collect` again"
        )
    for seed, reason in sorted(manifest.failed.items()):
        report.notes.append(f"seed {seed} was left out by the demonstrator: {reason}")
    leak = at_go.look() if at_go else None
    if leak is not None:
        (report.problems if leak.found else report.notes).append(leak.text())
    elif at_go:
        report.notes.append(
            "whether what is observed at go tells the cue was not asked: that takes "
            f"{FEWEST} episodes, and more cues than one"
        )
    if sample and places:
        _resimulate(manifest, places, sample, env_factory, report)
    return report


def _place(found: list[int], file: Path, places: dict[int, Path], report: CheckReport) -> None:
    for seed in found:
        if seed in places:
            report.problems.append(f"seed {seed} is in both {places[seed]} and {file}")
        places[seed] = file


def _hides_its_cue(settings: Mapping[str, Any]) -> bool:
    """Returns whether what is observed at go must not tell the cue."""
    try:
        info = task_info(settings["task"])
    except EmbodiedError:  # a task of a package that isn't installed here
        return True
    # Of progress tasks the instruction tells it; a reactive twin leaves it in sight.
    return not info.progress and not settings["knobs"].get("visible_cue")


def _check_file(
    file: Path, manifest: Manifest, report: CheckReport, at_go: GoObservations | None
) -> list[int]:
    """Reads every episode of a file; returns the seeds that are whole."""
    whole = []
    report.files += 1
    try:
        with shards.open_shard(file) as handle:
            for seed in shards.episode_seeds(handle):
                try:
                    episode = shards.read_episode(handle, seed)
                    _check_settings(episode, manifest, file)
                    whole.append(seed)
                    if at_go is not None:
                        at_go.add(episode)
                except DataError as error:
                    report.problems.append(str(error))
    except DataError as error:
        report.problems.append(str(error))
    report.episodes += len(whole)
    return whole


def _check_settings(episode: Episode, manifest: Manifest, file: Path) -> None:
    found = meta_settings(episode.meta)
    there = {k: v for k, v in manifest.settings.items() if k in found or k in OPTIONAL}
    lines = settings_difference(found, there)
    shape = episode.control["action"].shape[1]
    if shape != manifest.action_size:
        lines.append(f"action_size: {shape} against {manifest.action_size}")
    specs = {k: [v.dtype, list(v.shape)] for k, v in manifest.observations.items()}
    shown = {
        k: [episode.obs[k].dtype.name, list(episode.obs[k].shape[k != INSTRUCTION :])]
        for k in episode.observation_keys
    }
    lines += settings_difference(shown, specs, "observations.")
    if lines:
        raise DataError(
            f"{file}, seed {episode.meta.seed}: settings are not those of dataset.json (there, "
            f"against dataset.json): {'; '.join(lines)}. Data of several controllers, cameras or "
            "sizes must not be mixed: delete the file and collect again"
        )


def _resimulate(
    manifest: Manifest,
    places: dict[int, Path],
    sample: int,
    env_factory: Callable[..., Any] | None,
    report: CheckReport,
) -> None:
    if env_factory is None:
        from embodied.registry import make_env as env_factory
    seeds = sorted(places)
    picks = rng.derive(0, "check").permutation(len(seeds))[:sample]
    settings, versions = manifest.settings, package_versions()
    for name, there in settings["simulator"].items():
        if versions.get(name, "none") != there:
            report.notes.append(
                f"made with {name} {there}, checked with {versions.get(name)}: states may differ"
            )
    try:
        env = env_factory(
            settings["task"],
            settings["level"],
            EnvConfig(**settings["env"]),
            render_every_step=False,
        )
    except EmbodiedError as error:
        report.problems.append(f"re-simulation is not possible: {error}")
        return
    try:
        if env.unwrapped.mjcf_sha256 != settings["mjcf_sha256"]:
            report.notes.append("the simulator's model changed since the data was made")
        for seed in (seeds[i] for i in sorted(picks)):
            with shards.open_shard(places[seed]) as handle:
                episode = shards.read_episode(handle, seed)
            fault = replay_fault(env, episode)
            if fault:
                report.problems.append(f"{places[seed]}, seed {seed}: {fault}")
            else:
                report.resimulated.append(seed)
    finally:
        env.close()


def replay_fault(env: Any, episode: Episode) -> str:
    """Steps an episode's executed actions again; returns "" or how the states differ."""
    u = env.unwrapped
    layout, stored = episode.meta.state_layout, episode.control["state"]
    try:
        u.reset(seed=episode.meta.seed)
        for tick in range(episode.meta.length + 1):
            packed = pack_state(u.save_state(), layout)
            if packed.tobytes() != stored[tick].tobytes():
                return (
                    f"the re-simulated state differs at tick {tick} of {episode.meta.length} in "
                    f"{_differing(packed, stored[tick], layout)}; the simulator or the versions "
                    f"changed since it was made ({episode.meta.versions})"
                )
            if tick < episode.meta.length:
                u.advance(episode.control["action"][tick])
    except EmbodiedError as error:
        return f"re-simulation failed: {error}"
    return ""


def _differing(one: np.ndarray, other: np.ndarray, layout: list[list[Any]]) -> str:
    from embodied.data.schema import unpack_state

    a, b = unpack_state(one, layout), unpack_state(other, layout)
    return ", ".join(name for name in a if a[name].tobytes() != b[name].tobytes())


def _span(seeds: list[int]) -> str:
    return f"{seeds[0]}..{seeds[-1]}" if seeds else "none"
