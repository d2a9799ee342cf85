"""An arm by reinforcement: agents that say which cube it was, and the expert's motion touches it.

Everything learns by PPO in the simulator; an episode of the arm costs about a hundred times what
one of the recall suite does, so runs are short.
"""

from __future__ import annotations

from studies.study import Study, Variant

TASK, SEEDS = "remember_color", (0, 1, 2)

STUDY = Study(
    name="recall_robot",
    title="RememberColor on the arm, by reinforcement",
    about=(
        "A coloured cube is shown; after a gap of 2 to 4 s the arm touches the cube, of three, "
        "that the agent names (control by choice: half a second a tick until go, then the "
        "expert's motion on that belief). The agent sees the simulator's state and learns by PPO "
        "from whether the touch was right. Chance is 33.3 %."
    ),
    train=(
        "policy=hcam",
        f"task={TASK}",
        "preset=recall",
        "reinforce.env.control=choice",
        "reinforce.rows=32",
        "reinforce.ticks=32",
        "reinforce.entropy=0.03",
        "steps=150",
    ),
    evaluate=("episodes=300", "seed_start=2000000", "videos=0"),
    variants=(
        Variant(
            "hcam",
            "hierarchical chunks of 4 ticks, 2 read",
            (
                "memory.config.chunk=4",
                "memory.config.window=4",
                "memory.config.capacity=8",
                "memory.config.top_k=2",
                "memory.config.layers=2",
            ),
            seeds=SEEDS,
        ),
        Variant("lstm", "LSTM", ("memory=lstm", "policy.config.width=96"), seeds=SEEDS),
        Variant("none", "no memory", ("memory=none",)),
    ),
    facts=("parameters", "state bytes"),
)
