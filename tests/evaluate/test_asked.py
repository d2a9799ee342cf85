"""Which tasks and levels an evaluation runs: those named, else those trained on."""

import pytest

from embodied.evaluate.api import _asked
from embodied.evaluate.config import EvaluateConfig
from embodied.train.checkpoint import PolicyMeta

TRAINED = [("color", "easy"), ("color", "hard"), ("block", "easy")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TRAINED),
        ({"task": ["color"]}, [("color", "easy"), ("color", "hard")]),
        ({"level": "hard"}, [("color", "hard"), ("block", "hard")]),
        ({"task": ["block", "drawer"]}, [("block", "easy"), ("drawer", "easy")]),
        ({"task": ["drawer"], "level": "medium"}, [("drawer", "medium")]),
    ],
)
def test_tasks_and_levels(options, expected):
    assert _asked(EvaluateConfig("runs/x", **options), TRAINED, "easy") == expected


def test_levels_are_written_where_they_differ():
    meta = PolicyMeta("p", 1, {}, {}, ["color", "color", "block"], "easy", {}, {}, "0")
    assert meta.trained_on() == [("color", "easy"), ("block", "easy")]
    meta.levels = ["easy", "hard", "easy"]
    assert meta.trained_on() == TRAINED


def test_an_intervention_named_twice_is_run_once():
    config = EvaluateConfig("runs/x", intervene=["none", "swapped", "none"])
    assert config.intervene == ["none", "swapped"]
