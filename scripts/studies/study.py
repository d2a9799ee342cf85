"""What a study is, and how its runs are made, carried on and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.benchmark.cell import Cell, side_by_side
from embodied.core.errors import EmbodiedError, unknown_name
from embodied.core.files import read_json, write_json
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.evaluate.probe import probe_cue
from embodied.evaluate.stats import wilson
from embodied.memory.hierarchical_chunks import HierarchicalChunks
from embodied.train.checkpoint import load
from studies.chunks_read import right_chunk_read
from studies.facts import CHUNKS_READ, FACTS, KEYFRAMES, KEYFRAMES_OFF, RIGHT_CHUNK
from studies.keyframes_off import keyframes_off

EVALUATION, PROBES, PROBE_BATCH, HELD_OUT_BATCH = "evaluation", "probe.json", 20, 5


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a study.

    Attributes:
      name: Directory and label.
      what: What it changes, in a few words.
      train: ``key=value`` of ``embodied train`` beside those of the study, or in place of one
        with the same key.
      evaluate: The same of ``embodied evaluate``.
      seeds: Training seeds.
      like: A variant whose runs it evaluates in another way, instead of training its own.
      at: Where it stands on the axis of a curve, with all others that are `like` the same.
      init: A variant whose runs, of the same seeds, its own start from.
      probe: Datasets that are probed instead of the study's, where it observes at other times.
    """

    name: str
    what: str
    train: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    like: str = ""
    at: float | None = None
    init: str = ""
    probe: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A question.

    Attributes:
      name: Directory under ``runs/studies`` and ``results/studies``.
      title: Heading of its table.
      about: A paragraph below it.
      train: ``key=value`` of every training.
      evaluate: ``key=value`` of every evaluation.
      variants: The lines; the first is the reference.
      axis: What `Variant.at` means, where the study has curves.
      probe: Datasets of demonstrations that no run learns from; the cue is looked for in what
        the policies keep and act on (`embodied.evaluate.probe`).
      held_out: Datasets of demonstrations that no run learns from, for facts about those.
      facts: Names of `studies.facts.FACTS` that stand beside success, by training seed.
    """

    name: str
    title: str
    about: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    variants: tuple[Variant, ...]
    probe: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    axis: str = ""
    facts: tuple[str, ...] = ()

    def chosen(self, names: Sequence[str]) -> list[Variant]:
        """Returns the variants of these names and those that they start from, or all."""
        known = {variant.name: variant for variant in self.variants}
        for name in names:
            if name not in known:
                raise unknown_name(f"variant of {self.name}", name, known)
        first = [known[name].init for name in names if known[name].init]
        return [known[n] for n in dict.fromkeys([*first, *names])] if names else [*self.variants]

    def made(self, variant: Variant) -> dict[str, list[Any]]:
        """Returns all words that a variant's numbers come from, as plain data.

        Returns:
          ``train``: the words of each training behind them, the first one first; ``evaluate``: the
          words of the evaluation.
        """
        known = {variant.name: variant for variant in self.variants}
        trained: Variant | None = known[variant.like] if variant.like else variant
        trainings: list[list[str]] = []
        while trained is not None:
            trainings.insert(0, list(replaced(self.train, trained.train)))
            trained = known[trained.init] if trained.init else None
        return {"train": trainings, "evaluate": list(replaced(self.evaluate, variant.evaluate))}


@dataclasses.dataclass(frozen=True)
class Job:
    """One training seed of one variant."""

    study: Study
    variant: Variant
    seed: int
    root: Path

    @property
    def run(self) -> Path:
        """The run directory."""
        return self.root / f"{self.variant.like or self.variant.name}-s{self.seed}"

    @property
    def turn(self) -> int:
        """Its place among the jobs: after the runs that it starts from or evaluates."""
        return 2 if self.variant.like else 1 if self.variant.init else 0

    @property
    def results(self) -> Path:
        """The evaluation directory."""
        suffix = f"-{self.variant.name}" if self.variant.like else ""
        return self.run / f"{EVALUATION}{suffix}"

    @property
    def cell(self) -> Cell:
        """What is trained and evaluated."""
        before = self.variant.init
        init = (f"init={self.root / f'{before}-s{self.seed}'}",) if before else ()
        return Cell(
            name=f"{self.variant.name}-s{self.seed}",
            run=self.run,
            log=self.root / f"{self.variant.name}-s{self.seed}.log",
            training=(*replaced(self.study.train, self.variant.train), *init, f"seed={self.seed}"),
            evaluations={self.results: replaced(self.study.evaluate, self.variant.evaluate)},
        )

    def work(self) -> None:
        """Trains, carrying on where an earlier try ended, evaluates and looks into what is trained.

        Raises:
          EmbodiedError: If a command fails; its output is in the log beside the run.
        """
        self.cell.work()
        if self.study.probe and not self.variant.like and not self.probes.exists():
            write_json(self.probes, self._probe())
        chunks_read = self.results / CHUNKS_READ
        if RIGHT_CHUNK in self.study.facts and not chunks_read.exists():
            write_json(chunks_read, self._chunks_read())
        off = self.results / KEYFRAMES_OFF
        if KEYFRAMES & set(self.study.facts) and not off.exists():
            write_json(off, self._keyframes_off())

    def _keyframes_off(self) -> dict[str, float]:
        """Returns how far the answers are off in demonstrations that no run learns from."""
        data = SegmentDataset(list(self.study.held_out), SegmentConfig(HELD_OUT_BATCH))
        return keyframes_off(load(self.run).policy, data, data.episodes // HELD_OUT_BATCH)

    def _chunks_read(self) -> list[dict[str, Any]]:
        """Returns what was read of each task as it was evaluated; none without chunks."""
        policy = load(self.run).policy
        if not isinstance(getattr(policy, "memory", None), HierarchicalChunks):
            return []
        asked = read_json(self.results / "results.json")["config"]
        return [
            right_chunk_read(
                policy,
                row["task"],
                row["level"],
                row["knobs"],
                asked["episodes"],
                asked["seed_start"],
                asked["batch"],
                asked["capacity"] or None,
            )
            for row in self.rows()
            if row["role"] == "policy" and row["intervene"] == "none"
        ]

    @property
    def probes(self) -> Path:
        """The file of what was found by probing."""
        return self.run / PROBES

    def _probe(self) -> dict[str, float]:
        """Returns the accuracy of each probe on each dataset."""
        policy, found = load(self.run).policy, {}
        for path in self.variant.probe or self.study.probe:
            data = SegmentDataset(path, SegmentConfig(PROBE_BATCH, privileged=True))
            batches = data.episodes // PROBE_BATCH
            for name, result in probe_cue(policy, data, batches).items():
                found[f"{data.tasks[0]}: cue {name}"] = result.accuracy
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the evaluation."""
        return list(read_json(self.results / "results.json")["rows"])


def replaced(words: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Returns ``key=value`` words with `own` behind them, and in place of those of the same key."""
    keys = {word.partition("=")[0] for word in own}
    return (*(word for word in words if word.partition("=")[0] not in keys), *own)


def jobs(study: Study, names: Sequence[str], root: Path) -> list[Job]:
    """Returns the jobs of the chosen variants, each behind those whose runs it needs."""
    chosen = study.chosen(names)
    made = [Job(study, v, seed, root / study.name) for v in chosen for seed in v.seeds]
    return sorted(made, key=lambda job: job.turn)


def work(todo: Sequence[Job], jobs: int) -> None:
    """Does the jobs, some at a time, each on one thread.

    Raises:
      EmbodiedError: Naming those that failed, once all others are done.
    """
    failed: dict[str, str] = {}
    for turn in sorted({job.turn for job in todo}):  # what needs another's runs waits for them
        some = [job for job in todo if job.turn == turn]
        failed |= side_by_side([job.work for job in some], [job.cell.name for job in some], jobs)
    if failed:
        raise EmbodiedError(f"{len(failed)} runs failed: {', '.join(failed)}")


@dataclasses.dataclass(frozen=True)
class Line:
    """What a variant came to.

    Attributes:
      variant: The variant.
      successes, n: Over all tasks and seeds.
      by_seed: Success of each training seed.
      followed: Share of swapped memories that were followed; None where none was swapped.
      extra: Further named shares.
      facts: Further named numbers, one a training seed.
    """

    variant: Variant
    successes: int
    n: int
    by_seed: tuple[float, ...]
    followed: float | None
    extra: dict[str, float]
    facts: dict[str, tuple[float | None, ...]] = dataclasses.field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of success."""
        return wilson(self.successes, self.n)


def read(done: Sequence[Job]) -> list[Line]:
    """Returns a line for each variant all of whose seeds are evaluated."""
    lines = []
    for variant in dict.fromkeys(job.variant for job in done):
        own = [job for job in done if job.variant is variant]
        if not all((job.results / "results.json").exists() for job in own):
            continue
        rows = [[row for row in job.rows() if row["role"] == "policy"] for job in own]
        plain = [[row for row in some if row["intervene"] == "none"] for some in rows]
        swapped = [row for some in rows for row in some if row["intervene"] == "swapped"]
        wins = [sum(row["successes"] for row in some) for some in plain]
        counts = [sum(row["n"] for row in some) for some in plain]
        tried = sum(row["swapped"] for row in swapped)
        followed = sum(row["followed"] for row in swapped) / tried if tried else None
        lines.append(
            Line(
                variant,
                sum(wins),
                sum(counts),
                tuple(w / n for w, n in zip(wins, counts, strict=True)),
                followed,
                _mean([read_json(job.probes) for job in own if job.probes.exists()]),
                {f: tuple(FACTS[f].of(j.run, j.results) for j in own) for f in own[0].study.facts},
            )
        )
    return lines


def _mean(found: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each number over training seeds."""
    names = dict.fromkeys(name for some in found for name in some)
    return {name: sum(some[name] for some in found) / len(found) for name in names}
