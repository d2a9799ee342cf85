"""Families of recall beside Ballet: the same three agents in four of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from studies.study import Study, Variant

SEEDS = (0, 1, 2)
RULE = "policy.config.read_when=instruction_token"


@dataclasses.dataclass(frozen=True)
class Family:
    """A task, what is learnt of it and where it is asked.

    Attributes:
      task: Name in the recall suite.
      what: What is recalled.
      levels: Learnt in turn, each until 95 % of it succeeds; the last one is evaluated.
      steps: Of the training; the first level takes at most `first` of them.
      first: See `steps`.
      chunk: Ticks of a chunk.
      hops: Of questions about chains, a knob asked apart; 0 for none.
    """

    task: str
    what: str
    levels: tuple[str, ...]
    steps: int
    first: int
    chunk: int
    hops: int = 0

    def train(self) -> tuple[str, ...]:
        """Returns the options of a training."""
        tasks = ",".join([f"recall/{self.task}"] * len(self.levels))
        options = (f"task=[{tasks}]", f"levels=[{','.join(self.levels)}]", f"steps={self.steps}")
        if len(self.levels) == 1:
            return options
        first = f"{{steps: {self.first}, weights: [1, 0], until: 0.95}}"
        return (*options, f"stages=[{first}, {{steps: 1, weights: [1, 3]}}]")

    def asked(self, *knobs: str) -> tuple[str, ...]:
        """Returns the options of an evaluation."""
        return (f"task=recall/{self.task}", f"level={self.levels[-1]}", *knobs)

    def agents(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        """Returns name -> what it is, and its options; at about as many parameters each."""
        chunks = (
            f"memory.config.chunk={self.chunk}",
            f"memory.config.window={self.chunk}",
            "memory.config.capacity=32",
            RULE,
        )
        window = ("memory=transformer_xl", "memory.config.layers=3", "memory.config.capacity=63")
        return {
            "hcam": (f"hierarchical chunks of {self.chunk} ticks, 4 read", chunks),
            "trxl": ("Transformer-XL, three layers of 63 ticks", (*window, RULE)),
            "lstm": ("LSTM", ("memory=lstm", "policy.config.width=124")),
        }


FAMILIES = {
    "match": Family(
        "match_lite", "a value, 250 steps later", ("4_gap32", "4_gap250"), 100, 80, 16
    ),
    "boxes": Family("boxes", "what is in which of two boxes", ("2_delay4",), 100, 0, 8),
    "words": Family("words", "which of three objects has the name", ("distractors0",), 100, 0, 8),
    "pairs": Family(
        "pairs", "partners of 4 pairs, then chains of 3",
        ("length2_small", "length3_small"), 150, 100, 4, hops=2,
    ),
}  # fmt: skip


def _variants() -> Iterator[Variant]:
    for name, family in FAMILIES.items():
        for agent, (what, own) in family.agents().items():
            label = f"{name}-{agent}"
            told = f"{family.what}; {what}"
            yield Variant(label, told, (*family.train(), *own), family.asked(), SEEDS)
            if family.hops:
                yield Variant(
                    f"{label}-far",
                    f"the same, the longest inference ({family.hops} hops) alone",
                    (),
                    family.asked(f"knobs.hops={family.hops}"),
                    SEEDS,
                    like=label,
                )


STUDY = Study(
    name="recall_families",
    title="Four families of recall: hierarchical chunks, Transformer-XL, LSTM",
    about=(
        "One agent a family and seed learns by PPO, 1.6 million frames (pairs: 2.5). All agents "
        "have about as many parameters. Chance is 25 % in match (four values), 50 % in boxes and "
        "pairs, 33.3 % in words."
    ),
    train=("policy=hcam", "reinforce.rows=256", "reinforce.ticks=64", "checkpoint_every=50"),
    evaluate=("episodes=1000", "seed_start=2000000", "batch=100", "videos=0"),
    variants=tuple(_variants()),
    facts=("parameters", "state bytes", "frames at chance"),
)
