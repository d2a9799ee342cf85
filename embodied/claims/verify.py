"""Replaying a claim: the stored checkpoint, the same seeds, rows and batch, compared by outcome.

On the processor type that published the claim every outcome must be equal, the episode's
length included. Another type rounds differently, and contacts amplify the last bit: there the
length is not compared, and an outcome may differ with a chance of 5 %. More differing outcomes
than that chance explains, by an exact binomial test at 5 %, fail; what is allowed is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from embodied.claims.index import (
    SWAPPED_EPISODES,
    claim_checkpoint,
    claim_episodes,
    find_claim,
    results_root,
)
from embodied.config import from_plain
from embodied.core.errors import CheckpointError, DataError
from embodied.core.files import read_json
from embodied.evaluate import api, provenance
from embodied.evaluate.results import EpisodeResult, read_episodes
from embodied.evaluate.stats import binomial_sf
from embodied.train.checkpoint import MODEL_FILE, LoadedPolicy, load

ALLOWED_ELSEWHERE = 0.05
"""Chance that an outcome differs on another processor."""

SIGNIFICANCE = 0.05
"""As many differing outcomes or more, if less probable than this at that chance, fail."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One replayed episode; `differences` maps a field to (published, replayed)."""

    published: EpisodeResult
    replayed: EpisodeResult
    differences: dict[str, tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Verification:
    """What a replay found.

    Attributes:
      claim: The claim's id.
      comparisons: One for each replayed episode.
      same_processor: Whether this is the processor type that published the claim.
      published_on: That processor.
    """

    claim: str
    comparisons: tuple[Comparison, ...]
    same_processor: bool
    published_on: str

    @property
    def differing(self) -> list[Comparison]:
        """Episodes whose outcome is not the published one."""
        return [c for c in self.comparisons if c.differences]

    @property
    def allowed(self) -> int:
        """How many may differ here."""
        total = 0 if self.same_processor else len(self.comparisons)
        chances = [binomial_sf(k, total, ALLOWED_ELSEWHERE) for k in range(1, total + 1)]
        return sum(chance >= SIGNIFICANCE for chance in chances)

    @property
    def exit_code(self) -> int:
        """0 if no more outcomes differ than may, else 1."""
        return 0 if len(self.differing) <= self.allowed else 1

    def text(self) -> str:
        """Returns the verdict and each difference in words."""
        total, differing = len(self.comparisons), len(self.differing)
        lines = [f"{self.claim}: {total - differing} of {total} replayed episodes are as published"]
        for c in self.differing:
            what = ", ".join(f"{k} {old!r} -> {new!r}" for k, (old, new) in c.differences.items())
            lines.append(f"  {c.published.task} seed {c.published.seed}: {what}")
        if not self.same_processor:
            lines.append(
                f"published on another processor ({self.published_on}): lengths are not compared, "
                f"and an outcome may differ with a chance of {100 * ALLOWED_ELSEWHERE:g} %: more "
                f"than {self.allowed} of {total} are improbable; more episodes tell better"
            )
        lines.append("verified" if self.exit_code == 0 else "NOT verified")
        return "\n".join(lines)


def verify_claim(
    name: str, episodes: int = 5, device: str = "cpu", root: Path | None = None
) -> Verification:
    """Replays `episodes` rows of a claim, and as many of its swapped ones.

    Args:
      name: The claim's id.
      episodes: How many of each, from the first on.
      device: Where to run the policy.
      root: Directory of results; by default the package's own.

    Raises:
      ConfigError: If the claim is unknown or ships no checkpoint.
      DataError: If its episodes are not as many as the index says.
      CheckpointError: If the checkpoint is not the one that was measured.
    """
    root = root or results_root()
    row = find_claim(name, root)
    directory = claim_checkpoint(name, root)
    evaluation, role = _evaluation(row, root, provenance.sha256(directory / MODEL_FILE))
    plain = {k: v for k, v in evaluation["config"].items() if k not in ("source", "twin", "out")}
    plain |= {"device": device, "progress": False, "workers": 0}
    config = from_plain(api.EvaluateConfig, {"source": str(directory), **plain})
    torch.set_num_threads(config.threads)
    loaded = load(directory, device)
    train_seed = evaluation[role]["train"].get("seed")
    compared: list[Comparison] = []
    machine = evaluation["machine"]
    same = (provenance.cpu_model(), device) == (machine["cpu"], machine["device"])
    files = [claim_episodes(row, root / name)]
    if (swaps := root / name / SWAPPED_EPISODES).exists():
        files.append(read_episodes(swaps))
    for published in files:
        chosen = spread([e for e in published if e.train_seed == train_seed], episodes)
        compared += _compare(config, loaded, chosen, with_length=same)
    return Verification(name, tuple(compared), same, machine["gpu"] or machine["cpu"])


def spread(rows: Sequence[EpisodeResult], count: int) -> list[EpisodeResult]:
    """Returns `count` rows spread evenly over all, the first and the last among them."""
    if not rows or count < 1:
        raise DataError(f"nothing to replay: {len(rows)} published episodes, {count} asked for")
    count = min(count, len(rows))
    step = (len(rows) - 1) / max(1, count - 1)
    return [rows[round(i * step)] for i in range(count)]


def _compare(
    config: api.EvaluateConfig,
    loaded: LoadedPolicy,
    published: Sequence[EpisodeResult],
    with_length: bool,
) -> list[Comparison]:
    compared = []
    groups = sorted({(e.task, e.level, e.intervene) for e in published})
    for task, level, intervene in groups:
        group = [e for e in published if (e.task, e.level, e.intervene) == (task, level, intervene)]
        setting = api.settings(dataclasses.replace(config, task=[task], level=level), loaded)[0]
        seeds, places = [e.seed for e in group], [e.row for e in group]
        replayed = api.replay(loaded, config, setting, intervene, seeds, rows=places)
        for old, new in zip(group, replayed, strict=True):
            before, after = old.outcome(), new.outcome()
            differences = {
                key: (before[key], after[key])
                for key in before
                if before[key] != after[key] and (with_length or key != "length")
            }
            compared.append(Comparison(old, new, differences))
    return compared


def _evaluation(row: dict[str, Any], root: Path, sha256: str) -> tuple[dict[str, Any], str]:
    """Returns the stored evaluation whose network is the shipped one, and its role there."""
    for path in sorted((root / row["id"]).glob("evaluation-*.json")):
        evaluation = read_json(path)
        for role in ("policy", "twin"):
            network = evaluation[role]
            measured = network and network["memory"] == (row["memory"] or "")
            if measured and network["sha256"] == sha256:
                return evaluation, role
    raise CheckpointError(
        f"the checkpoint of claim {row['id']!r} is not the network that was measured (its sha256 "
        f"{sha256[:12]} is in no evaluation of the claim); it was changed since"
    )
