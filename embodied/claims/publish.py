"""Publishing a claim: from evaluation directories to ``results/``; see `embodied.claims.index`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embodied.claims import report
from embodied.claims.index import (
    CHECKPOINT,
    EPISODES,
    FIELDS,
    INDEX,
    SWAPPED_EPISODES,
    find_claim,
    read_index,
    results_root,
)
from embodied.config import from_plain, load_yaml, save_yaml, to_plain
from embodied.core.errors import ConfigError, DataError
from embodied.core.files import held_directory, read_json, sha256, write_atomic, write_json
from embodied.data.manifest import settings_difference
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.provenance import shown
from embodied.evaluate.results import (
    NONE,
    RESULTS,
    SWAPPED,
    EpisodeResult,
    read_results,
    read_role,
    write_episodes,
)
from embodied.evaluate.summary import summarise, swap_summary
from embodied.evaluate.twins import MEMORYLESS, SETTING, check_memoryless, check_setting
from embodied.train.checkpoint import MODEL_FILE, POLICY_FILE, resolve

SAME = (
    "level", "knobs", "policy", "memory", "control", "visuals", "observation", "cameras",
    "image_size", "batch", "ceiling", "expert",
)  # fmt: skip
"""Fields of a row that evaluations must share to be pooled into one claim."""

SAME_CONFIG = ("executor", "clock", "capacity")
"""Keys of their configuration that they must share."""

CONFIG_FILE = "config.yaml"
MAX_CHECKPOINT_MB = 25.0
_REPLACED = ".replaced.partial"


def add_claim(
    evaluations: Sequence[str | Path],
    *,
    task: str | None = None,
    level: str | None = None,
    suite: str | None = None,
    role: str = "policy",
    intervene: str = NONE,
    name: str | None = None,
    swapped: Sequence[str | Path] | None = None,
    twin: str | None = None,
    checkpoint: str | Path | None = None,
    train_config: str | Path | None = None,
    replace: bool = False,
    root: Path | None = None,
) -> dict[str, Any]:
    """Publishes one claim from evaluation directories.

    Args:
      evaluations: Results directories; several of equal settings and different training seeds
        are pooled (the interval then counts episodes, the report lists each training seed).
      task: Which task of them; may be left out where there is one.
      level: Which level of it; may be left out where there is one.
      suite: Pools all tasks and levels instead, under this name; ceiling and expert are their
        means.
      role: ``"policy"``, or ``"twin"`` for the twin that was evaluated beside it.
      intervene: Which intervention's rows.
      name: The claim's id; by default policy, task, size, observation, and what is unusual.
      swapped: Results directories with ``intervene=swapped`` rows of the same networks, each
        once and in the same setting; by default those of `evaluations` that have such rows.
      twin: Id of the twin's claim, published before.
      checkpoint: Run or checkpoint directory to ship; None ships nothing, unless an equal one
        is published already.
      train_config: ``config.yaml`` of the training run; by default the one of `checkpoint`'s run.
      replace: Whether an existing claim of that id is replaced.
      root: Results directory; by default the package's own.

    Returns:
      The row of the index.

    Raises:
      DataError: If the evaluations don't belong together, or another process publishes.
      ConfigError: For an id that is taken or malformed, a claim whose checkpoint others use, a
        twin that is none, or privileged training.
    """
    root = Path(root or results_root())
    if bool(task) and bool(suite):
        raise ConfigError("a claim is about one task or about a suite, not both")
    sources = [_Source(Path(path)) for path in evaluations]
    rows = [row for source in sources for row in source.rows(task, level, role, intervene)]
    settings = list(dict.fromkeys((row["task"], row["level"]) for row in rows))
    if not suite and len(settings) > 1:
        held = ", ".join(map(" ".join, settings))
        raise DataError(f"the evaluations hold {held}; say task= and level=, or suite=")
    swap_sources = sources if swapped is None else [_Source(Path(path)) for path in swapped]
    _check_together([*sources, *swap_sources], rows, per_task=bool(suite))
    train_seeds = [source.train_seed(role) for source in sources]
    if len(set(train_seeds)) != len(train_seeds):
        raise DataError(f"training seeds repeat: {train_seeds}; pool each network once")
    swaps = _swapped(swap_sources, rows, [source.network(role) for source in sources], role)
    episodes = [
        e
        for source in sources
        for e in source.episodes(role)
        if (e.task, e.level) in settings and e.intervene == intervene
    ]
    first = rows[0]
    numbers = summarise(episodes, _mean(rows, "ceiling"), _mean(rows, "expert"))
    row = {field: numbers.get(field, first.get(field)) for field in FIELDS}
    row |= {
        "task": suite or first["task"],
        "level": "-".join(dict.fromkeys(lev for _, lev in settings)),
        "knobs": {} if suite else first["knobs"],
        "memory": first["memory"] or None,
        "intervene": intervene,
        "train_seeds": train_seeds,
        "eval_seeds": [min(e.seed for e in episodes), max(e.seed for e in episodes)],
        "command": sources[0].results["command"],
        "commit": sources[0].results["commit"],
        "twin": twin,
        "checkpoint": None,
    }
    if swaps:
        row["swap_followed"] = swap_summary(swaps)["swap_followed"]
    row["id"] = name or default_id(row, suite)
    root.mkdir(parents=True, exist_ok=True)
    with held_directory(root):
        _restore(root)
        if twin is not None:
            _check_twin(rows, twin, root)
        _check_id(row, root, replace)
        _publish(row, sources, role, episodes, swaps, checkpoint, train_config, root)
    return row


def default_id(row: dict[str, Any], suite: str | None = None) -> str:
    """Returns the id of a row: policy, task, size, observation, then whatever is unusual."""
    knobs = row["knobs"]
    size = f"k{knobs['K']}" if "K" in knobs else row["level"]
    words = [row["policy"], row["task"], size, row["observation"]]
    if suite:
        words = ["suite", suite, row["policy"], row["level"], row["observation"]]
    if row["memory"] not in (None, "perceptual_cognitive"):
        words.append(row["memory"])
    if row["intervene"] != NONE:
        words.append(row["intervene"])
    return "-".join(words).lower()


class _Source:
    """One results directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = read_results(path)

    def rows(
        self, task: str | None, level: str | None, role: str, intervene: str
    ) -> list[dict[str, Any]]:
        rows = [
            row
            for row in self.results["rows"]
            if row["role"] == role
            and row["intervene"] == intervene
            and task in (None, row["task"])
            and level in (None, row["level"])
        ]
        if not rows:
            names = ("role", "task", "level", "intervene")
            held = [tuple(r[n] for n in names) for r in self.results["rows"]]
            raise DataError(
                f"{self.path} has no row of role {role!r}, task {task or 'any'}, level "
                f"{level or 'any'}, intervention {intervene!r}; it has {held}"
            )
        if any(row["privileged"] for row in rows):
            raise ConfigError(
                f"{self.path}: this policy was trained with a privileged label (cue_loss > 0); "
                "such results are not published"
            )
        return rows

    def train_seed(self, role: str) -> int:
        return self.results[role]["train"].get("seed")

    def network(self, role: str) -> str:
        """Returns the hash of the weights that were measured."""
        return str(self.results[role]["sha256"])

    def asked(self) -> dict[str, Any]:
        """Returns what was asked for of `SAME_CONFIG`; older results leave out defaults."""
        where = str(self.path / RESULTS)
        config = from_plain(EvaluateConfig, self.results["config"], source=where)
        return {name: to_plain(getattr(config, name)) for name in SAME_CONFIG}

    def episodes(self, role: str) -> list[EpisodeResult]:
        return read_role(self.path, self.results, role)


def _check_together(
    sources: Sequence[_Source], rows: Sequence[dict[str, Any]], per_task: bool
) -> None:
    first = sources[0]
    for source in sources[1:]:
        if odd := settings_difference(first.asked(), source.asked()):
            raise DataError(
                f"{first.path} and {source.path} differ and can't be pooled: {'; '.join(odd)}"
            )
    for row in rows:
        same = (row["task"], row["level"])
        other = next(r for r in rows if (r["task"], r["level"]) == same)
        fields = [f for f in (*SAME, "eval_seeds") if row[f] != other[f]]
        if fields:
            both = {f: (other[f], row[f]) for f in fields}
            raise DataError(f"evaluations of {row['task']} differ and can't be pooled: {both}")
    if per_task:
        counts = {row["n"] for row in rows}
        if len(counts) > 1:
            raise DataError(f"a suite needs equally many episodes of each task, got {counts}")


def _swapped(
    sources: Sequence[_Source],
    plain: Sequence[dict[str, Any]],
    networks: Sequence[str],
    role: str,
) -> list[EpisodeResult]:
    """Returns the episodes with swapped memories of a claim's tasks and levels.

    Args:
      sources: Where they may be.
      plain: The claim's rows.
      networks: Hashes of its networks.
      role: Its role; a twin has no memory to swap.

    Raises:
      DataError: If they are of another network or setting, or of one network twice.
    """
    if role != "policy":
        return []
    first = {(row["task"], row["level"]): row for row in plain}
    episodes: list[EpisodeResult] = []
    measured: list[tuple[str, str, str]] = []
    for source in sources:
        for row in source.results["rows"]:
            place = (row["task"], row["level"])
            if (row["role"], row["intervene"]) != (role, SWAPPED) or place not in first:
                continue
            # A replay of the claim takes the batch of its plain episodes.
            fields = (*SETTING, "batch")
            if odd := [field for field in fields if row[field] != first[place][field]]:
                both = {field: (first[place][field], row[field]) for field in odd}
                raise DataError(f"{source.path} swaps memories in another setting: {both}")
            measured.append((source.network(role), *place))
        found = [e for e in source.episodes(role) if e.intervene == SWAPPED]
        episodes += [e for e in found if (e.task, e.level) in first]
    if strange := {network for network, *_ in measured} - set(networks):
        raise DataError(
            f"memories were swapped of networks that the claim is not about (sha256 "
            f"{', '.join(sorted(network[:12] for network in strange))}); name the evaluations of "
            "its own"
        )
    if len(set(measured)) != len(measured):
        raise DataError("memories of one network are swapped in several evaluations; name one")
    return episodes


def _mean(rows: Sequence[dict[str, Any]], field: str) -> Any:
    values = [row[field] for row in rows]
    return None if None in values else sum(values) / len(values)


def _check_twin(rows: Sequence[dict[str, Any]], twin: str, root: Path) -> None:
    """Refuses a twin's claim with a memory, or measured in another setting than `rows`."""
    what = f"claim {twin!r}"
    check_memoryless(what, find_claim(twin, root)["memory"] or "")
    measured = [
        row
        for file in sorted((root / twin).glob("evaluation-*.json"))
        for row in read_json(file)["rows"]
        if (row["memory"], row["intervene"]) == (MEMORYLESS, NONE)
    ]
    for row in rows:
        check_setting(row, measured, what)


def _check_id(row: dict[str, Any], root: Path, replace: bool) -> None:
    name, prefix = row["id"], "suite-" if row["id"].startswith("suite-") else row["policy"]
    if not re.fullmatch(r"[a-z0-9_.-]+", name) or not name.startswith(prefix):
        raise ConfigError(
            f"claim id {name!r}: expected lower case letters, digits and _.- beginning with "
            f"{row['policy']!r} (or 'suite-')"
        )
    others = read_index(root)
    if not replace and any(other["id"] == name for other in others):
        raise ConfigError(f"claim {name!r} exists already; pass replace=True or another name")
    users = [other["id"] for other in others if other["checkpoint"] == f"{name}/{CHECKPOINT}"]
    if users := [user for user in users if user != name]:
        raise ConfigError(
            f"claim {name!r} can't be replaced: {', '.join(users)} use its checkpoint; publish "
            "under another name, or replace those first by claims with their own"
        )


def _publish(
    row: dict[str, Any],
    sources: Sequence[_Source],
    role: str,
    episodes: Sequence[EpisodeResult],
    swaps: Sequence[EpisodeResult],
    checkpoint: str | Path | None,
    train_config: str | Path | None,
    root: Path,
) -> None:
    """Writes the claim's folder whole, puts it in its place, then writes the index."""
    folder = root / row["id"]
    scratch = root / f".{row['id']}.{uuid.uuid4().hex[:8]}.partial"
    scratch.mkdir(parents=True)
    try:
        write_episodes(scratch / EPISODES, episodes)
        if swaps:
            write_episodes(scratch / SWAPPED_EPISODES, swaps)
        for source in sources:
            results = dict(source.results)
            for network in ("policy", "twin"):
                if results.get(network):
                    train = _shown_places(results[network]["train"])
                    results[network] = {**results[network], "train": train}
            write_json(scratch / f"evaluation-{source.train_seed(role)}.json", results)
        for number, config in enumerate(_train_configs(checkpoint, train_config)):
            name = f"init-{number}.yaml" if number else "config.yaml"
            save_yaml(scratch / name, _shown_places(load_yaml(config)))
        row["checkpoint"] = _ship(checkpoint, sources, role, row["id"], scratch, root)
        write_atomic(scratch / "report.md", report.text(row, scratch, root))
        others = [other for other in read_index(root) if other["id"] != row["id"]]
        with _in_place(scratch, folder):
            write_json(root / INDEX, sorted([*others, row], key=lambda r: r["id"]))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _in_place(new: Path, folder: Path) -> Iterator[None]:
    """Puts `new` in the place of `folder` for the block that writes the index.

    What was there is deleted once the block has ended well, and is back after an error. A kill
    leaves it under a hidden name, from where `_restore` takes it.
    """
    old = folder.with_name(f".{folder.name}{_REPLACED}")
    try:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)  # of one that was killed just before its end
            os.replace(folder, old)
        os.replace(new, folder)
        yield
    except BaseException:
        if not new.exists():
            os.replace(folder, new)
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _restore(root: Path) -> None:
    """Puts back folders that a kill left without their successors."""
    for old in root.glob(f".*{_REPLACED}"):
        folder = root / old.name[1:].removesuffix(_REPLACED)
        if not folder.exists():
            os.replace(old, folder)


def _train_configs(checkpoint: str | Path | None, given: str | Path | None) -> list[Path]:
    """Returns the training's ``config.yaml``, then those of the runs that it started from."""
    found: list[Path] = []
    place = given if given is not None else checkpoint
    while place:
        path = Path(place)
        beside = [path, *path.resolve().parents[:2]]
        files = [path] if path.is_file() else [folder / CONFIG_FILE for folder in beside]
        config = next((file for file in files if file.exists()), None)
        if config is None or config in found:
            break
        found.append(config)
        place = load_yaml(config).get("init")
    return found


def _ship(
    checkpoint: str | Path | None,
    sources: Sequence[_Source],
    role: str,
    name: str,
    scratch: Path,
    root: Path,
) -> str | None:
    """Copies the checkpoint, or points to an equal one; returns its folder below `root`."""
    hashes = {source.results[role]["sha256"] for source in sources}
    directory = None if checkpoint is None else resolve(checkpoint)
    if directory is not None and sha256(directory / MODEL_FILE) not in hashes:
        raise DataError(f"{directory} is not a network that these evaluations measured")
    for other in read_index(root):
        if other["id"] == name or other["checkpoint"] is None:
            continue
        place = root / other["checkpoint"] / MODEL_FILE
        if place.exists() and sha256(place) in hashes:
            return other["checkpoint"]
    if directory is None:
        return None
    size_mb = (directory / MODEL_FILE).stat().st_size / 1e6
    if size_mb > MAX_CHECKPOINT_MB:
        raise ConfigError(
            f"{directory / MODEL_FILE} has {size_mb:.1f} MB; a published checkpoint may have "
            f"{MAX_CHECKPOINT_MB:g} MB, since git keeps it for ever"
        )
    (scratch / CHECKPOINT).mkdir()
    shutil.copyfile(directory / MODEL_FILE, scratch / CHECKPOINT / MODEL_FILE)
    policy = read_json(directory / POLICY_FILE)
    write_json(
        scratch / CHECKPOINT / POLICY_FILE, {**policy, "train": _shown_places(policy["train"])}
    )
    return f"{name}/{CHECKPOINT}"


def _shown_places(train: dict[str, Any]) -> dict[str, Any]:
    """Returns a run's description with its paths as results show them."""
    places = {key: shown(Path(train[key])) for key in ("init", "features") if train.get(key)}
    if train.get("data"):
        places["data"] = [shown(Path(path)) for path in train["data"]]
    return {**train, **places}
