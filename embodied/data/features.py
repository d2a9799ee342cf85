"""Outputs of a policy's frozen parts, kept on disk so that no tick is encoded twice.

A directory for everything that decides them: the frozen weights, their options, the size of the
pictures they see, how scenes are moved. In it a file for each shard of data and each copy, named by
the shard's hash and the copy's number: [ticks, ...] arrays in safetensors, mapped into memory when
read. Each file is written whole or not at all, so an interrupted run carries on where it was.

Where training draws something before the frozen parts (a move of the scene), episodes are kept in
several copies, each with its own draw, which depends on the episode's seed and the copy's number
alone. A batch draws one of them.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from embodied.core import rng
from embodied.core.errors import DataError
from embodied.core.files import read_json, write_atomic, write_json
from embodied.core.policy import Policy
from embodied.data.reader import EpisodeStore
from embodied.data.segments import FeatureReader, SegmentDataset

FORMAT, FORMAT_VERSION = "embodied-features", 1
DESCRIPTION = "features.json"


def attach_features(policy: Policy, dataset: SegmentDataset, root: str | Path) -> Path | None:
    """Encodes what is missing and gives every batch of the dataset the kept outputs.

    Args:
      policy: Whose frozen parts encode; on the device where it shall do so.
      dataset: What to encode. Afterwards its batches lack what only frozen parts read.
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
    key = json.loads(_canonical(key))  # as it will be read back
    directory = Path(root) / hashlib.sha256(_canonical(key).encode()).hexdigest()[:16]
    _describe(directory, key)
    copies = policy.frozen_copies
    caches = [ShardFeatures(directory, dataset, i, copies) for i in range(len(dataset.stores))]
    training = policy.training
    policy.eval()
    for cache in caches:
        cache.fill(policy)
    policy.train(training)
    names = caches[0].names()
    dataset.attach({name: [cache.reader(name) for cache in caches] for name in names}, copies)
    spared = set(policy.frozen_inputs())
    dataset.select(key for key in policy.spec.observations if key not in spared)
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
      dataset: What reads episodes.
      index: Which of its datasets.
      copies: Copies of each episode.
    """

    def __init__(self, directory: Path, dataset: SegmentDataset, index: int, copies: int) -> None:
        self.dataset, self.index, self.copies = dataset, index, copies
        self.store: EpisodeStore = dataset.stores[index]
        self._where: dict[int, tuple[str, slice]] = {}
        self._shards: dict[str, list[int]] = {}
        self.directory = directory
        index_of = {ref.seed: i for i, ref in enumerate(self.store.episodes)}
        for shard in self.store.manifest.shards.values():
            if not shard.seeds:  # the demonstrator failed on all of them
                continue
            stem, start = shard.sha256[:16], 0
            self._shards[stem] = [index_of[seed] for seed in shard.seeds]
            for episode, ticks in zip(self._shards[stem], shard.ticks, strict=True):
                self._where[episode] = (stem, slice(start, start + ticks))
                start += ticks
        self._open: dict[Path, Any] = {}

    def fill(self, policy: Policy) -> None:
        """Encodes the shards that have no file yet, and checks the others."""
        missing = []
        for stem, episodes in self._shards.items():
            for copy in range(self.copies):
                path = self._path(stem, copy)
                if path.exists():
                    self._check(path, episodes)
                else:
                    missing.append((path, episodes, copy))
        ticks = sum(self.store.episodes[i].ticks for _, some, _ in missing for i in some)
        with tqdm(total=ticks, desc=f"encode {self.store.path}", unit="tick", delay=1) as bar:
            for path, episodes, copy in missing:
                write_atomic(path, save(self._encode(policy, episodes, copy, bar)))

    def names(self) -> list[str]:
        """Returns the observation keys of the outputs."""
        return sorted(self._file(self._path(next(iter(self._shards)), 0)).keys())

    def reader(self, name: str) -> FeatureReader:
        """Returns (episode, copy) -> array [ticks, ...]."""

        def read(episode: int, copy: int) -> np.ndarray:
            stem, span = self._where[episode]
            array: np.ndarray = self._file(self._path(stem, copy)).get_slice(name)[span]
            return array

        return read

    def _path(self, stem: str, copy: int) -> Path:
        return self.directory / (f"{stem}-{copy}.safetensors" if copy else f"{stem}.safetensors")

    @torch.no_grad()
    def _encode(
        self, policy: Policy, episodes: list[int], copy: int, bar: tqdm
    ) -> dict[str, torch.Tensor]:
        device = next(policy.parameters()).device
        parts: dict[str, list[torch.Tensor]] = {}
        for episode in episodes:
            segment = self.dataset.whole(self.index, episode).map(lambda x: x.to(device))
            draw = rng.derive(self.store.episodes[episode].seed, "kept", copy)
            # On the CPU, so that a draw is the same whatever encodes.
            generator = torch.Generator().manual_seed(int(draw.integers(2**62)))
            for name, value in policy.encode_frozen(segment, generator).items():
                kept = value[0].cpu().contiguous()
                if not bool(kept.isfinite().all()):
                    raise DataError(
                        f"the frozen encoder gives NaN or infinity ({name}) on {self.store.path}; "
                        "its weights or the pictures are broken, or exceed the range of float16"
                    )
                parts.setdefault(name, []).append(kept)
            bar.update(segment.valid.shape[1])
        return {name: torch.cat(chunks) for name, chunks in parts.items()}

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
