"""The benchmark of SAM2Act, at sizes that say nothing about speed."""

from __future__ import annotations

import importlib
import math
from contextlib import closing
from pathlib import Path

import pytest
import torch

from embodied import registry
from policies.sam2act import heatmaps
from tests.policies.sam2act.small import SMALL_MEMORY, make

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("benchmarks.sam2act")


@pytest.mark.sim
@pytest.mark.render
def test_every_figure_is_there(module, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = importlib.import_module("benchmarks.timing").Plan(1, 0.01)
    options = {"spatial": {"memory": "spatial", "memory_config": SMALL_MEMORY}, "none": {}}
    monkeypatch.setattr(module, "build", lambda memory: make(**options[memory]))
    monkeypatch.setattr(module, "POINTS", 500)
    monkeypatch.setattr(module, "DECISIONS", 3)
    figures = {figure.name: figure for figure in module.measure(plan, sides=(16,), map_side=8)}
    assert figures.keys() == {
        "renderer_ms_16",
        "separable_vs_brute",
        "decisions_per_s",
        "keyframes_per_s",
        "train_samples_per_s",
        "train_cost_vs_memoryless",
    }
    for figure in figures.values():
        values = [*figure.ours, *(figure.other or [])]
        assert all(math.isfinite(value) and value > 0 for value in values)


@pytest.mark.sim
@pytest.mark.render
def test_the_closed_loop_carries_a_demonstration_out(module, monkeypatch) -> None:
    policy = make()
    config = module.EnvConfig(observation="rgbd", cameras=policy.cameras, image_size=16)
    led = module.Led(policy, module.demonstrated(config))
    rows, play = [], module.run

    def run(*args, **options):
        rows.extend(play(*args, **options))
        return rows[-1:]

    monkeypatch.setattr(module, "run", run)
    with closing(registry.make_vec(module.TASK, module.LEVEL, config, 1, 0)) as env:
        keyframes, seconds = module.playing(led, env)(0.0)
    (row,) = rows
    assert row.success and seconds > 0
    # The last ends with the episode, and the press with the cue phase.
    assert 10 <= keyframes <= row.observations


def test_the_rival_finds_the_same_point(module) -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 12, 12)
    assert torch.allclose(module._try_every_point(logits), heatmaps.decode(logits), atol=1e-6)
