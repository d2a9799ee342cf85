"""Every study can be run as it says: a wrong word would be found after hours of training."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from embodied import registry
from embodied.commands import base
from embodied.commands.train import check_names
from embodied.core.errors import ConfigError, EmbodiedError
from embodied.core.task import REINFORCEMENT
from embodied.evaluate.api import settings
from embodied.evaluate.config import EvaluateConfig
from embodied.evaluate.runner import fitted
from embodied.memory import build_memory, build_vector_memory
from embodied.train import reinforcement
from embodied.train.checkpoint import LoadedPolicy
from embodied.train.config import IMITATION, TrainConfig
from embodied.train.rollout import shares
from tests.test_bench import SCRIPTS, script  # noqa: F401

NAMES = [
    path.stem
    for path in sorted((SCRIPTS / "studies").glob("*.py"))
    if "\nSTUDY = Study(" in path.read_text()
]
STREAMS = {"entities": (8, 32), "cognitive": (1, 32)}


def trained(words: tuple[str, ...]) -> LoadedPolicy | TrainConfig:
    """Checks the words of a training; returns its policy, untrained, where that is cheap."""
    options: Any = base.parse(base.load("train"), list(words), "train")
    check_names(options)
    config = base.take(TrainConfig, options)
    pairs = list(zip(config.task, config.task_levels(), strict=True))
    for task, level in pairs:
        registry.task_info(task).knobs(level, config.reinforce.env.knobs)
    weights = [some or [1.0] * len(pairs) for some in config.stage_weights()]
    assert all(len(some) == len(pairs) for some in weights)
    if config.algorithm == IMITATION:
        if not config.policy.name.startswith("sam2act"):  # its memory is of maps, not of vectors
            build_memory(config.memory.name, STREAMS, config.memory.config)
        return config
    for some in weights:
        shares(some, config.reinforce.rows)
    schema = registry.policy_config_class(config.policy.name)
    policy: Any = schema(
        **config.policy.config, memory=config.memory.name, memory_config=config.memory.config
    )
    build_vector_memory(policy.memory, policy.width, policy.memory_config)
    if any(registry.task_info(task).learned_by != REINFORCEMENT for task, _ in pairs):
        return config
    interface = reinforcement._common_interface(pairs, config.reinforce)
    built = reinforcement._build(config, interface)
    return LoadedPolicy(built, reinforcement._describe(config, built), Path("runs/x"))


def asked(run: LoadedPolicy | TrainConfig, words: tuple[str, ...]) -> None:
    """Checks the words of an evaluation of a run: names, knobs, and what the policy sees."""
    options = base.parse(base.load("evaluate"), ["runs/x", *words], "evaluate")
    assert isinstance(options, EvaluateConfig)
    if isinstance(run, TrainConfig):
        pairs = list(zip(run.task, run.task_levels(), strict=True))
        for task in options.task or run.task:
            level = options.level or dict(pairs).get(task, run.level)
            knobs = {**run.reinforce.env.knobs, **options.knobs}
            registry.task_info(task).knobs(level, knobs)
        return
    for setting in settings(options, run):
        env = registry.make_vec(setting.task, setting.level, setting.env)
        with closing(env):
            fitted(run.policy, env, options.executor)
        run.policy.initial_state(1, setting.capacity)


def check(module: Any, question: Any) -> None:
    """Checks all variants of a study."""
    named = {v.name: v for v in question.variants}
    assert len(named) == len(question.variants)
    runs: dict[str, LoadedPolicy | TrainConfig] = {}
    for job in module.jobs(question, [], Path("runs")):  # those that need another come behind it
        variant, cell = job.variant, job.cell
        for other in filter(None, (variant.like, variant.init)):
            assert other in named and not named[other].like, f"{variant.name} needs {other}"
            assert set(variant.seeds) <= set(named[other].seeds)
        if not variant.like and variant.name not in runs:
            runs[variant.name] = trained(cell.training)
        if job.seed == variant.seeds[0]:
            (words,) = cell.evaluations.values()
            asked(runs[variant.like or variant.name], words)


def test_all_that_can_be_asked_for_is_a_study(script: Any) -> None:  # noqa: F811
    assert set(script("study").STUDIES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_study_can_be_run_as_it_says(script: Any, name: str) -> None:  # noqa: F811
    question = script(f"studies.{name}").STUDY
    assert question.name == name
    assert set(question.facts) <= set(script("studies.facts").FACTS)
    check(script("studies.study"), question)


def toy(study: Any, *variants: Any) -> Any:
    train = ("policy=hcam", "task=recall/ballet_lite", "level=2_delay2_dances4")
    return study.Study("toy", "", "", train, ("task=recall/ballet_lite",), variants)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"evaluate": ("level=2_delay48_dances5",)}, "unknown level"),
        ({"evaluate": ("knobs.leed=5",)}, "unknown knob"),
        ({"evaluate": ("knobs.dancers=20",)}, "knob dancers"),
        ({"evaluate": ("task=recall/ballet",)}, "unknown task"),
        ({"evaluate": ("task=recall/t_maze", "level=length10")}, "homes_token"),
        ({"evaluate": ("capacities=1",)}, "unknown key"),
        ({"train": ("memory.config.chunk=9",)}, "memory.window must be >= memory.chunk=9"),
        ({"train": ("policy.config.read_when=instruction",)}, "is no observation"),
        ({"train": ("reinforce.env.knobs.dance=3",)}, "unknown knob"),
        ({"train": ("policy.config.width=30",)}, "memory.heads must divide"),
        ({"train": ("memory=chunks",)}, "memory"),
        ({"train": ("policy=memory_vla", "preset=state", "memory.config.heads=5")}, "heads"),
    ],
)
def test_wrong_words_are_found(script: Any, variant: dict, message: str) -> None:  # noqa: F811
    study = script("studies.study")
    with pytest.raises(EmbodiedError, match=message):
        check(study, toy(study, study.Variant("wrong", "", **variant)))


def test_right_words_are_right(script: Any) -> None:  # noqa: F811
    study = script("studies.study")
    again = study.Variant("again", "", (), ("level=2_delay48_dances4", "knobs.lead=5"), like="own")
    check(study, toy(study, study.Variant("own", ""), again))
    with pytest.raises(AssertionError, match="again needs other"):
        check(study, toy(study, dataclasses.replace(again, like="other")))


def test_a_variant_s_words_stand_in_place_of_the_study_s(script: Any) -> None:  # noqa: F811
    study = script("studies.study")
    own = study.Variant("own", "", ("task=b",), ("episodes=20", "level=x"))
    question = study.Study("toy", "", "", ("task=a", "steps=5"), ("episodes=10",), (own,))
    (job,) = study.jobs(question, [], Path("runs"))
    assert job.cell.training == ("steps=5", "task=b", "seed=0")
    assert list(job.cell.evaluations.values()) == [("episodes=20", "level=x")]
    made = {"train": [["steps=5", "task=b"]], "evaluate": ["episodes=20", "level=x"]}
    assert question.made(own) == made
    twice = dataclasses.replace(own, train=("task=b", "task=c"))  # within one, it is a mistake
    with pytest.raises(ConfigError, match="given twice"):
        check(study, dataclasses.replace(question, variants=(twice,)))
