"""Reading a dataset directory: which episodes there are, and each of them by index."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from embodied.core.errors import DataError
from embodied.data import shards
from embodied.data.manifest import (
    UNFINISHED,
    Manifest,
    describe_shard,
    load_manifest,
    settings_difference,
)
from embodied.data.schema import Episode


@dataclasses.dataclass(frozen=True)
class EpisodeRef:
    """Where one episode is.

    Attributes:
      path: Its file.
      seed: Its seed.
      cue: Its cue.
      ticks: Its observation ticks.
      length: Its control ticks.
    """

    path: Path
    seed: int
    cue: int
    ticks: int
    length: int


class EpisodeStore:
    """A dataset directory opened for reading; episodes are ordered by seed.

    Args:
      path: Dataset directory.
      verify: Compare every shard's sha256 with ``dataset.json`` (about 1 GB a second).
      allow_unfinished: Also read a dataset whose collecting was interrupted; otherwise refused.

    Raises:
      DataError: For a missing, edited, truncated or foreign file, or an unfinished dataset.
    """

    def __init__(
        self, path: str | Path, *, verify: bool = True, allow_unfinished: bool = False
    ) -> None:
        self.path = Path(path)
        self.manifest: Manifest = load_manifest(self.path)
        if not self.manifest.complete and not allow_unfinished:
            raise DataError(
                f"{self.path} is unfinished: {self.manifest.stored} of {self.manifest.episodes} "
                "episodes are in shards; run the same `embodied collect` again to finish it"
            )
        self._check_files(verify)
        refs = [
            EpisodeRef(self.path / name, *row)
            for name, shard in self.manifest.shards.items()
            for row in zip(shard.seeds, shard.cues, shard.ticks, shard.lengths, strict=True)
        ]
        if allow_unfinished:
            refs += self._unfinished({ref.seed for ref in refs})
        self.episodes: list[EpisodeRef] = sorted(refs, key=lambda ref: ref.seed)
        if len({ref.seed for ref in refs}) != len(refs):
            raise DataError(f"{self.path}/dataset.json lists a seed twice; it was edited")
        self._open: dict[Path, h5py.File] = {}

    def _check_files(self, verify: bool) -> None:
        listed = self.manifest.shards
        foreign = sorted({p.name for p in self.path.glob("*.h5")} - set(listed))
        if foreign and self.manifest.complete:
            raise DataError(
                f"{self.path} holds files that its dataset.json does not list: "
                f"{', '.join(foreign)}; move them away (data of other settings must not be mixed)"
            )
        for name, shard in listed.items():
            path = self.path / name
            size = path.stat().st_size if path.exists() else -1
            if size != shard.bytes:
                found = "missing" if size < 0 else f"{size:,} bytes, expected {shard.bytes:,}"
                raise DataError(
                    f"{path} is {found}; delete it (if there) and run the same `embodied collect` "
                    "again: it makes the missing episodes anew"
                )
            if verify and shards.file_sha256(path) != shard.sha256:
                raise DataError(
                    f"{path} was edited or damaged: its sha256 is not the one in dataset.json; "
                    "delete it and run the same `embodied collect` again"
                )

    def _unfinished(self, stored: set[int]) -> Iterator[EpisodeRef]:
        # A kill can leave a finished shard unlisted, or listed with its sources not yet removed.
        extra = set(self.path.glob("shard-*.h5")) - {self.path / n for n in self.manifest.shards}
        for path in [*sorted(extra), *sorted((self.path / UNFINISHED).glob("*.h5"))]:
            info = describe_shard(path)
            rows = zip(info.seeds, info.cues, info.ticks, info.lengths, strict=True)
            for row in rows:
                if row[0] not in stored:
                    stored.add(row[0])
                    yield EpisodeRef(path, *row)

    def __len__(self) -> int:
        return len(self.episodes)

    def read(self, index: int, *, verify: bool = False) -> Episode:
        """Reads episode `index` (order of seeds), validated; `verify` checks its hash too."""
        ref = self.episodes[index]
        return shards.read_episode(self._file(ref.path), ref.seed, verify=verify)

    def read_arrays(self, index: int, names: list[str]) -> dict[str, np.ndarray]:
        """Reads some arrays of episode `index`, for example ``["obs/tick"]``."""
        ref = self.episodes[index]
        return shards.read_arrays(self._file(ref.path), ref.seed, names)

    def _file(self, path: Path) -> h5py.File:
        if path not in self._open:
            if len(self._open) >= 32:  # stay far below the limit on open files
                self._open.pop(next(iter(self._open))).close()
            with shards.open_shard(path):
                pass
            self._open[path] = h5py.File(path, "r")
        return self._open[path]

    def close(self) -> None:
        """Closes all files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def check_same_kind(stores: list[EpisodeStore]) -> None:
    """Raises DataError unless all datasets can be mixed in one batch.

    Task, level and knobs may differ; observations, action size, controller, looks, ticks and
    chunk length may not.
    """
    first = stores[0]
    for other in stores[1:]:
        lines = settings_difference(_kind(first), _kind(other))
        if lines:
            raise DataError(
                f"{first.path} and {other.path} can't be mixed in one training: "
                f"{'; '.join(lines)}. Collect both with the same controller, cameras, sizes and "
                "ticks, or derive one with `embodied data render`"
            )


def _kind(store: EpisodeStore) -> dict[str, Any]:
    manifest = store.manifest
    settings = {
        k: v for k, v in manifest.settings.items() if k in ("control_hz", "observe_on",
        "observe_period_s", "label_horizon")
    }  # fmt: skip
    env = {k: manifest.settings["env"].get(k) for k in ("observation", "cameras", "image_size",
           "control", "visuals")}  # fmt: skip
    specs = {k: f"{v.dtype}{list(v.shape)}" for k, v in manifest.observations.items()}
    return {**settings, "env": env, "observations": specs, "action_size": manifest.action_size}
