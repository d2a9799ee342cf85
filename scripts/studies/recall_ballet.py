"""Ballet-Lite: how well agents with each memory recall which dancer did the named dance.

Everything learns by PPO in the simulator, so no data has to be collected first.
"""

from __future__ import annotations

from studies.study import Study, Variant

FIVE, THREE = (0, 1, 2, 3, 4), (0, 1, 2)
TASK = "recall/ballet_lite"


def curriculum(*levels: str, task: str = TASK, most: int = 100) -> tuple[str, ...]:
    """Returns options that train on the levels in turn, each until 95 % of it succeeds.

    Args:
      *levels: Of the task, the easiest first; the run ends in the last one.
      task: The task.
      most: Steps that a level but the last takes at most.
    """
    last = len(levels) - 1
    stages = []
    for i in range(last):
        # The level before stays in the mix, so that what was learnt is not lost.
        weights = [1 if j == i - 1 else 2 if j == i else 0 for j in range(len(levels))]
        stages.append(f"{{steps: {most}, weights: {weights}, until: 0.95}}")
    weights = [1 if j == last - 1 else 3 if j == last else 0 for j in range(len(levels))]
    stages.append(f"{{steps: 1, weights: {weights}}}")
    tasks = ",".join([task] * len(levels))
    return f"task=[{tasks}]", f"levels=[{','.join(levels)}]", f"stages=[{', '.join(stages)}]"


TWO = curriculum("2_delay2_dances4", "2_delay16_dances4", "2_delay48_dances4")


def chunks(capacity: int) -> tuple[str, ...]:
    """Returns options of hierarchical chunks of 16 ticks that keep so many of them."""
    return (
        "memory.config.chunk=16",
        "memory.config.window=16",
        f"memory.config.capacity={capacity}",
        "memory.config.time_encoding=false",
        "policy.config.read_when=instruction_token",
    )


PLAIN = ("memory.config.time_encoding=false", "policy.config.read_when=instruction_token")


def memory(name: str, width: int, *options: str) -> tuple[str, ...]:
    """Returns options of another memory, at about as many parameters as hierarchical chunks."""
    own = tuple(f"memory.config.{option}" for option in options)
    # A recurrent memory has to see every tick, whether anything is asked of it or not.
    rule = PLAIN if name.endswith("transformer_xl") else PLAIN[:1]
    return (f"memory={name}", f"policy.config.width={width}", *rule, *own)


AGENTS = {
    "hcam": ("hierarchical chunks of 16 ticks, 4 read", chunks(16), FIVE),
    "lstm": ("LSTM", memory("lstm", 124), THREE),
    "gru": ("GRU", memory("gru", 136, "reads_present=true"), THREE),
    "trxl": (
        "Transformer-XL, 63 ticks a layer",
        memory("transformer_xl", 64, "layers=3", "capacity=63"),
        THREE,
    ),
    "trxl-bytes": (
        "the same at equal bytes: 192 ticks, longer than an episode",
        memory("transformer_xl", 64, "layers=3", "capacity=192"),
        THREE,
    ),
    "gtrxl": (
        "gated Transformer-XL, 63 ticks a layer",
        memory("gated_transformer_xl", 56, "capacity=63"),
        THREE,
    ),
    "gtrxl-bytes": (
        "the same at equal bytes: 329 ticks, longer than an episode",
        memory("gated_transformer_xl", 56, "capacity=329"),
        THREE,
    ),
}
FAR = "level=2_delay48_dances4"


def _longer(delay: int, capacity: int) -> Variant:
    knobs = (FAR, f"knobs.delay={delay}", f"capacity={capacity}")
    return Variant(f"hcam-{delay}", f"hcam, delay {delay}, not trained", (), knobs, FIVE, "hcam")


STUDY = Study(
    name="recall_ballet",
    title="Ballet-Lite: agents with each memory",
    about=(
        "Two dancers, four dances, one question. One agent a seed learns by PPO on delays of 2, 16 "
        "and 48 frames in turn, each until 95 % of the latest episodes succeed, 4.9 million frames "
        "in all. All agents have about as many parameters. Chance is 50 %."
    ),
    train=(
        "policy=hcam",
        "policy.config.shared_values=false",
        "reinforce.rows=256",
        "reinforce.ticks=64",
        "steps=300",
        "checkpoint_every=100",
    ),
    evaluate=(f"task={TASK}", "episodes=1000", "seed_start=2000000", "batch=100", "videos=0"),
    variants=(
        *(
            Variant(name, f"{what}; delay 16", (*TWO, *own), ("level=2_delay16_dances4",), seeds)
            for name, (what, own, seeds) in AGENTS.items()
        ),
        *(
            Variant(f"{name}-48", f"{what}; delay 48", (), (FAR,), seeds, like=name)
            for name, (what, _, seeds) in AGENTS.items()
        ),
        _longer(200, 32),
        _longer(1000, 130),
    ),
    facts=(
        "parameters",
        "state bytes",
        "frames at chance",
        "frames to the last stage",
        "right chunk read",
    ),
)
