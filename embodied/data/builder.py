"""Keeps a dataset directory consistent while episodes arrive, and after any interruption."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from embodied.core import ticks
from embodied.core.errors import DataError
from embodied.core.files import remove_temporary, write_atomic
from embodied.data import shards
from embodied.data.manifest import (
    MANIFEST,
    Manifest,
    ShardInfo,
    describe_shard,
    load_manifest,
    save_manifest,
    settings_difference,
)
from embodied.data.schema import EpisodeMeta, optional
from embodied.data.workers import Job, Outcome, package_versions

SIMULATOR_PACKAGES = ("mujoco", "robosuite")
"""Other versions of these make other episodes, so one dataset must not mix them."""


class Builder:
    """Collects outcomes into shards and ``dataset.json``.

    Shard i holds the seeds of the i-th block of `seeds`. A block is merged when each of its
    seeds is stored or failed.

    Args:
      job: What the workers make.
      seeds: All seeds of the dataset, rising.
      directory: Dataset directory, locked by the caller.
      block: Episodes a shard.
    """

    def __init__(self, job: Job, seeds: list[int], directory: Path, block: int) -> None:
        self.job = job
        self.seeds = seeds
        self.directory = directory
        self._block = block
        self._row = {seed: row for row, seed in enumerate(seeds)}
        self._manifest: Manifest | None = None
        self._loose: dict[int, str] = {}  # decided seeds in unfinished/ -> failure or ""

    # ------------------------------------------------------------ what is there

    def recover(self) -> list[int]:
        """Reads what earlier runs left; returns the seeds still to do.

        Raises:
          DataError: If the directory holds data of other settings, or damaged files.
        """
        remove_temporary(self.directory)
        remove_temporary(self.job.directory)
        if (self.directory / MANIFEST).exists():
            self._manifest = load_manifest(self.directory)
            self._refuse_other(self._asked(), self._manifest.settings)
            self._block = self._manifest.shard_episodes
            self._adopt()
            if self.finished and self._manifest.episodes != len(self.seeds):
                self._manifest.complete = False
        return self.pending()

    @property
    def finished(self) -> bool:
        """True when nothing is left to do, not even merging."""
        complete = self._manifest is not None and self._manifest.complete
        return complete and not self.pending() and not self._loose

    def pending(self) -> list[int]:
        """Returns the seeds that are neither stored nor failed."""
        decided = self._decided()
        return [seed for seed in self.seeds if seed not in decided]

    def _decided(self) -> set[int]:
        decided = set(self._loose)
        if self._manifest is not None:
            for shard in self._manifest.shards.values():
                decided.update(shard.seeds)
            decided.update(self._manifest.failed)
        return decided

    def failed_count(self) -> int:
        """Returns the number of seeds known to have failed."""
        stored = len(self._manifest.failed) if self._manifest else 0
        return stored + sum(bool(reason) for reason in self._loose.values())

    def _asked(self) -> dict[str, Any]:
        plan = self.job.plan
        return {
            **optional(dataclasses.asdict(plan)),
            "task": self.job.task,
            "level": self.job.level,
            "env": dataclasses.asdict(self.job.config),
            "observe_on": plan.observe_on,
            "observe_period_s": plan.observe_period_s,
            "label_horizon": plan.label_horizon,
            "noise": plan.noise,
            "source_sha256": self.job.source_sha256,
        }

    def _refuse_other(self, asked: dict[str, Any], there: dict[str, Any]) -> None:
        lines = settings_difference(asked, {k: there.get(k) for k in asked} | optional(there))
        manifest = self._manifest
        if manifest is not None and manifest.seed_start != self.seeds[0]:
            lines.append(f"seed_start: {self.seeds[0]} against {manifest.seed_start}")
        if manifest is not None and manifest.episodes > len(self.seeds):
            lines.append(f"episodes: {len(self.seeds)} against {manifest.episodes}")
        if lines:
            raise DataError(
                f"{self.directory} holds a dataset of other settings (asked for, against what is "
                f"there): {'; '.join(lines)}; nothing was written. Choose another out=, or ask for "
                "the same settings to continue it"
            )

    def _adopt(self) -> None:
        """Takes over the files that are there; refuses those of seeds that are not asked for."""
        self._adopt_shards()
        self._adopt_loose()
        strangers = sorted(self._decided() - set(self.seeds))
        if strangers:
            raise DataError(
                f"{self.directory} holds files of {len(strangers)} seeds that are not asked for "
                f"({strangers[0]}..{strangers[-1]}, against {self.seeds[0]}..{self.seeds[-1]}); "
                "nothing was written. Choose another out=, or ask for the same seeds to continue it"
            )

    def _adopt_shards(self) -> None:
        """Makes the manifest say what is on disk; a kill may have come between the two."""
        manifest = self._manifest
        for name in list(manifest.shards):
            path = self.directory / name
            if not path.exists():
                del manifest.shards[name]
            elif shards.file_sha256(path) != manifest.shards[name].sha256:
                manifest.shards[name] = self._describe(path)
        for path in sorted(self.directory.glob("shard-*.h5")):
            if path.name not in manifest.shards:
                manifest.shards[path.name] = self._describe(path)
        foreign = {p.name for p in self.directory.glob("*.h5")} - set(manifest.shards)
        if foreign:
            raise DataError(
                f"{self.directory} holds foreign files: {', '.join(sorted(foreign))}; move them "
                "away, data of other origin must not be mixed in"
            )

    def _adopt_loose(self) -> None:
        shard_seeds = {s for info in self._manifest.shards.values() for s in info.seeds}
        shard_seeds |= set(self._manifest.failed)
        for path in sorted(self.job.directory.glob("*.h5")):
            info = self._describe(path)
            decided = dict.fromkeys(info.seeds, "")
            decided |= {int(seed): reason for seed, reason in info.failed.items()}
            if set(decided) <= shard_seeds:
                path.unlink()  # merged, but killed before its source was removed
            else:
                self._loose.update(decided)

    def _describe(self, path: Path) -> ShardInfo:
        """Describes a file after checking that every episode has the dataset's settings."""
        info = describe_shard(path)
        with shards.open_shard(path) as file:
            for seed in info.seeds:
                group = file[shards.group_name(seed)]
                meta = EpisodeMeta.from_attrs(dict(group.attrs), f"{path} {group.name}")
                found = meta_settings(meta)
                there = {key: self._manifest.settings.get(key) for key in found}
                there |= optional(self._manifest.settings)
                lines = settings_difference(found, there)
                if lines:
                    raise DataError(
                        f"{path} holds an episode of other settings (there, against "
                        f"{MANIFEST}): {'; '.join(lines)}; move the file away"
                    )
        return info

    # ------------------------------------------------------------ making progress

    def start(self, facts: dict[str, Any]) -> None:
        """Fixes the settings from the environment's facts, or compares them, and saves."""
        if self.job.plan.observe_on == ticks.PERIOD:
            ticks.period_ticks(self.job.plan.observe_period_s, float(facts["control_hz"]))
        versions = package_versions()
        settings = {
            **self._asked(),
            "knobs": dict(facts["knobs"]),
            "control_hz": float(facts["control_hz"]),
            "mjcf_sha256": facts["mjcf_sha256"],
            "simulator": {k: versions.get(k, "none") for k in SIMULATOR_PACKAGES},
        }
        if self._manifest is None:
            self._manifest = Manifest(
                settings=settings,
                seed_start=self.seeds[0],
                episodes=len(self.seeds),
                shard_episodes=self._block,
                observations=facts["observations"],
                action_size=facts["action_size"],
                num_cues=facts["num_cues"],
                horizon=facts["horizon"],
                versions=versions,
            )
            self._adopt()
        self._refuse_other(settings, self._manifest.settings)
        self._manifest.episodes = len(self.seeds)
        self._manifest.complete = False
        save_manifest(self.directory, self._manifest)
        for index in sorted({self._row[seed] // self._block for seed in self._loose}):
            self._merge_if_decided(index)

    def add(self, outcome: Outcome) -> None:
        """Takes note of a stored or failed seed; merges its block when it was the last."""
        self._loose[outcome.seed] = outcome.failure
        self._merge_if_decided(self._row[outcome.seed] // self._block)

    def _merge_if_decided(self, index: int) -> None:
        block = self.seeds[index * self._block : (index + 1) * self._block]
        name = f"shard-{index:05d}.h5"
        old = self._manifest.shards.get(name)
        stored = {*old.seeds, *map(int, old.failed)} if old else set()
        fresh = [seed for seed in block if seed in self._loose]
        if not fresh or any(seed not in stored and seed not in self._loose for seed in block):
            return
        sources = [self.job.directory / f"{shards.group_name(seed)}.h5" for seed in fresh]
        path = self.directory / name
        data, _, _ = shards.merge_bytes(sources + ([path] if old else []))
        write_atomic(path, data)
        self._manifest.shards[name] = describe_shard(path, data)
        save_manifest(self.directory, self._manifest)
        for seed, source in zip(fresh, sources, strict=True):
            source.unlink(missing_ok=True)
            del self._loose[seed]

    def finish(self) -> Manifest:
        """Marks the dataset complete when every seed is decided, and returns its manifest."""
        if not self.pending() and not self._loose and not self._manifest.complete:
            self._manifest.complete = True
            save_manifest(self.directory, self._manifest)
        with contextlib.suppress(OSError):
            self.job.directory.rmdir()
        return self._manifest


def meta_settings(meta: EpisodeMeta) -> dict[str, Any]:
    """Returns an episode's settings in the form of ``Manifest.settings``."""
    return {
        "task": meta.task,
        "level": meta.level,
        "env": meta.env,
        "observe_on": meta.observe_on,
        "observe_period_s": meta.observe_period_s,
        "label_horizon": meta.label_horizon,
        "noise": meta.noise,
        **optional(dataclasses.asdict(meta)),
        "knobs": meta.knobs,
        "control_hz": meta.control_hz,
        "mjcf_sha256": meta.mjcf_sha256,
        "simulator": {k: meta.versions.get(k, "none") for k in SIMULATOR_PACKAGES},
    }
