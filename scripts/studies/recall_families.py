"""Families of recall beside Ballet: the same three agents in each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from studies.study import Study, Variant

SEEDS = (0, 1, 2)
RULE = "policy.config.read_when=instruction_token"


@dataclasses.dataclass(frozen=True)
class Further:
    """Another question that the same agents are asked.

    Attributes:
      name: Ending of the variant's name.
      what: What is asked.
      level: Its level; empty for that of the family.
      knobs: Overrides of its knobs.
    """

    name: str
    what: str
    level: str = ""
    knobs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Family:
    """A task, what is learnt of it and where it is asked.

    Attributes:
      task: Name in the recall suite.
      what: What is recalled.
      levels: The first is learnt until 95 % of it succeeds, then all; the last is evaluated.
      steps: Of the training; the first level takes at most `first` of them.
      first: See `steps`.
      chunk: Ticks of a chunk.
      read: When memory is read; empty: at every tick.
      train: Further options of its trainings.
      further: What else is asked.
    """

    task: str
    what: str
    levels: tuple[str, ...]
    steps: int
    first: int
    chunk: int
    read: str = RULE
    train: tuple[str, ...] = ()
    further: tuple[Further, ...] = ()

    def trained(self) -> tuple[str, ...]:
        """Returns the options of a training."""
        tasks = ",".join([f"recall/{self.task}"] * len(self.levels))
        options = (f"task=[{tasks}]", f"levels=[{','.join(self.levels)}]", f"steps={self.steps}")
        if len(self.levels) == 1:
            return (*options, *self.train)
        n = len(self.levels) - 1
        first = f"{{steps: {self.first}, weights: {[1] + [0] * n}, until: 0.95}}"
        rest = f"{{steps: 1, weights: {[1] + [3] * n}}}"
        return (*options, f"stages=[{first}, {rest}]", *self.train)

    def asked(self, level: str = "", knobs: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Returns the options of an evaluation."""
        return (f"task=recall/{self.task}", f"level={level or self.levels[-1]}", *knobs)

    def agents(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Returns name -> what it is, and its options; at about as many parameters each."""
        read = (self.read,) if self.read else ()
        chunks = (
            f"memory.config.chunk={self.chunk}",
            f"memory.config.window={self.chunk}",
            "memory.config.capacity=32",
            *read,
        )
        window = ("memory=transformer_xl", "memory.config.layers=3", "memory.config.capacity=63")
        return {
            "hcam": (f"hierarchical chunks of {self.chunk} ticks, 4 read", chunks),
            "trxl": ("Transformer-XL, three layers of 63 ticks", (*window, *read)),
            "lstm": ("LSTM", ("memory=lstm", "policy.config.width=124")),
        }


FAMILIES = {
    "match": Family(
        "match_lite", "a value, 250 steps later", ("4_gap32", "4_gap250"), 100, 80, 16
    ),
    "visual": Family(
        "visual_match",
        "a colour, after 30 steps of picking apples, by walking to its door",
        ("gap30",), 200, 0, 8,
        read="",  # no observation says that the doors are there but the view itself
        train=("reinforce.env.knobs.apple_reward=1",),
    ),
    "boxes": Family("boxes", "what is in which of two boxes", ("2_delay4",), 100, 0, 8),
    "words": Family("words", "which of three objects has the name", ("distractors0",), 100, 0, 8),
    "phases": Family(
        "words",
        "the same, trained with 0, 1 and 2 phases of other things between, asked after 2",
        ("distractors0", "distractors1", "distractors2"), 150, 80, 8,
        further=(
            Further("10", "asked after 10 phases, not trained", "distractors10"),
            Further("20", "asked after 20 phases, not trained", "distractors20"),
            Further(
                "lessons4",
                "four episodes without a reset, asked about an earlier one, not trained",
                "lessons4",
            ),
        ),
    ),
    "pairs": Family(
        "pairs", "partners of 4 pairs, then chains of 3",
        ("length2_small", "length3_small"), 150, 100, 4,
        further=(
            Further("far", "the longest inference (2 hops) alone", knobs=("knobs.hops=2",)),
        ),
    ),
}  # fmt: skip


def _variants() -> Iterator[Variant]:
    for name, family in FAMILIES.items():
        for agent, (what, own) in family.agents().items():
            label = f"{name}-{agent}"
            told = f"{family.what}; {what}"
            yield Variant(label, told, (*family.trained(), *own), family.asked(), SEEDS)
            for other in family.further:
                yield Variant(
                    f"{label}-{other.name}",
                    f"the same, {other.what}",
                    (),
                    family.asked(other.level, other.knobs),
                    SEEDS,
                    like=label,
                )


STUDY = Study(
    name="recall_families",
    title="Families of recall: hierarchical chunks, Transformer-XL, LSTM",
    about=(
        "One agent a family and seed learns by PPO, 1.6 million frames (pairs and phases: 2.5, "
        "visual: 3.3). All agents have about as many parameters. Chance is 25 % in match (four "
        "values), 50 % in boxes and pairs, 33.3 % in words and phases (three objects) and in "
        "visual (three doors), where an apple is worth 1 and the right door 10. Episodes of "
        "visual last 60 steps, which a Transformer-XL of 63 ticks sees as a whole."
    ),
    train=("policy=hcam", "reinforce.rows=256", "reinforce.ticks=64", "checkpoint_every=50"),
    evaluate=("episodes=1000", "seed_start=2000000", "batch=100", "videos=0"),
    variants=tuple(_variants()),
    facts=("parameters", "state bytes", "frames at chance", "right chunk read"),
)
