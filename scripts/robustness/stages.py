"""The commands that are interrupted: how to start them, what they leave, how to read it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Protocol

from embodied.config import load_yaml
from embodied.core.errors import EmbodiedError
from embodied.core.files import TEMPORARY_PREFIX
from embodied.data import shards
from embodied.data.manifest import MANIFEST, UNFINISHED
from embodied.data.reader import EpisodeStore
from embodied.train import checkpoint
from embodied.train.logger import read_metrics

TASK = "task=remember_color"


class Stage(Protocol):
    """A command whose interruptions are tested."""

    name: str
    unit: str
    total: int

    def words(self, out: Path) -> list[str]:
        """Returns what to type after ``embodied`` to start, or to carry on in `out`."""

    def finished(self, out: Path) -> set[int]:
        """Returns the names of the units that lie finished in `out`."""

    def lost(self, before: set[int], after: set[int]) -> set[int]:
        """Returns what of `before` should be in `after` and is not."""

    def half_written(self, out: Path) -> list[str]:
        """Returns the temporary names of writes under way."""

    def read(self, out: Path) -> set[int]:
        """Reads every finished unit whole and returns their names; raises EmbodiedError."""

    def content(self, out: Path) -> dict[str, str]:
        """Returns name -> SHA-256 of everything that must be equal in the end."""


@dataclasses.dataclass
class Collecting:
    """``embodied collect``; a unit is an episode."""

    total: int
    workers: int
    name: str = "collect"
    unit: str = "episodes"

    def words(self, out: Path) -> list[str]:
        return ["collect", TASK, f"episodes={self.total}", f"workers={self.workers}", f"out={out}"]

    def finished(self, out: Path) -> set[int]:
        loose = {int(path.stem.split("_")[1]) for path in self._loose(out)}
        return loose.union(*(_decided(path) for path in self._merged(out)))

    def lost(self, before: set[int], after: set[int]) -> set[int]:
        return before - after

    def half_written(self, out: Path) -> list[str]:
        return [
            path.name
            for folder in (out, out / UNFINISHED)
            for path in folder.glob(TEMPORARY_PREFIX + "*")
        ]

    def read(self, out: Path) -> set[int]:
        if not (out / MANIFEST).exists():
            return set()
        with EpisodeStore(out, allow_unfinished=True) as store:
            for index in range(len(store)):
                store.read(index, verify=True)
            seeds = {ref.seed for ref in store.episodes}
        files = [*self._loose(out), *self._merged(out)]
        return seeds.union(*(_decided(path, stored=False) for path in files))

    def content(self, out: Path) -> dict[str, str]:
        files = [*self._loose(out), *self._merged(out), out / MANIFEST]
        return {path.name: sha256(path.read_bytes()) for path in files}

    def _loose(self, out: Path) -> list[Path]:
        return list((out / UNFINISHED).glob("episode_*.h5"))

    def _merged(self, out: Path) -> list[Path]:
        return list(out.glob("shard-*.h5"))


def _decided(path: Path, stored: bool = True) -> set[int]:
    """Returns the seeds in an episode file: the failed ones, and those `stored`."""
    try:
        with shards.open_shard(path) as file:
            failed = set(shards.failed_seeds(file, path))
            return failed | set(shards.episode_seeds(file)) if stored else failed
    except EmbodiedError:
        if path.exists():
            raise
        return set()  # merged into its shard meanwhile


@dataclasses.dataclass
class Training:
    """``embodied train``; a unit is a checkpoint, named by its steps."""

    data: Path
    steps: int
    every: int
    options: tuple[str, ...] = ()
    name: str = "train"
    unit: str = "checkpoints"

    @property
    def total(self) -> int:
        return self.steps // self.every

    def words(self, out: Path) -> list[str]:
        if (out / "config.yaml").exists():
            return ["train", "--resume", f"out={out}"]
        settings = (f"steps={self.steps}", f"checkpoint_every={self.every}", "log_every=2")
        settings += ("batch_episodes=2", f"data={self.data}", f"out={out}")
        return ["train", TASK, *settings, *self.options]

    def finished(self, out: Path) -> set[int]:
        # The run keeps the newest two; each stands for those before it.
        newest = max((int(path.name) for path in checkpoint.checkpoints(out)), default=0)
        return set(range(self.every, newest + 1, self.every))

    def lost(self, before: set[int], after: set[int]) -> set[int]:
        return before - after

    def half_written(self, out: Path) -> list[str]:
        return [path.name for path in (out / "checkpoints").glob(".writing-*")]

    def read(self, out: Path) -> set[int]:
        for path in checkpoint.checkpoints(out):
            checkpoint.load(path)
            checkpoint.read_train_state(path)
        return self.finished(out)

    def content(self, out: Path) -> dict[str, str]:
        files = [p for path in checkpoint.checkpoints(out) for p in path.rglob("*") if p.is_file()]
        hashes = {str(p.relative_to(out)): sha256(p.read_bytes()) for p in files}
        # The data lies where this test put it; how long steps took is no result.
        config = {k: v for k, v in load_yaml(out / "config.yaml").items() if k != "data"}
        rows = [
            {k: v for k, v in row.items() if k not in ("episodes_per_s", "cpu_s")}
            for row in read_metrics(out)
        ]
        for name, value in (("config.yaml", config), ("metrics.jsonl", rows)):
            hashes[name] = sha256(json.dumps(value, sort_keys=True).encode())
        return hashes


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()
