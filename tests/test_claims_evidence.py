"""What published claims tell of a task: only of it, and only what they measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from embodied import registry
from embodied.claims import evidence
from embodied.claims.index import FIELDS, SWAPPED_EPISODES
from embodied.core.files import write_json
from embodied.evaluate.results import EpisodeResult, write_episodes

KNOBS = registry.task_info("remember_color").knobs("easy")


def claim(
    root: Path, name: str, memory: str, *rows: dict[str, Any], intervene: str = "none"
) -> None:
    """Adds a claim with an evaluation of these rows."""
    given = {"id": name, "policy": "memory_vla", "memory": memory, "observation": "state"}
    given["intervene"] = intervene
    file = root / "index.json"
    kept = evidence.read_index(root)
    write_json(file, [*kept, {**dict.fromkeys(FIELDS), **given}])
    write_json(root / name / "evaluation-0.json", {"rows": [row(memory=memory, **r) for r in rows]})


def row(**fields: Any) -> dict[str, Any]:
    plain = {
        "task": "remember_color", "level": "easy", "knobs": KNOBS, "intervene": "none",
        "privileged": False, "n": 100, "successes": 98, "commit_rate": 1.0, "ceiling": 1 / 3,
        "swapped": None, "followed": None,
    }  # fmt: skip
    return {**plain, **fields}


def told(root: Path) -> list[str]:
    return evidence.sentences("remember_color", "easy", KNOBS, root)


def test_nothing_is_told_where_nothing_is_published(tmp_path: Path) -> None:
    assert told(tmp_path) == []


def swap(followed: bool | None, **fields: Any) -> EpisodeResult:
    plain = EpisodeResult(
        task="remember_color", level="easy", seed=1, cue=0, success=False, committed=True,
        commit="", failure_kind="wrong_choice", length=1, time_s=1.0, reward=0.0, observations=1,
        state_bytes=1, row=0, intervene="swapped", intervened=followed is not None, donor_cue=1,
        followed=followed,
    )  # fmt: skip
    return dataclasses.replace(plain, **fields)


def test_a_memory_and_its_swaps_are_told(tmp_path: Path) -> None:
    claim(tmp_path, "a", "gru", {}, {"task": "put_block_back", "successes": 1})
    # Published from other evaluations than the claim's own, whose rows know nothing of swaps.
    swaps = [swap(True)] * 88 + [swap(False)] * 2 + [swap(None)]
    others = [swap(True, task="put_block_back"), swap(False, level="hard")]
    write_episodes(tmp_path / "a" / SWAPPED_EPISODES, [*swaps, *others])
    assert told(tmp_path) == [
        "`a`: memory_vla from state succeeds in 98.0 % (93.0 – 99.4, n = 100) with memory gru, and "
        "follows a swapped memory in 88 of 90."
    ]


def test_a_network_without_memory_is_held_to_the_ceiling(tmp_path: Path) -> None:
    claim(tmp_path, "able", "none", {"n": 1000, "successes": 333})
    claim(tmp_path, "idle", "none", {"n": 1000, "successes": 30, "commit_rate": 0.1})
    able, idle = told(tmp_path)
    assert "33.3 % (30.4 – 36.3, n = 1,000) without memory and commits in 100.0 %;" in able
    assert "equivalent to the ceiling" in able
    assert "commits in 10.0 %, no able control; equivalence" in idle and "not shown" in idle


def test_other_knobs_and_privileged_policies_prove_nothing(tmp_path: Path) -> None:
    claim(tmp_path, "other", "gru", {"knobs": {**KNOBS, "K": 5}}, {"level": "hard"})
    claim(tmp_path, "oracle", "gru", {"privileged": True})
    assert told(tmp_path) == []


def test_a_claim_of_erased_memories_is_not_told_with_the_plain_episodes(tmp_path: Path) -> None:
    rows = {}, {"intervene": "erased", "successes": 30}
    claim(tmp_path, "erased", "gru", *rows, intervene="erased")
    assert told(tmp_path) == []


def test_training_seeds_are_pooled(tmp_path: Path) -> None:
    claim(tmp_path, "a", "gru", {})
    write_json(tmp_path / "a" / "evaluation-1.json", {"rows": [row(memory="gru", successes=90)]})
    (line,) = told(tmp_path)
    assert "94.0 %" in line and "n = 200" in line and "swapped" not in line


def test_the_published_claims_can_be_told() -> None:
    lines = evidence.sentences("remember_color", "easy", KNOBS)
    assert any("remember_color-k3-rgb-none`" in line and "without memory" in line for line in lines)
    assert any("follows a swapped memory in" in line for line in lines)


@pytest.mark.parametrize(
    ("task", "level", "swaps"),
    [
        ("reopen_drawer", "extreme", 108),
        ("put_block_back", "extreme", 107),
        ("rearrange_block", "hard", 96),
    ],
)
def test_swaps_of_other_evaluations_are_told(task: str, level: str, swaps: int) -> None:
    lines = evidence.sentences(task, level, registry.task_info(task).knobs(level))
    (line,) = [s for s in lines if "`suite-memory_bench_3-sam2act_plus-extreme-hard-rgbd`" in s]
    assert line.endswith(f"follows a swapped memory in {swaps} of {swaps}.")
