"""Batches of episodes for imitation learning.

Order is a pure function of (seed, stage, step), so resuming needs these only. Pictures stay uint8
until the policy. Everything is kept in memory when it fits; otherwise episodes are read from
the shards, the next batch while the current one is being learnt from. For a GPU batches are made
ahead in any case, and lie in page-locked memory. Of the observations only
those are read that `SegmentDataset.select` asks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from embodied.core import rng, ticks
from embodied.core.errors import ConfigError, DataError, unknown_name
from embodied.core.specs import ArraySpec, Interface
from embodied.core.task import EnvConfig
from embodied.core.types import Segment
from embodied.data.goals import hindsight_goals
from embodied.data.normalization import Statistics, statistics
from embodied.data.orders import ORDERS, Piece, build_order
from embodied.data.reader import EpisodeStore, check_same_kind
from embodied.data.record import INSTRUCTION

_GOAL_INPUTS = ("expert_action", "held", "gate", "phase", "eef_pos_world_m")


FeatureReader = Callable[[int, int], np.ndarray]
"""Episode of a store and which copy of it -> array [observation ticks, ...]."""


@dataclasses.dataclass
class SegmentConfig:
    """How a `SegmentDataset` draws batches.

    Attributes:
      batch_episodes: B.
      seed: Seed of the order.
      stages: For each stage of a curriculum the sampling weight of each dataset; empty for one
        stage of equal weights.
      order: ``"segments"``, ``"group"`` or ``"stream"``; see `embodied.data.orders`.
      order_ticks: Observation ticks of a row: the longest segment (0 for whole episodes; longer
        ones give a random window), those of a group, or those of a stream's step.
      split: ``"train"``, ``"validation"`` or ``"all"``; by episode seed.
      validation_fraction: Share of the episodes that the train split leaves out.
      cache: ``"auto"`` keeps everything in memory when it takes at most half of what is free;
        ``"always"`` and ``"never"`` decide by hand.
      verify: Compare every shard with its sha256 when opening.
      privileged: Also give ``extras["privileged_cue"]`` int64 [B, T]: the hidden answer, for
        probes and for losses that published claims don't use.
      pinned: Batches lie in page-locked memory, from which a CUDA device copies while it works;
        the next one is made while the current one is being learnt from. Needs such a device.
    """

    batch_episodes: int = 8
    seed: int = 0
    stages: list[list[float]] = dataclasses.field(default_factory=list)
    order: str = "segments"
    order_ticks: int = 0
    split: str = "all"
    validation_fraction: float = 0.0
    cache: str = "auto"
    verify: bool = True
    privileged: bool = False
    pinned: bool = False

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation", "all"):
            raise ConfigError(f"split must be train, validation or all, got {self.split!r}")
        if self.cache not in ("auto", "always", "never"):
            raise ConfigError(f"cache must be auto, always or never, got {self.cache!r}")
        if not 0 <= self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction lies in [0, 1), got {self.validation_fraction}")
        if self.order not in ORDERS:
            raise unknown_name("order of the data", self.order, ORDERS)
        least = 0 if self.order == "segments" else 2
        if self.order_ticks < least:
            raise ConfigError(
                f"order_ticks must be >= {least} for order={self.order}, got {self.order_ticks}"
                + (" (published: 16 for a group, 32 for a stream)" if least else "")
            )


class SegmentDataset:
    """Segments of one or several datasets (multi-task) that were collected alike.

    Args:
      paths: Dataset directories.
      config: How to draw.

    Attributes:
      interface: What a policy for this data is built for.
      tasks: Task of each dataset.
      levels: Level of each dataset.
      env: How the environments were made; knob overrides only where all datasets share them.
      label_horizon: Actions in a label chunk.
      episodes: Episodes in this split.
      seed_range: Smallest and largest episode seed, as a list.

    Raises:
      DataError: For damaged, unfinished or unlike datasets.
    """

    def __init__(self, paths: list[str] | str | Path, config: SegmentConfig | None = None) -> None:
        self.config = config or SegmentConfig()
        paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if not paths:
            raise ConfigError("no dataset given; collect one with `embodied collect`")
        self.stores = [EpisodeStore(path, verify=self.config.verify) for path in paths]
        check_same_kind(self.stores)
        self._members = [self._split(store) for store in self.stores]
        self._rows = [{index: row for row, index in enumerate(m)} for m in self._members]
        self._order = build_order(
            self.config.order,
            [
                np.array([store.episodes[i].ticks for i in rows], np.int64)
                for store, rows in zip(self.stores, self._members, strict=True)
            ],
            self.config.stages,
            self.config.batch_episodes,
            self.config.order_ticks,
            self.config.seed,
        )
        settings = [store.manifest.settings for store in self.stores]
        self.tasks: list[str] = [s["task"] for s in settings]
        self.levels: list[str] = [s["level"] for s in settings]
        env = dict(settings[0]["env"])
        if any(s["env"]["knobs"] != env["knobs"] for s in settings):
            env["knobs"] = {}
        self.env = EnvConfig(**env)
        self.episodes = sum(map(len, self._members))
        seeds = [s.episodes[i].seed for s, rows in zip(self.stores, self._members, strict=True)
                 for i in rows]  # fmt: skip
        self.seed_range = [min(seeds), max(seeds)]
        self.label_horizon: int = min(s["label_horizon"] for s in settings)
        self.interface = self._interface()
        # Filled when the first episode is asked for: who refuses a dataset need not wait for it.
        self._columns: dict[int, tuple[dict[str, np.ndarray], np.ndarray]] = {}
        self._features: dict[str, list[FeatureReader]] = {}
        self._copies = 1
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: dict[tuple[int, int], Future[Segment]] = {}
        self.select(self.interface.observations)

    def _split(self, store: EpisodeStore) -> list[int]:
        rows = range(len(store))
        if self.config.split == "all":
            return list(rows)
        out = [
            rng.derive(store.episodes[i].seed, "validation").random()
            < self.config.validation_fraction
            for i in rows
        ]
        return [i for i in rows if out[i] == (self.config.split == "validation")]

    def _interface(self) -> Interface:
        manifest = self.stores[0].manifest
        settings = manifest.settings
        return Interface(
            observations=manifest.observations,
            action_size=manifest.action_size,
            control_hz=settings["control_hz"],
            observe_on=settings["observe_on"],
            observe_period_s=settings["observe_period_s"],
            max_ticks=max(map(_longest, self.stores)),
        )

    def select(self, keys: Iterable[str]) -> None:
        """Leaves all observations but these out of batches, and of memory."""
        self.close()
        wanted = set(keys)
        unknown = sorted(wanted - set(self.interface.observations))
        if unknown:
            raise DataError(
                f"{self.stores[0].path} has no observations {', '.join(unknown)}; it has "
                f"{', '.join(sorted(self.interface.observations))}"
            )
        self._keys = sorted(wanted - {INSTRUCTION})
        self._instructed = INSTRUCTION in wanted
        self._columns, self._in_memory = {}, self._fits()

    def close(self) -> None:
        """Ends reading ahead; the next batch begins it anew."""
        if self._thread is not None:
            self._thread.shutdown()
        self._thread, self._ahead = None, {}

    # ------------------------------------------------------------ batches

    def pieces(self, step: int, stage: int = 0) -> list[list[Piece]]:
        """Returns which ticks each row of batch `step` holds; a pure function.

        Episodes are positions in the dataset's `EpisodeStore`.
        """
        return [
            [dataclasses.replace(p, episode=self._members[p.dataset][p.episode]) for p in row]
            for row in self._order.rows(step, stage)
        ]

    def batch(self, step: int, stage: int = 0) -> Segment:
        """Returns batch number `step` of a stage as torch tensors; T is its longest row.

        ``extras`` holds ``goal_pos_world_m`` float32 [B, T, 3], ``goal_valid`` bool [B, T] and
        ``dataset_index`` int64 [B, T] (position in `paths`); for data observed on decisions also
        ``keyframe`` float32 [B, T, 9] (see `schema.KEYFRAME_NAMES`) and ``keyframe_valid`` bool
        [B, T].
        """
        if self._in_memory and not self.config.pinned:
            return self._build(step, stage)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "segments")
        now, following = (step, stage), (step + 1, stage)
        ready = self._ahead.pop(now, None) or self._thread.submit(self._build, *now)
        self._ahead = {following: self._thread.submit(self._build, *following)}
        return ready.result()

    def _build(self, step: int, stage: int) -> Segment:
        drawn = enumerate(self.pieces(step, stage))
        segment = _stack([self._row(pieces, step, row) for row, pieces in drawn])
        return segment.map(torch.Tensor.pin_memory) if self.config.pinned else segment

    def whole(self, dataset: int, episode: int) -> Segment:
        """Returns an episode of a dataset's `EpisodeStore`, B = 1, read from its shard."""
        ticks = slice(0, self.stores[dataset].episodes[episode].ticks)
        piece = Piece(dataset, episode, ticks)
        return _stack([self._ticks(piece, self._read(dataset, episode, self._keys))])

    def _row(self, pieces: list[Piece], step: int, row: int) -> dict[str, np.ndarray]:
        """Puts the ticks of a row one behind the other."""
        parts = []
        for piece in pieces:
            part = self._ticks(piece, self._episode(piece.dataset, piece.episode))
            copy = self._copy(piece, step, row)
            for name, values in self._features.items():
                part[f"obs/{name}"] = values[piece.dataset](piece.episode, copy)[piece.ticks]
            parts.append(part)
        if len(parts) == 1:
            return parts[0]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _copy(self, piece: Piece, step: int, row: int) -> int:
        """Returns which kept copy of an episode a row of a batch gets; a pure function."""
        # A stream meets an episode in several batches, each of which goes on with the last.
        what = (piece.dataset, piece.episode) if self.config.order == "stream" else (step,)
        draw = rng.derive(self.config.seed, "copy", row, *what)
        return int(draw.integers(self._copies))

    def _ticks(self, piece: Piece, episode: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the ticks of one piece of an episode, each array with the ticks first."""
        out = {key: array[piece.ticks] for key, array in episode.items() if key != INSTRUCTION}
        count = len(out["time_s"])
        if self.config.order == "group":
            # A group stands for an episode of its own, wherever in it its first tick lies.
            out["is_first"] = np.arange(count) == 0
        if self._instructed:
            text = episode[INSTRUCTION]
            out[f"obs/{INSTRUCTION}"] = np.broadcast_to(text, (count, *text.shape))
        out["extras/dataset_index"] = np.full(count, piece.dataset, np.int64)
        if self.config.privileged:
            cue = self.stores[piece.dataset].episodes[piece.episode].cue
            out["extras/privileged_cue"] = np.full(count, cue, np.int64)
        return out

    def attach(self, features: dict[str, list[FeatureReader]], copies: int = 1) -> None:
        """Gives every batch further observations, worked out before.

        Args:
          features: Observation key -> for each dataset, how its episodes are read.
          copies: Copies of each episode; a batch draws one, the same for all keys.
        """
        self.close()
        self._features, self._copies = dict(features), copies

    # ------------------------------------------------------------ episodes

    def _episode(self, dataset: int, index: int) -> dict[str, np.ndarray]:
        if not self._in_memory:
            return self._read(dataset, index, self._keys)
        if dataset not in self._columns:
            self._columns[dataset] = self._load(dataset)
        columns, offsets = self._columns[dataset]
        row = self._rows[dataset][index]
        span = slice(offsets[row], offsets[row + 1])
        return {k: v[row] if k == INSTRUCTION else v[span] for k, v in columns.items()}

    def _read(self, dataset: int, index: int, keys: list[str]) -> dict[str, np.ndarray]:
        """Reads an episode with these observations from its shard, and checks it."""
        names = [f"control/{key}" for key in _GOAL_INPUTS]
        names += [f"obs/{key}" for key in ("tick", "time_s", "act_mask", INSTRUCTION, *keys)]
        names += ["label/chunk", "label/chunk_valid"]
        on_decisions = self.interface.observe_on == ticks.DECISION
        names += ["label/keyframe", "label/keyframe_valid"] if on_decisions else []
        raw = self.stores[dataset].read_arrays(index, names)
        self._check(raw, dataset, index)
        control = {key: raw[f"control/{key}"] for key in _GOAL_INPUTS}
        goal, goal_valid = hindsight_goals(control, raw["obs/tick"])
        first = np.zeros(len(goal), bool)
        first[0] = True
        return {
            **{f"obs/{key}": raw[f"obs/{key}"] for key in keys},
            INSTRUCTION: raw[f"obs/{INSTRUCTION}"],
            "time_s": raw["obs/time_s"].astype(np.float32),
            "is_first": first,
            "act_mask": raw["obs/act_mask"],
            "chunk": raw["label/chunk"],
            "chunk_valid": raw["label/chunk_valid"],
            "extras/goal_pos_world_m": goal,
            "extras/goal_valid": goal_valid,
            **{
                f"extras/{name.removeprefix('label/')}": array
                for name, array in raw.items()
                if name.startswith("label/keyframe")
            },
        }

    def _check(self, raw: dict[str, np.ndarray], dataset: int, index: int) -> None:
        """Refuses an episode that is not what dataset.json says, or that can't be learnt."""
        store, chunk = self.stores[dataset], raw["label/chunk"]
        problems, count = [], store.episodes[index].ticks
        once = ("control", f"obs/{INSTRUCTION}")
        if others := {len(a) for n, a in raw.items() if not n.startswith(once)} - {count}:
            problems.append(f"{', '.join(map(str, sorted(others)))} observations, not {count}")
        size = (self.label_horizon, self.interface.action_size)
        if chunk.shape[1:] != size:
            problems.append(f"label chunks of {list(chunk.shape[1:])}, expected {list(size)}")
        elif not np.abs(chunk).max(initial=0.0) <= 1.0 + 1e-6:  # also catches NaN
            problems.append("a label chunk with NaN or an action outside [-1, 1]")
        keyframe = raw.get("label/keyframe")
        if keyframe is not None and not np.isfinite(keyframe).all():
            problems.append("a keyframe label with NaN or infinity")
        for key, spec in self.interface.observations.items():
            array = raw.get(f"obs/{key}")
            if array is None:
                continue
            shape = array.shape if key == INSTRUCTION else array.shape[1:]
            if (shape, array.dtype.name) != (spec.shape, spec.dtype):
                problems.append(
                    f"{key} as {array.dtype.name}{list(shape)}, expected "
                    f"{spec.dtype}{list(spec.shape)}"
                )
        if problems:
            ref = store.episodes[index]
            raise DataError(
                f"{ref.path}, seed {ref.seed}, does not fit {store.path}/dataset.json: it holds "
                f"{'; '.join(problems)}. One of them was edited: see `embodied data check "
                f"{store.path}`, then delete the file and collect again"
            )

    def _load(self, dataset: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Reads all episodes of a dataset's split into one array a key."""
        members, store = self._members[dataset], self.stores[dataset]
        counts = [store.episodes[i].ticks for i in members]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        columns: dict[str, np.ndarray] = {}
        bar = tqdm(members, desc=f"load {store.path}", unit="ep", delay=3, leave=False)
        for row, index in enumerate(bar):
            for key, array in self._read(dataset, index, self._keys).items():
                if key not in columns:
                    lead = len(members) if key == INSTRUCTION else int(offsets[-1])
                    shape = array.shape if key == INSTRUCTION else array.shape[1:]
                    columns[key] = np.empty((lead, *shape), array.dtype)
                at = row if key == INSTRUCTION else slice(offsets[row], offsets[row + 1])
                columns[key][at] = array
        store.close()
        return columns, offsets

    def _fits(self) -> bool:
        if self.config.cache != "auto":
            return self.config.cache == "always"
        specs: dict[str, ArraySpec] = self.interface.observations
        tick = sum(specs[key].zeros().nbytes for key in self._keys)
        total = sum(
            store.episodes[i].ticks
            for store, rows in zip(self.stores, self._members, strict=True)
            for i in rows
        )
        return tick * total <= _free_memory_bytes() / 2

    # ------------------------------------------------------------ statistics

    def statistics(self, keys: Collection[str] | None = None) -> Statistics:
        """Returns joint normalisation statistics over every episode of this split.

        Args:
          keys: Observations that they are wanted of, all that were selected by default. Those
            of actions and keyframes are always among them.
        """
        few = [key for key in self._keys if keys is None or key in keys]
        whole = few == self._keys
        return statistics(
            self._episode(dataset, index) if whole else self._read(dataset, index, few)
            for dataset, rows in enumerate(self._members)
            for index in rows
        )


def _stack(rows: list[dict[str, np.ndarray]]) -> Segment:
    """Makes a batch of rows of ticks, padded to the longest."""
    longest = max(len(row["time_s"]) for row in rows)
    arrays = {key: _pad([row[key] for row in rows], longest) for key in rows[0]}
    valid = np.zeros((len(rows), longest), bool)
    for b, row in enumerate(rows):
        valid[b, : len(row["time_s"])] = True
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    seen, prefix = "obs/", "extras/"
    return Segment(
        obs={k.removeprefix(seen): v for k, v in tensors.items() if k.startswith(seen)},
        time_s=tensors["time_s"],
        is_first=tensors["is_first"],
        valid=torch.from_numpy(valid),
        act_mask=tensors["act_mask"],
        chunk=tensors["chunk"],
        chunk_valid=tensors["chunk_valid"],
        extras={k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)},
    )


def _pad(parts: list[np.ndarray], length: int) -> np.ndarray:
    out = np.zeros((len(parts), length, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


def _longest(store: EpisodeStore) -> int:
    """Returns a bound on the observation ticks of any episode of the dataset's task."""
    settings, seen = store.manifest.settings, max(ref.ticks for ref in store.episodes)
    if settings["observe_on"] != ticks.PERIOD:
        return 2 * seen  # decisions are not bounded by time; failed keyframes add some
    period = ticks.period_ticks(settings["observe_period_s"], settings["control_hz"])
    return max(seen, ticks.most_observations(store.manifest.horizon, period))


def _free_memory_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 * 2**30
