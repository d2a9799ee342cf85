"""Stages: by steps, by success on held seeds, across a resume; and streams across a resume."""

import json

import pytest

from embodied.core.errors import ConfigError
from embodied.train.config import Stage, TrainConfig
from embodied.train.curriculum import Curriculum, validation_name
from embodied.train.imitation import train
from tests.train.test_imitation import (  # noqa: F401
    assert_equal,
    dataset,
    make_config,
    train_cut_and_resumed,
    weights,
)

TASKS = {"task": ["a", "b"], "levels": ["easy", "hard"]}


def test_stages_end_after_their_steps():
    config = TrainConfig(**TASKS, stages=[Stage(3), Stage(2), Stage(9)], steps=20)
    curriculum = Curriculum(config)
    assert [curriculum.at(step) for step in range(8)] == [0, 0, 0, 1, 1, 2, 2, 2]
    assert curriculum.starts == [0, 3, 5]
    assert [curriculum.before(step) for step in range(8)] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert Curriculum(config, [0, 3, 5]).at(19) == 2


def test_stages_end_early_where_every_weighted_task_is_learnt():
    stages = [Stage(100, [1.0, 0.0], until=0.9), Stage(100, until=0.9), Stage(1)]
    config = TrainConfig(**TASKS, stages=stages, steps=300, eval_every=10)
    curriculum = Curriculum(config)
    easy, hard = validation_name("a", "easy"), validation_name("b", "hard")
    curriculum.validated(10, {easy: 0.8, hard: 1.0})
    assert curriculum.at(10) == 0
    curriculum.validated(20, {easy: 0.9, hard: 0.0})
    assert curriculum.at(20) == 1 and curriculum.starts == [0, 20]
    curriculum.validated(25, {easy: 1.0})  # no episode of the harder one has ended yet
    curriculum.validated(30, {easy: 1.0, hard: 0.5})
    assert curriculum.at(119) == 1 and curriculum.at(120) == 2
    curriculum.validated(130, {easy: 1.0, hard: 1.0})
    assert curriculum.starts == [0, 20, 120]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [{"steps": 5}], "data_weights": [1.0]}, "leave out data_weights"),
        ({"stages": [{"steps": 5, "until": 0.5}, {"steps": 1}]}, "set eval_every="),
        ({"stages": [{"steps": 9}, {"steps": 1}], "steps": 9}, "the last would never begin"),
        ({"stages": [{"steps": 5}, {"steps": 1, "weights": [1, 1]}]}, "a stage must be 1 numbers"),
        ({"data_weights": [1.0, 1.0], "algorithm": "ppo"}, "data_weights must be 1 numbers >= 0"),
        ({"eval_every": 5, "algorithm": "vtrace"}, "is for imitation: algorithm=vtrace logs"),
        ({"data_weights": [-1.0]}, "data_weights must be"),
        ({"data_weights": [0.0]}, "not all 0"),
    ],
)
def test_stages_that_make_no_sense_are_refused(options, message):
    stages = [Stage(**stage) for stage in options.get("stages", [])]
    with pytest.raises(ConfigError, match=message):
        TrainConfig(task=["a"], **{**options, "stages": stages})
    with pytest.raises(ConfigError, match="steps >= 1 and until"):
        Stage(0)
    with pytest.raises(ConfigError, match="2 tasks need as many levels"):
        TrainConfig(task=["a", "b"], levels=["easy"])


@pytest.mark.parametrize(
    "options",
    [
        {"stages": [Stage(4, [1.0]), Stage(1)]},
        {"order": "stream", "order_ticks": 4},
        {"order": "group", "order_ticks": 4},
    ],
    ids=["stages", "stream", "group"],
)
def test_a_run_with_stages_or_a_stream_resumes_exactly(dataset, tmp_path, monkeypatch, options):  # noqa: F811
    config = make_config(dataset, **options)
    whole = train(config, tmp_path / "whole")
    resumed = train_cut_and_resumed(config, tmp_path / "cut", monkeypatch)
    assert_equal(weights(whole), weights(resumed))
    described = json.loads((resumed / "policy.json").read_text())["train"]
    assert described["order"] == config.order
    assert described["stage_starts"] == ([0, 4] if config.stages else [0])
    # Memory goes on from batch to batch in a stream alone.
    assert (whole / "train_state" / "memory.safetensors").exists() == (config.order == "stream")
