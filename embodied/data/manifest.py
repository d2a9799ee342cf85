"""``dataset.json``: the table of contents of a dataset directory.

It repeats nothing that training needs to trust: shards carry their own content hashes, and the
manifest can be rebuilt from them. It exists so that a reader knows counts, specs and settings
without opening a shard, and can tell an edited, missing or foreign file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from embodied.core.errors import DataError
from embodied.core.files import write_atomic
from embodied.core.specs import ArraySpec
from embodied.data import shards
from embodied.data.schema import FORMAT, FORMAT_VERSION, canonical_json

MANIFEST = "dataset.json"
UNFINISHED = "unfinished"


@dataclasses.dataclass
class ShardInfo:
    """One shard file.

    Attributes:
      sha256: Hash of the file.
      bytes: Its size.
      seeds: Stored seeds, sorted.
      cues: Cue of each.
      ticks: Observation ticks of each.
      lengths: Control ticks of each.
      contents: First 16 digits of each episode's content hash.
      failed: Seed (text) -> why the demonstrator's episode was not stored.
    """

    sha256: str
    bytes: int
    seeds: list[int]
    cues: list[int]
    ticks: list[int]
    lengths: list[int]
    contents: list[str]
    failed: dict[str, str]


@dataclasses.dataclass
class Manifest:
    """Content of ``dataset.json``.

    Attributes:
      settings: What fixes the content of an episode given its seed; see `describe`.
      seed_start: First seed asked for.
      episodes: Number of seeds asked for (stored plus failed once complete).
      shard_episodes: Seeds of a shard.
      observations: Observation key -> spec.
      action_size: A.
      num_cues: Number of cue values.
      horizon: Most control ticks an episode can have.
      versions: Package -> version that collected.
      shards: File name -> contents.
      complete: Every seed asked for is stored or listed as failed.
    """

    settings: dict[str, Any]
    seed_start: int
    episodes: int
    shard_episodes: int
    observations: dict[str, ArraySpec]
    action_size: int
    num_cues: int
    horizon: int
    versions: dict[str, str]
    shards: dict[str, ShardInfo] = dataclasses.field(default_factory=dict)
    complete: bool = False

    @property
    def stored(self) -> int:
        """Number of episodes in shards."""
        return sum(len(shard.seeds) for shard in self.shards.values())

    @property
    def failed(self) -> dict[int, str]:
        """Failed seed -> reason."""
        return {int(k): v for s in self.shards.values() for k, v in s.failed.items()}

    @property
    def cue_counts(self) -> dict[int, int]:
        """Cue -> number of stored episodes, every cue present."""
        counts = dict.fromkeys(range(self.num_cues), 0)
        for shard in self.shards.values():
            for cue in shard.cues:
                counts[cue] = counts.get(cue, 0) + 1
        return counts

    @property
    def content_sha256(self) -> str:
        """Hash of all episodes' contents in seed order: equal data, equal hash."""
        rows = sorted(
            row for s in self.shards.values() for row in zip(s.seeds, s.contents, strict=True)
        )
        return hashlib.sha256(canonical_json(rows).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready plain data, with derived counts for human readers."""
        data = dataclasses.asdict(self)
        counts = {str(cue): n for cue, n in self.cue_counts.items()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **data,
            "shards": {name: data["shards"][name] for name in sorted(data["shards"])},
            "summary": {
                "stored": self.stored,
                "failed": len(self.failed),
                "cue_counts": counts,
                "content_sha256": self.content_sha256,
            },
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], where: Path) -> Manifest:
        """Rebuilds a manifest; `where` is its path for messages."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DataError(
                f"{where} is not the table of contents of a dataset of this package (expected "
                f"format {FORMAT!r}); make one with `embodied collect`"
            )
        if data.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"{where} has format_version {data.get('format_version')!r}, this package reads "
                f"{FORMAT_VERSION}; use the package version that wrote it, or collect again"
            )
        try:
            fields = {f.name: data[f.name] for f in dataclasses.fields(cls)}
            fields["observations"] = {k: ArraySpec(**v) for k, v in data["observations"].items()}
            fields["shards"] = {k: ShardInfo(**v) for k, v in data["shards"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where} was edited ({error!r}); delete it and run the same `embodied collect` "
                "again: it is rebuilt from the shards"
            ) from error
        for name in fields["shards"]:
            if Path(name).name != name or not name.endswith(".h5"):
                raise DataError(f"{where} names the shard {name!r}; expected a plain *.h5 name")
        for name, shard in fields["shards"].items():
            rows = (shard.seeds, shard.cues, shard.ticks, shard.lengths, shard.contents)
            if len(set(map(len, rows))) > 1:
                raise DataError(
                    f"{where} was edited (its lists of {name} are not equally long); delete it and "
                    "run the same `embodied collect` again: it is rebuilt from the shards"
                )
        return cls(**fields)


def load_manifest(directory: Path) -> Manifest:
    """Reads ``dataset.json``.

    Raises:
      DataError: If there is none, or it is unreadable, foreign or of another version.
    """
    path = directory / MANIFEST
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError as error:
        what = "has no dataset.json" if directory.is_dir() else "is not a directory"
        raise DataError(
            f"{directory} {what}, so it is no dataset; make one with "
            f"`embodied collect task=remember_color out={directory}`"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} can't be read ({error}); delete it and run the same `embodied collect` again: "
            "it is rebuilt from the shards"
        ) from error
    return Manifest.from_json(data, path)


def save_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes ``dataset.json`` atomically."""
    text = json.dumps(manifest.to_json(), indent=1, allow_nan=False) + "\n"
    write_atomic(directory / MANIFEST, text.encode())


def describe_shard(path: Path, data: bytes | None = None) -> ShardInfo:
    """Reads what the manifest records about an episode file, validating every episode.

    Args:
      path: The file.
      data: Its bytes when they are at hand, to save reading it twice for the hash.
    """
    info = ShardInfo("", path.stat().st_size, [], [], [], [], [], {})
    info.sha256 = hashlib.sha256(data).hexdigest() if data else shards.file_sha256(path)
    with shards.open_shard(path) as file:
        for seed in shards.episode_seeds(file):
            episode = shards.read_episode(file, seed, verify=data is None)
            info.seeds.append(seed)
            info.cues.append(episode.meta.cue)
            info.ticks.append(len(episode.obs["tick"]))
            info.lengths.append(episode.meta.length)
            info.contents.append(str(file[shards.group_name(seed)].attrs["content_sha256"])[:16])
        info.failed = {str(s): r for s, r in shards.failed_seeds(file, path).items()}
    return info


def settings_difference(one: dict[str, Any], other: dict[str, Any], path: str = "") -> list[str]:
    """Returns ``"key: here against there"`` for every leaf that differs."""
    lines = []
    for key in sorted(set(one) | set(other)):
        a, b = one.get(key, "(absent)"), other.get(key, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += settings_difference(a, b, f"{path}{key}.")
        elif a != b:
            lines.append(f"{path}{key}: {a!r} against {b!r}")
    return lines
