"""The benchmark of the recall suite, at sizes that say nothing about speed."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import sims
from embodied.core.policy import state_nbytes
from tests.test_bench import script  # noqa: F401


@pytest.fixture
def recall(script: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:  # noqa: F811
    module = script("benchmarks.recall")
    for name, value in {"ROWS": 4, "TICKS": 64, "STEP_ROWS": (1, 2), "PAST": 70}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "GAMES", {"ballet_pixel": 2, "ballet_lite": 2})
    reads = module.chunk_reads
    monkeypatch.setattr(reads, "PASTS", dict.fromkeys(reads.PASTS, 512))
    monkeypatch.setattr(
        reads, "learning", lambda plan, whole=reads.learning: whole(plan, rows=2, ticks=40)
    )
    return module


def test_every_figure_appears_and_is_finite(
    recall: ModuleType,
    script: Any,  # noqa: F811
) -> None:
    timing = script("benchmarks.timing")
    figures = recall.measure(timing.Plan(1, 0.0))
    plain = {figure.name: figure.to_json() for figure in figures}
    remembering = [name for name in recall.MEMORIES if name != "none"]
    against = {f"hcam_vs_full_{past}" for past in ("1k", "8k", "65k", "500k")}
    against |= {f"{game}_fps{how}" for game in recall.GAMES for how in ("", "_uncopied")}
    against |= {f"step_ms_{rows}_{name}" for rows in (1, 2) for name in remembering}
    alone = {f"train_fps_{name}" for name in recall.MEMORIES}
    alone |= {"train_fps_hierarchical_chunks_every_tick"}
    alone |= {f"state_bytes_{name}" for name in remembering}
    alone |= {f"learn_ticks_{route}" for route in ("every_tick", "masked", "recorded")}
    assert {name for name, value in plain.items() if "other" in value} == against
    assert {name for name, value in plain.items() if "other" not in value} == alone
    assert len(figures) == len(plain)
    for value in plain.values():
        numbers = [number for number in value.values() if not isinstance(number, str)]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
    assert timing.report(figures).splitlines()[-1].startswith('{"hcam_vs_full_1k"')


def test_both_forms_of_full_attention_agree(recall: ModuleType) -> None:
    torch.manual_seed(0)
    forms = recall.chunk_reads.full_reads(1024)
    torch.testing.assert_close(forms["matmul"](), forms["fused"]())
    assert recall.chunk_reads.chunk_read(1024)().shape == (1, 1, recall.chunk_reads.WIDTH)


@pytest.mark.parametrize(
    ("game", "key"), [("ballet_pixel", "agent_image_u8"), ("ballet_lite", "homes_token")]
)
def test_the_plain_rival_shows_what_the_game_shows(recall: ModuleType, game: str, key: str) -> None:
    env = sims.make_vec(f"recall/{game}", 1, level=recall.GAME_LEVEL)
    obs, _ = env.reset(seed=3)
    plain = recall.PlainBallet(env.game)
    assert np.array_equal(plain.see(), obs[key][0])
    random, first, over, steps = np.random.default_rng(0), obs[key][0], np.zeros(1, bool), 0
    while not over[0]:
        action = random.integers(0, 8, 1)
        obs, _, terminated, truncated, _ = env.step(action)
        seen, over, steps = plain.step(int(action[0])), terminated | truncated, steps + 1
        assert np.array_equal(seen, first if over[0] else obs[key][0]), steps
    assert steps > 62 and plain.time == 0


def test_memories_of_agents_are_as_full_as_they_get(recall: ModuleType) -> None:
    for name in recall.MEMORIES:
        policy = recall.build(recall.run_config(name, recall.READ_WHEN))
        assert policy.config.memory == name and policy.config.read_when == recall.READ_WHEN
        state = recall.filled(policy, 3)
        assert state_nbytes(state) == 3 * state_nbytes(policy.initial_state(1))
        if name != "none":
            assert torch.equal(state["count"], torch.full((3,), 70))
