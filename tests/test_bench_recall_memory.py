"""The benchmark of vector memories, at sizes that say nothing about speed."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    module = importlib.import_module("benchmarks.recall_memory")
    plan = importlib.import_module("benchmarks.timing").Plan(1, 0.0)
    return module, plan


def test_figures_of_every_memory(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, plan = bench
    monkeypatch.setattr(module, "PASTS", {"1k": 1024})
    monkeypatch.setattr(module, "ROWS", 2)
    short = module.filled
    monkeypatch.setattr(module, "filled", lambda memory, rows: short(memory, rows, ticks=70))
    figures = [
        *module.reads(plan),
        *module.learning(plan, rows=2, ticks=40),
        *module.acting(plan),
        *module.sizes(),
    ]
    plain = {figure.name: figure.to_json() for figure in figures}
    assert {"ours", "other", "ratio", "unit"} == set(plain["hcam_vs_full_1k"])
    chunks = "hierarchical_chunks"
    assert {f"learn_ticks_{chunks}{kind}" for kind in ("", "_masked", "_recorded")} <= set(plain)
    for name in module.MEMORIES:
        assert plain[f"learn_ticks_{name}"]["ours"] > 0
        assert plain[f"step_ms_1_{name}"]["unit"] == plain[f"step_ms_2_{name}"]["unit"] == "ms"
        memory = module.build(name)
        state = module.filled(memory, 3)
        assert plain[f"state_bytes_{name}"]["ours"] == pytest.approx(memory.nbytes(1), rel=1e-3)
        assert memory.nbytes_filled(state) <= 3 * memory.nbytes(1)
        assert torch.equal(state["count"], torch.full((3,), 70))


def test_both_forms_of_full_attention_agree(bench) -> None:
    module, _ = bench
    torch.manual_seed(0)
    forms = module.full_reads(1024)
    torch.testing.assert_close(forms["matmul"](), forms["fused"]())
    assert module.chunk_read(1024)().shape == (1, 1, module.WIDTH)
