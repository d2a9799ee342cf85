"""The benchmark and robustness scripts, at sizes that say nothing about speed."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from embodied.core.errors import EmbodiedError

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module as the scripts do."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


# -- bench.py ---------------------------------------------------------------------------------


def test_rivals_take_turns_and_the_first_turn_does_not_count(script: Any) -> None:
    timing = script("benchmarks.timing")
    order: list[str] = []

    def rival(name: str) -> Any:
        def work(seconds: float) -> tuple[float, float]:
            order.append(name)
            return len(order), 2.0 * seconds

        return work

    rates = timing.take_turns({"a": rival("a"), "b": rival("b")}, timing.Plan(2, 0.5))
    assert order == ["a", "b"] * 3
    assert rates == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_last_line_is_json_with_the_agreed_fields(script: Any) -> None:
    timing = script("benchmarks.timing")
    figures = [
        timing.Figure("pair", [1.0, 2.0, 9.0], [4.0, 4.0, 4.4], "steps/s", "this against that"),
        timing.Figure("alone", [123456.0], None, "ms", "this"),
    ]
    *head, last = timing.report(figures).splitlines()
    assert json.loads(last) == {
        "pair": {"ours": 2.0, "other": 4.0, "ratio": 0.5, "unit": "steps/s"},
        "alone": {"ours": 123500.0, "unit": "ms"},
    }
    assert head[0].split()[:4] == ["figure", "ours", "other", "ratio"]


def test_unknown_benchmark_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", "sims"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("bench: unknown benchmark 'sims'; did you mean 'sim'?")
    assert not done.stdout


def test_train_figures(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    timing, train = script("benchmarks.timing"), script("benchmarks.train")
    monkeypatch.setattr(train, "MEMORIES", ("none", "perceptual_cognitive"))
    figures = {f.name: f.to_json() for f in train.measure(timing.Plan(1, 0.0), batch=2)}
    assert set(figures) == {
        "train_cost_vs_memoryless",
        "train_samples_none",
        "train_samples_perceptual_cognitive",
        "policy_step_ms",
        "policy_step_ms_batch16",
    }
    assert figures["train_cost_vs_memoryless"]["unit"] == "ms a sample"
    assert all(value["ours"] > 0 for value in figures.values())


def test_memory_vla_figures(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    timing, bench = script("benchmarks.timing"), script("benchmarks.memory_vla")
    monkeypatch.setattr(bench, "SEGMENTS", (16,))
    plan = timing.Plan(1, 0.0)
    figures = {f.name: f.to_json() for f in bench.measure(plan, batch=2, late=120)}
    assert set(figures) == {
        "bank_ms_p50",
        "bank_flatness_10k",
        "policy_hz",
        "batch16_vs_batch1",
        "train_cost_vs_memoryless",
        "train_cost_vs_memoryless_tiny",
        "peak_mb_16_ticks",
    }
    assert all(value["ours"] > 0 for value in figures.values())


def test_made_up_segment_is_like_real_ones(script: Any) -> None:
    segment = script("benchmarks.train").segment(3)
    assert segment.valid.sum(dim=1).tolist() == [12, 13, 14]
    assert segment.act_mask.sum(dim=1).tolist() == [3, 3, 3]
    assert not (segment.act_mask & ~segment.valid).any()
    assert segment.is_first.sum(dim=1).tolist() == [1, 1, 1]


@pytest.mark.sim
def test_made_up_observations_are_those_of_the_environment(script: Any) -> None:
    from embodied import registry

    vector = registry.make_vec("remember_color", "easy")
    given = {key: (s.shape, s.dtype) for key, s in vector.observation_specs.items()}
    vector.close()
    interface = script("benchmarks.train").INTERFACE
    assert {key: (s.shape, s.dtype) for key, s in interface.observations.items()} == given


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.slow
def test_sim_figures(script: Any) -> None:
    timing, sim = script("benchmarks.timing"), script("benchmarks.sim")
    plan = timing.Plan(1, 0.001)
    figures = [
        *sim.against_stock(plan),
        *script("benchmarks.suite").each_task(plan, ["remember_color"]),
        *sim.workers(plan, rows=2),
    ]
    assert [figure.name for figure in figures] == [
        "fast_vs_stock_steps",
        "resets",
        "resets_vs_soft",
        "fast_vs_stock_rgb2x64",
        "steps_remember_color",
        "raw_steps_remember_color",
        "vector_scaling",
        "vector_worker_vs_none",
        "vector_scaling_rgb",
        "vector_worker_vs_none_rgb",
    ]
    assert all(figure.to_json()["ours"] > 0 for figure in figures)


# -- kill_test.py -----------------------------------------------------------------------------


@dataclasses.dataclass
class Counting:
    """A stage whose command writes numbered files slowly, each under a temporary name first."""

    total: int
    loses: bool = False
    name: str = "count"
    unit: str = "files"

    def words(self, out: Path) -> list[str]:
        return [str(self.total), str(out)]

    def finished(self, out: Path) -> set[int]:
        return {int(path.name) for path in out.glob("[0-9]*")}

    def lost(self, before: set[int], after: set[int]) -> set[int]:
        return before - after

    def half_written(self, out: Path) -> list[str]:
        return [path.name for path in out.glob(".tmp-*")]

    def read(self, out: Path) -> set[int]:
        if self.loses:
            raise EmbodiedError("damaged")
        return self.finished(out)

    def content(self, out: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in out.glob("[0-9]*")}


COUNT = """
import os, pathlib, sys, time
total, out = int(sys.argv[1]), pathlib.Path(sys.argv[2])
out.mkdir(exist_ok=True)
for n in range(total):
    if not (out / str(n)).exists():
        (out / f".tmp-{n}").write_text("half")
        time.sleep(0.05)
        (out / f".tmp-{n}").write_text(str(n * n))
        os.replace(out / f".tmp-{n}", out / str(n))
"""


@pytest.fixture
def counting(script: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The killing module, with commands of `Counting` in place of those of the package."""
    killing = script("robustness.killing")
    monkeypatch.setattr(killing, "COMMAND", [sys.executable, "-c", COUNT])
    return killing


def test_kills_are_survived_and_compared(counting: Any, tmp_path: Path) -> None:
    said: list[str] = []
    result = counting.torment(Counting(24), tmp_path, 5, 2, seed=1, say=said.append)
    assert result["ok"], result
    assert [kill["kind"] for kill in result["kills"]].count("write") == 2
    assert [kill["kind"] for kill in result["kills"]].count("start") == 1
    assert len(said) == 1 + 7
    counts = [kill["finished"] for kill in result["kills"]]
    assert counts == sorted(counts) and counts[-1] > counts[0]
    report = script_report(result)
    assert "count: 7 kills, passed" in report and "equal bit for bit in 24 files" in report


def script_report(stage: dict[str, Any]) -> str:
    kill_test = importlib.import_module("kill_test")
    facts = dict.fromkeys(("machine", "created_utc", "commit", "command"), "x")
    return kill_test.markdown({**facts, "stages": {"count": stage}})


def test_damage_and_difference_are_noticed(counting: Any, tmp_path: Path) -> None:
    result = counting.torment(
        Counting(9, loses=True), tmp_path, 1, 0, seed=0, say=lambda line: None
    )
    assert not result["ok"] and result["kills"][0]["damage"] == "damaged"
    (tmp_path / "count-killed" / "3").write_text("other")
    verdict = counting.verdict(
        Counting(9), [], tmp_path / "count-whole", tmp_path / "count-killed", 0, 0, 1.0
    )
    assert verdict["different"] == ["3"] and not verdict["ok"]


def test_moments_are_drawn_from_the_seed(script: Any) -> None:
    moments = script("robustness.killing").moments
    assert moments(96, 10, 3, seed=4) == moments(96, 10, 3, seed=4) != moments(96, 10, 3, seed=5)
    drawn = moments(96, 10, 3, seed=4)
    assert sorted(m.kind for m in drawn) == ["start"] * 2 + ["work"] * 8 + ["write"] * 3
    units = [m.units for m in drawn if m.kind != "start"]
    assert units == sorted(set(units)) and all(0 < unit < 72 for unit in units)


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_real_commands_survive(script: Any, tmp_path: Path) -> None:
    assert script("kill_test").main(["--quick", "--kills=1", "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "kill.json").read_text())
    assert {name: len(s["kills"]) for name, s in result["stages"].items()} == {
        "collect": 2,
        "train": 2,
    }


# -- invariance.py ----------------------------------------------------------------------------


@pytest.mark.sim
def test_invariance_of_an_untrained_checkpoint(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from tests.evaluate.checkpoints import untrained

    invariance = script("invariance")
    size = invariance.Size(episodes=2, recorded=2, workers=(0, 1), batches=(1, 2))
    monkeypatch.setattr(invariance, "QUICK", size)
    run = untrained(tmp_path / "run", "perceptual_cognitive")
    out = tmp_path / "out"
    assert invariance.main([str(run), "--quick", "--out", str(out)]) == 0
    result = json.loads((out / "invariance.json").read_text())
    assert [row["equal"] for row in result["workers"]] == [True, True]
    assert result["actions"][0]["chunks"] >= 2
    assert result["actions"][0]["largest_difference"] <= 1e-5
    assert [row["episodes"] for row in result["outcomes"]] == [2, 2]
    assert str(tmp_path) not in (out / "invariance.json").read_text()
    assert invariance.main([str(tmp_path), "--quick"]) == 2
    assert capsys.readouterr().err.startswith("invariance: no checkpoint at")


def test_a_changed_observation_changes_the_witness(script: Any) -> None:
    witness = script("robustness.witness")

    class Env:
        def __init__(self, value: float) -> None:
            self.value = value

        def step(self, actions: np.ndarray, **_: Any) -> Any:
            seen = {"x": np.array([1.0, self.value])}
            return seen, np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}

    def digest(value: float, idle: float) -> str:
        env = witness.Witness(Env(value))
        env.step(np.array([[0.5], [idle]]), active=np.array([True, False]))
        return env.hexdigest()

    assert digest(2.0, 0.0) == digest(2.0, 1.0)  # actions of idle rows don't count
    assert digest(2.0, 0.0) != digest(np.nextafter(2.0, 3.0), 0.0)
