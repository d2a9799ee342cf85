"""How far keyframes are off: demonstrations and answers whose distance is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from embodied.core.errors import DataError
from embodied.core.files import write_json
from tests.test_bench import script  # noqa: F401


class Answers:
    """A policy that answers with what it sees, and remembers how many decisions went by."""

    spec = SimpleNamespace(observations=("eef_pos_m",), noise_shape=(1, 9))

    def initial_state(self, rows: int) -> dict[str, torch.Tensor]:
        return {"count": torch.zeros(rows)}

    def observe(self, obs: Any, time_s: Any, state: Any, reset: torch.Tensor) -> Any:
        count = torch.where(reset, 0, state["count"]) + 1
        return (obs["eef_pos_m"], count), {"count": count}

    def act(self, working: Any, noise: torch.Tensor) -> Any:
        seen, count = working
        chunk = torch.zeros(len(seen), 1, 9)
        chunk[:, 0, :3] = seen
        chunk[:, 0, 2] += 0.01 * count
        return SimpleNamespace(chunk=chunk)


class Data:
    """Two demonstrations of two and three decisions; the hand already is at each keyframe."""

    episodes = 2

    def __init__(self, *known: bool) -> None:
        self.known = torch.tensor(known).reshape(2, 3)

    def batch(self, step: int) -> Any:
        place = torch.rand(2, 3, 3)
        valid = torch.tensor([[True, True, False], [True, True, True]])
        return SimpleNamespace(
            obs={"eef_pos_m": place},
            time_s=torch.zeros(2, 3),
            is_first=torch.tensor([[True, False, False]] * 2),
            valid=valid,
            act_mask=torch.ones_like(valid),
            extras={
                "keyframe": torch.nn.functional.pad(place, (0, 6)),
                "keyframe_valid": self.known,
            },
        )


def test_only_decisions_with_a_keyframe_count(script: Any) -> None:  # noqa: F811
    module = script("studies.keyframes_off")
    found = module.keyframes_off(Answers(), Data(True, True, True, True, True, True), 1)
    assert found["decisions"] == 5  # the third of the first demonstration is padding
    assert found["median_m"] == pytest.approx(0.02, abs=1e-6)  # 1, 2; 1, 2, 3 cm
    assert found["p95_m"] == pytest.approx(0.028, abs=1e-6)
    found = module.keyframes_off(Answers(), Data(True, False, True, False, False, True), 1)
    assert found["decisions"] == 2
    assert found["median_m"] == pytest.approx(0.02, abs=1e-6)  # 1 and 3 cm


def test_demonstrations_without_keyframes_say_so(script: Any) -> None:  # noqa: F811
    with pytest.raises(DataError, match="no decision of these demonstrations has a keyframe"):
        script("studies.keyframes_off").keyframes_off(Answers(), Data(*[False] * 6), 1)


def test_a_study_measures_it_once(script: Any, monkeypatch: Any, tmp_path: Path) -> None:  # noqa: F811
    study, calls = script("studies.study"), []

    def found(policy: Any, data: Any, batches: int) -> dict[str, float]:
        calls.append(batches)
        return {"median_m": 0.004, "p95_m": 0.0123, "decisions": 7}

    monkeypatch.setattr(study.Cell, "work", lambda self: None)
    monkeypatch.setattr(study, "load", lambda run: SimpleNamespace(policy=None))
    monkeypatch.setattr(study, "SegmentDataset", lambda paths, config: SimpleNamespace(episodes=40))
    monkeypatch.setattr(study, "keyframes_off", found)
    names = ("keyframe off, median", "keyframe off, 95 %")
    question = study.Study(
        "toy", "", "", (), (), (study.Variant("a", ""),), held_out=("data/held",), facts=names
    )
    (job,) = study.jobs(question, [], tmp_path)
    row = {"role": "policy", "intervene": "none", "n": 10, "successes": 9}
    write_json(job.results / "results.json", {"rows": [row]})
    job.work()
    job.work()
    assert calls == [40 // study.HELD_OUT_BATCH]
    (line,) = study.read([job])
    facts = script("studies.facts")
    assert [facts.text(name, line.facts[name]) for name in names] == ["4.0 mm", "12.3 mm"]
