"""Outputs of a policy's frozen parts, kept on disk so that no tick is encoded twice.

A directory for everything that decides them: the frozen weights, their options, the size of the
pictures they see. In it a file for each shard of data, named by the shard's hash: float16
[ticks, ...] arrays in safetensors, mapped into memory when read. Each file is written whole or
not at all, so an interrupted run carries on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from embodied.core.errors import DataError
from embodied.core.files import read_json, write_atomic, write_json
from embodied.core.policy import Policy
from embodied.data.reader import EpisodeStore
from embodied.data.record import INSTRUCTION
from embodied.data.segments import SegmentDataset

FORMAT, FORMAT_VERSION = "embodied-features", 1
DESCRIPTION = "features.json"
BATCH_TICKS = 64


def attach_features(policy: Policy, dataset: SegmentDataset, root: str | Path) -> Path | None:
    """Encodes what is missing and gives every batch of the dataset the kept outputs.

    Args:
      policy: Whose frozen parts encode; on the device where it shall do so.
      dataset: What to encode.
      root: Directory of all kept outputs.

    Returns:
      The directory of these outputs; None for a policy without frozen parts.

    Raises:
      DataError: For outputs of other weights or sizes, broken files, or outputs that are not
        finite.
    """
    key = policy.frozen_key()
    if not key:
        return None
    directory = Path(root) / hashlib.sha256(_canonical(key).encode()).hexdigest()[:16]
    _describe(directory, key)
    caches = [ShardFeatures(directory, store) for store in dataset.stores]
    for cache in caches:
        cache.fill(policy)
    for name in caches[0].names():
        dataset.attach(name, [cache.reader(name) for cache in caches])
    return directory


def _describe(directory: Path, key: dict[str, Any]) -> None:
    """Writes what the outputs depend on, or compares it with what is there."""
    file = directory / DESCRIPTION
    wanted = {"format": FORMAT, "format_version": FORMAT_VERSION, "key": key}
    if not file.exists():
        write_json(file, wanted)
        return
    found = read_json(file)
    if found != wanted:
        other = found.get("key", {}) if isinstance(found, dict) else {}
        differing = [
            f"{name}: {other.get(name)!r} there, {key.get(name)!r} here"
            for name in sorted({*other, *key})
            if other.get(name) != key.get(name)
        ]
        raise DataError(
            f"{directory} holds features of another encoder ({'; '.join(differing) or 'format'}); "
            f"delete it, or choose another directory with features=DIR"
        )


class ShardFeatures:
    """The kept outputs of one dataset.

    Args:
      directory: Where the files are.
      store: The dataset.
    """

    def __init__(self, directory: Path, store: EpisodeStore) -> None:
        self.directory, self.store = directory, store
        self._where: dict[int, tuple[Path, slice]] = {}
        self._shards: dict[Path, list[int]] = {}
        index_of = {ref.seed: i for i, ref in enumerate(store.episodes)}
        for shard in store.manifest.shards.values():
            path, start = directory / f"{shard.sha256[:16]}.safetensors", 0
            self._shards[path] = [index_of[seed] for seed in shard.seeds]
            for index, ticks in zip(self._shards[path], shard.ticks, strict=True):
                self._where[index] = (path, slice(start, start + ticks))
                start += ticks
        self._open: dict[Path, Any] = {}

    def fill(self, policy: Policy) -> None:
        """Encodes the shards that have no file yet, and checks the others."""
        missing = []
        for path, episodes in self._shards.items():
            if path.exists():
                self._check(path, episodes)
            else:
                missing.append(path)
        ticks = sum(self.store.episodes[i].ticks for path in missing for i in self._shards[path])
        with tqdm(total=ticks, desc=f"encode {self.store.path}", unit="tick", delay=1) as bar:
            for path in missing:
                write_atomic(path, save(self._encode(policy, self._shards[path], bar)))

    def names(self) -> list[str]:
        """Returns the observation keys of the outputs."""
        return sorted(self._file(next(iter(self._shards))).keys())

    def reader(self, name: str) -> Any:
        """Returns episode -> float16 array [ticks, ...]."""

        def read(episode: int) -> np.ndarray:
            path, span = self._where[episode]
            array: np.ndarray = self._file(path).get_slice(name)[span]
            return array

        return read

    @torch.no_grad()
    def _encode(self, policy: Policy, episodes: list[int], bar: tqdm) -> dict[str, torch.Tensor]:
        device = next(policy.parameters()).device
        parts: dict[str, list[torch.Tensor]] = {}
        for obs in self._batches(policy.frozen_inputs(), episodes):
            found = policy.encode_frozen({k: v.to(device) for k, v in obs.items()})
            for name, value in found.items():
                kept = value.cpu().half()
                if not bool(kept.isfinite().all()):
                    raise DataError(
                        f"the frozen encoder gives NaN or infinity ({name}) on {self.store.path}; "
                        "its weights or the pictures are broken, or exceed the range of float16"
                    )
                parts.setdefault(name, []).append(kept)
            bar.update(len(next(iter(obs.values()))))
        return {name: torch.cat(chunks) for name, chunks in parts.items()}

    def _batches(self, keys: list[str], episodes: list[int]) -> Iterator[dict[str, torch.Tensor]]:
        columns: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        for index in episodes:
            ticks = self.store.episodes[index].ticks
            raw = self.store.read_arrays(index, [f"obs/{key}" for key in keys])
            for key in keys:
                array = raw[f"obs/{key}"]
                if key == INSTRUCTION:
                    array = np.broadcast_to(array, (ticks, *array.shape))
                columns[key].append(array)
        whole = {key: np.concatenate(arrays) for key, arrays in columns.items()}
        count = len(whole[keys[0]])
        for start in range(0, count, BATCH_TICKS):
            span = slice(start, start + BATCH_TICKS)
            yield {key: torch.from_numpy(array[span]) for key, array in whole.items()}

    def _check(self, path: Path, episodes: list[int]) -> None:
        """Refuses a file that does not hold the ticks of its shard."""
        ticks = sum(self.store.episodes[i].ticks for i in episodes)
        file = self._file(path)
        for name in file.keys():  # noqa: SIM118 - no mapping
            found = file.get_slice(name).get_shape()[0]
            if found != ticks:
                raise DataError(
                    f"{path} holds {found} ticks of {name}, its shard has {ticks}; delete it, "
                    "it is encoded anew"
                )

    def _file(self, path: Path) -> Any:
        if path not in self._open:
            try:
                self._open[path] = safe_open(path, "np")
            except (SafetensorError, OSError) as error:
                raise DataError(
                    f"{path} is broken ({error}); delete it, it is encoded anew"
                ) from error
        return self._open[path]


def _canonical(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
