"""What each choice of MemoryVLA is worth: two tasks from the simulator's state, short runs.

It learns from the datasets of ``embodied collect task=T observation=state episodes=1600
label_horizon=8`` for both tasks, and probes 300 others of each: ``seed_start=700000 episodes=300
out=data/probe-T``. What stores more often than once a chunk has the same demonstrations, observed
more often: ``embodied data render SOURCE out=SOURCE-0.2s observe_period_s=0.2`` for each of these
four, and so with 0.05 s, which is every control tick.
"""

from __future__ import annotations

from studies.study import Study, Variant

TASKS = "task=[remember_color,rearrange_block]"
DATA = ("data/remember_color-easy-state", "data/rearrange_block-easy-state")
PROBE = ("data/probe-remember_color", "data/probe-rearrange_block")
TWO = (0, 1)


def bank(option: str) -> tuple[str, ...]:
    """Returns one option of the memory."""
    return (f"memory.config.{option}",)


def observing(name: str, what: str, period_s: float) -> Variant:
    """Returns a variant that observes, stores and acts every so many seconds."""
    data, probe = ([f"{path}-{period_s:g}s" for path in paths] for paths in (DATA, PROBE))
    return Variant(name, what, (f"data=[{','.join(data)}]",), probe=tuple(probe))


STUDY = Study(
    name="memory_vla_ablations",
    title="MemoryVLA: what each choice is worth",
    about=(
        "One policy for RememberColor and RearrangeBlock (easy) from the simulator's state, each "
        "run 480 steps of 8 episodes. Everything but the named choice is as in `ours`; published "
        "choices are marked. Short runs show what is learnt soon, not what could be learnt. `ours` "
        "stores once a chunk, every 0.4 s; what stores more often learns from as many "
        "demonstrations, and trains several times as long."
    ),
    train=(TASKS, "observation=state", "preset=state", "steps=480", "checkpoint_every=120"),
    probe=PROBE,
    evaluate=("episodes=150", "seed_start=1900000", "intervene=none,swapped", "videos=0"),
    variants=(
        Variant("ours", "the defaults of this package", seeds=TWO),
        Variant("detached", "no gradient through memory (published)", bank("detach=true"), (), TWO),
        Variant(
            "independent",
            "query and key projections independent at the start (published)",
            bank("qk_init=independent"),
            (),
            TWO,
        ),
        Variant(
            "no-goal", "no hindsight goal (published)", ("policy.config.goal_loss=0.0",), (), TWO
        ),
        Variant(
            "frames-frames",
            "time in frames, in training and in use",
            bank("time_scale_hz=20.0"),
            (),
            TWO,
        ),
        Variant(
            "frames-calls",
            "time in frames in training, in calls in use (published)",
            bank("time_scale_hz=20.0"),
            ("clock=calls",),
            TWO,
            like="frames-frames",
        ),
        Variant(
            "mean-perception",
            "perception attention that can only average (published)",
            ("policy.config.head.dit.perception=mean",),
            (),
            TWO,
        ),
        Variant("none", "no memory: the twin", ("memory=none",)),
        Variant("perceptual", "perceptual bank alone", bank("remember=[entities]")),
        Variant("cognitive", "cognitive bank alone", bank("remember=[cognitive]")),
        Variant("add", "mean instead of gate", ("policy.config.fusion=add",)),
        Variant(
            "fused", "fused tokens stored (published: successor)", ("policy.config.store=fused",)
        ),
        Variant("counts", "merged slots weighed by their items", bank("count_weighted=true")),
        Variant("fifo", "the oldest slot dropped instead of a merge", bank("overflow=fifo")),
        Variant("retention", "learned retention instead of a merge", bank("overflow=retention")),
        observing("stored-twice", "stored twice a chunk, every 0.2 s", 0.2),
        observing("stored-always", "stored at every control tick, 0.05 s (published)", 0.05),
        *(
            Variant(f"slots-{n}", f"{n} slots (ours: 16)", bank(f"capacity={n}"))
            for n in (2, 4, 8, 64)
        ),
    ),
)
