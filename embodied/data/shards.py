"""Episode files: written whole or not at all, read with suspicion.

Scheme: a worker writes every finished episode at once as its own small file under
``unfinished/``; when all seeds of a block (32 by default) are decided, their files are merged
into one shard and removed. Every file is first built in memory, then written to a temporary
name, synced and renamed. A kill at any moment therefore leaves either the whole file or a
temporary one that the next run deletes: no finished episode is lost and no half episode can be
read. One file an episode for good would be simpler but makes tens of thousands of files; one
shard written only when full would lose up to 31 finished episodes.

Merging copies compressed chunks and sorts by seed, so a shard's bytes do not depend on the
order in which workers finished or on how often collecting was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from embodied.core.errors import DataError
from embodied.data.schema import (
    FORMAT,
    FORMAT_VERSION,
    Episode,
    EpisodeMeta,
    content_sha256,
    validate,
)

_GROUP = re.compile(r"episode_(\d{9})")
_GROUPS = ("control", "obs", "label")


def group_name(seed: int) -> str:
    """Returns the name of an episode's HDF5 group."""
    return f"episode_{seed:09d}"


def _build(fill: Callable[[h5py.File], None], failed: Mapping[int, str]) -> bytes:
    memory = io.BytesIO()
    # The oldest file version stores no times of groups, so equal content gives equal bytes.
    with h5py.File(memory, "w", libver=("earliest", "v108")) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["failed"] = json.dumps({str(s): failed[s] for s in sorted(failed)})
        fill(file)
    return memory.getvalue()


def episode_file_bytes(episode: Episode) -> bytes:
    """Returns an HDF5 file holding one episode, with the hash of its content."""

    def fill(file: h5py.File) -> None:
        group = file.create_group(group_name(episode.meta.seed))
        for key, value in episode.meta.to_attrs().items():
            group.attrs[key] = value
        group.attrs["content_sha256"] = content_sha256(episode)
        for name, arrays in sorted(episode.groups().items()):
            for key, array in sorted(arrays.items()):
                _write_array(group.require_group(name), key, array)

    return _build(fill, {})


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    # Below a kilobyte a chunk index costs more than compression saves.
    if array.nbytes < 1024:
        group.create_dataset(name, data=array)
        return
    shuffle = array.dtype.itemsize > 1  # helps numbers, hurts images
    # gzip 1 is as fast as lzf here and, unlike lzf, gives equal bytes for equal content.
    group.create_dataset(
        name,
        data=array,
        chunks=array.shape,
        compression="gzip",
        compression_opts=1,
        shuffle=shuffle,
    )


def failed_file_bytes(seed: int, reason: str) -> bytes:
    """Returns a file that records that the demonstrator failed on `seed`."""
    return _build(lambda file: None, {seed: reason})


def merge_bytes(paths: list[Path]) -> tuple[bytes, list[int], dict[int, str]]:
    """Merges episode files (or an older shard) into one shard, sorted by seed.

    Args:
      paths: Files to merge; a seed found twice is taken from the first.

    Returns:
      The shard, its seeds, and the failed seeds with their reasons.
    """
    sources: dict[int, Path] = {}
    failed: dict[int, str] = {}
    for path in paths:
        with open_shard(path) as file:
            for seed in episode_seeds(file):
                sources.setdefault(seed, path)
            failed.update(failed_seeds(file, path))

    def fill(target: h5py.File) -> None:
        for seed in sorted(sources):
            with open_shard(sources[seed]) as file:
                file.copy(group_name(seed), target)

    return _build(fill, failed), sorted(sources), failed


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """Opens an episode file for reading and refuses what this package did not write.

    Raises:
      DataError: For a missing, truncated or foreign file.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not path.exists():
            raise DataError(
                f"{path} does not exist; `embodied data check` lists what is missing"
            ) from (error)
        raise DataError(
            f"{path} is truncated or not HDF5 ({path.stat().st_size:,} bytes: {error}); delete "
            "it and run the same `embodied collect` again: it fills in what is missing"
        ) from error
    with file:
        if file.attrs.get("format") != FORMAT:
            raise DataError(
                f"{path} is a foreign HDF5 file: attribute 'format' is "
                f"{file.attrs.get('format')!r}, expected {FORMAT!r}. Files of other programs can't "
                "be used as datasets; make one with `embodied collect`"
            )
        version = int(file.attrs.get("format_version", 0))
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version}, this package reads {FORMAT_VERSION}; use "
                "the package version that wrote it, or collect again"
            )
        yield file


def episode_seeds(file: h5py.File) -> list[int]:
    """Returns the seeds stored in an open episode file, sorted; refuses unknown members."""
    seeds = []
    for name in file:
        match = _GROUP.fullmatch(name)
        if not match or not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise DataError(
                f"{file.filename}: unexpected member {name!r} (episodes are groups in the same "
                "file named episode_<9 digits>); the file was edited: delete it and collect again"
            )
        seeds.append(int(match.group(1)))
    return sorted(seeds)


def failed_seeds(file: h5py.File, path: Path) -> dict[int, str]:
    """Returns the seeds recorded as failed in an open episode file, with reasons."""
    try:
        failed = json.loads(file.attrs.get("failed", "{}"))
        return {int(seed): str(reason) for seed, reason in failed.items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: unreadable list of failed seeds; delete it, collect again") from (
            error
        )


def read_arrays(file: h5py.File, seed: int, wanted: list[str] | None = None) -> dict[str, Any]:
    """Reads arrays of one episode.

    Args:
      file: Open file.
      seed: Episode.
      wanted: Names such as ``"obs/tick"``; all when None.

    Returns:
      Name -> array.

    Raises:
      DataError: For links to other files, virtual datasets, strings, objects, or bad chunks.
    """
    where = f"{file.filename} {group_name(seed)}"
    root = group_name(seed)
    for name in _GROUPS:
        _check_link(file, f"{root}/{name}", where)
    names = wanted
    if names is None:
        names = [f"{name}/{key}" for name in _GROUPS for key in file[f"{root}/{name}"]]
    arrays = {}
    for name in names:
        _check_link(file, f"{root}/{name}", where)
        arrays[name] = _read_array(file, f"{root}/{name}", f"{where}: {name}")
    return arrays


def _check_link(file: h5py.File, path: str, where: str) -> None:
    # The low-level calls are ten times as fast as Group.get, and loading is thousands of them.
    try:
        kind = file.id.links.get_info(path.encode()).type
    except KeyError:
        kind = None
    if kind != h5py.h5l.TYPE_HARD:
        names = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}
        raise DataError(
            f"{where}: {path.partition('/')[2]} is {names.get(kind, 'missing')}; expected data in "
            "the same file. The file is incomplete or foreign: delete it and run the same collect "
            "again"
        )


def _read_array(file: h5py.File, path: str, where: str) -> np.ndarray:
    try:
        dataset = h5py.h5d.open(file.id, path.encode())
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} is no array ({error}); delete the file, collect again") from error
    plist = dataset.get_create_plist()
    if plist.get_layout() == h5py.h5d.VIRTUAL or plist.get_external_count():
        raise DataError(
            f"{where} is a virtual dataset or stored in another file; refused, because it could "
            "read any file on this machine. Use the original dataset"
        )
    if dataset.dtype.kind not in "biuf":
        raise DataError(f"{where} has dtype {dataset.dtype}; expected numbers or flags")
    array = np.empty(dataset.shape, dataset.dtype)
    try:
        if array.size:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    except OSError as error:
        raise DataError(
            f"{where} can't be read ({error}); the file is damaged: delete it and collect again"
        ) from error
    return array


def read_episode(file: h5py.File, seed: int, *, verify: bool = True) -> Episode:
    """Reads and validates one episode.

    Args:
      file: Open file.
      seed: Episode.
      verify: Compare the stored hash of the content too.

    Raises:
      DataError: If anything is missing, of another kind, or edited since it was written.
    """
    where = f"{file.filename} {group_name(seed)}"
    group = file.get(group_name(seed))
    if not isinstance(group, h5py.Group):
        raise DataError(f"{where} does not exist in the file")
    attrs = dict(group.attrs)
    meta = EpisodeMeta.from_attrs(attrs, where)
    if meta.seed != seed:
        raise DataError(f"{where}: its attribute says seed {meta.seed}; the file was edited")
    arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in _GROUPS}
    for name, array in read_arrays(file, seed).items():
        top, _, key = name.partition("/")
        arrays[top][key] = array
    episode = Episode(meta, **arrays)
    validate(episode, where)
    if verify and content_sha256(episode) != attrs.get("content_sha256"):
        raise DataError(
            f"{where}: the content does not match its stored hash, so it was edited or damaged "
            "after it was written; delete the file and run the same collect again"
        )
    return episode


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
