"""An arm by reinforcement: agents that say where a block was, and the expert puts it back there.

Everything learns by PPO in the simulator; an episode of the arm costs about a hundred times what
one of the recall suite does, so runs are short.
"""

from __future__ import annotations

from studies.study import Study, Variant

TASK = "put_block_back"
SEEDS = (1, 2, 3)  # the options were found with seed 0

STUDY = Study(
    name="recall_robot",
    title="PutBlockBack on the arm, by reinforcement",
    about=(
        "A block lies on one of four patches; the expert carries it to the centre and presses "
        "the button, and after a gap of 2 to 4 s puts it on the patch that the agent names "
        "(control by choice: the work before go is one tick, the gap half a second a tick). The "
        "agent sees the simulator's state and learns by PPO from whether the patch was right. "
        "Chance is 25 %."
    ),
    train=(
        "policy=hcam",
        f"task={TASK}",
        "preset=recall",
        "reinforce.env.control=choice",
        "reinforce.rows=32",
        "reinforce.ticks=32",
        "reinforce.epochs=8",
        "reinforce.minibatches=2",
        "reinforce.storage=recompute",
        "reinforce.entropy=0.1",
        "optim.warmup_steps=1",
        "steps=40",
    ),
    evaluate=("episodes=300", "seed_start=2000000", "videos=0"),
    variants=(
        Variant(
            "hcam",
            "hierarchical chunks of 4 ticks, 2 read, one layer",
            (
                "memory.config.chunk=4",
                "memory.config.window=4",
                "memory.config.capacity=8",
                "memory.config.top_k=2",
                "memory.config.layers=1",
            ),
            seeds=SEEDS,
        ),
        Variant("lstm", "LSTM", ("memory=lstm", "policy.config.width=96"), seeds=SEEDS),
        Variant("none", "no memory", ("memory=none",), seeds=(1,)),
    ),
    facts=("parameters", "state bytes"),
)
