"""The paired comparison of a bundle with its checkpoint: what is run, kept, told and failed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from embodied.core.files import read_json, write_json
from embodied.evaluate.results import EpisodeResult, write_episodes
from tests.test_bench import script  # noqa: F401


@dataclasses.dataclass
class World:
    """Stands for simulator and exporter; `wins` of 20 seeds for each source."""

    wins: dict[str, int]
    calls: list[str] = dataclasses.field(default_factory=list)

    def evaluate(self, source: str, out: str, episodes: int, seed_start: int, **_: Any) -> None:
        name = Path(source).name
        self.calls.append(f"evaluate {name}")
        rows = [
            EpisodeResult(
                task="t", level="easy", seed=seed_start + i, cue=0, success=i < self.wins[name],
                committed=True, commit="x", failure_kind="", length=9, time_s=1.0, reward=0.0,
                observations=3, state_bytes=8, row=0, intervene="none", intervened=None,
                donor_cue=None, followed=None, train_seed=0,
            )
            for i in reversed(range(episodes))
        ]  # fmt: skip
        Path(out).mkdir(parents=True)
        write_episodes(Path(out) / "episodes.jsonl", rows)
        write_json(Path(out) / "results.json", {})

    def export(self, source: str, out: Path, batches: Any, executor: Any, int8: bool) -> None:
        self.calls.append(f"export {out.name}")
        out.mkdir(parents=True)
        write_json(
            out / "parity.json", {"formats": {"onnx": {"1": {"action": 1e-6, "state": 2e-6}}}}
        )


def run(script: Any, monkeypatch: Any, folder: Path, world: World) -> tuple[int, dict[str, Any]]:  # noqa: F811
    module = script("exported_test")
    monkeypatch.setattr(module, "evaluate", world.evaluate)
    monkeypatch.setattr(module, "export", world.export)
    words = ["claim", "--episodes", "20", "--work", str(folder / "w"), "--out", str(folder)]
    return module.main(words), read_json(folder / "exported-claim.json")


def test_the_same_seeds_are_paired_and_nothing_is_done_twice(
    script: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    world = World({"claim": 18, "bundle": 18, "8-bits": 10})
    code, result = run(script, monkeypatch, tmp_path, world)
    plain, bundle, small = result["rows"]
    assert code == 0 and result["ok"]
    assert (bundle["only_this"], bundle["only_checkpoint"], bundle["p_value"]) == (0, 0, 1.0)
    assert (small["only_this"], small["only_checkpoint"]) == (0, 8) and small["p_value"] < 0.01
    assert plain["success"] == 0.9 and small["bytes"] > 0
    text = (tmp_path / "exported-claim.md").read_text()
    assert "| 8 bits | 50.0 % | 29.9 – 70.1 | 0 | 8 | 0.0078 | 1.0e-06 | 2.0e-06 | 0.0 |" in text
    world.calls.clear()
    assert run(script, monkeypatch, tmp_path, world)[0] == 0 and world.calls == []


def test_a_bundle_that_does_worse_fails(
    script: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    code, result = run(
        script, monkeypatch, tmp_path, World({"claim": 18, "bundle": 8, "8-bits": 9})
    )
    assert code == 1 and not result["ok"]
