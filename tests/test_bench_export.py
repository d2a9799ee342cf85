"""The benchmark of exported policies, on a network that says nothing about speed."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

from tests.export.small import POLICIES

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"

pytest.importorskip("onnxruntime")
pytest.importorskip("websockets")


def test_every_figure_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("benchmarks.export")
    plan = importlib.import_module("benchmarks.timing").Plan(1, 0.05)
    monkeypatch.setattr(module.train, "build", lambda *_: POLICIES["lstm"][1]())
    figures = {figure.name: figure for figure in module.measure(plan, clients=2)}
    assert figures.keys() == {
        "ort_vs_eager",
        "step_ms_p50",
        "step_ms_p99",
        "state_bytes",
        "server_overhead_ms",
        "sessions16_vs_1",
    }
    for figure in figures.values():
        assert all(math.isfinite(value) for value in figure.ours)
    assert figures["step_ms_p99"].ours[0] >= figures["step_ms_p50"].ours[0] > 0
    assert figures["state_bytes"].ours[0] > 0
