"""An arm by reinforcement: agents that say where a block was, and the expert puts it back there.

Everything learns by PPO in the simulator; an episode of the arm costs about a hundred times what
one of the recall suite does, so runs are short.
"""

from __future__ import annotations

from studies.study import Study, Variant

TASK = "put_block_back"
SEEDS = (1, 2, 3)  # the options were found with seed 0
MOTION = (
    "task=remember_color",
    "reinforce.env.control=fast",
    "reinforce.env.reward=dense",
    # Nearness is paid at every tick, so whoever counts later ticks in would hover and never touch.
    "reinforce.gamma=0.0",
    "reinforce.ticks=128",
    "reinforce.epochs=3",
    "reinforce.minibatches=4",
    "reinforce.entropy=0.01",
    "optim.warmup_steps=10",
    "steps=300",
)


def _more(name: str, what: str, seeds: tuple[int, ...]) -> Variant:
    """Returns the same runs in more episodes than the published rows have."""
    told = f"{what}, 1,000 episodes a seed"
    return Variant(f"{name}-1000", told, (), ("episodes=1000",), seeds, name)


STUDY = Study(
    name="recall_robot",
    title="The arm by reinforcement: PutBlockBack by choice, RememberColor by motion",
    about=(
        "A block lies on one of four patches; the expert carries it to the centre and presses "
        "the button, and after a gap of 2 to 4 s puts it on the patch that the agent names "
        "(control by choice: the work before go is one tick, the gap half a second a tick). The "
        "agent sees the simulator's state and learns by PPO from whether the patch was right. "
        "Chance is 25 %. In `motion` it moves the hand itself, seven numbers 20 times a second, "
        "to the one of three cubes whose colour it saw, and is paid for being near it (an hour of "
        "one thread, 1.2 million ticks); chance is 33.3 %."
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
        _more("hcam", "hierarchical chunks", SEEDS),
        _more("lstm", "LSTM", SEEDS),
        _more("none", "no memory", (1,)),
        Variant(
            "motion",
            "RememberColor by the agent's own motion, chunks of 8 ticks, 2 read, one layer",
            (
                *MOTION,
                "memory.config.chunk=8",
                "memory.config.window=8",
                "memory.config.capacity=32",
                "memory.config.top_k=2",
                "memory.config.layers=1",
            ),
            ("episodes=1000",),
            (1,),
        ),
    ),
    facts=("parameters", "state bytes", "frames at chance"),
)
