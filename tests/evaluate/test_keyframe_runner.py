"""Keyframe answers through the runner on the real tasks, without any learning."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from embodied import registry
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import EnvConfig
from embodied.evaluate.results import EpisodeResult
from embodied.evaluate.runner import closing, run
from tests.evaluate.keyframes import ALWAYS_LIFTED, KeyframePolicy

pytestmark = pytest.mark.sim

TASKS = ("remember_color", "put_block_back", "rearrange_block", "reopen_drawer")
GATES = 3  # the start, the end of the cue and go
ENDS = ("reached", "contact", "stalled", "timeout")


def episodes(
    task: str,
    count: int = 2,
    batch: int = 2,
    env: EnvConfig | None = None,
    options: dict[str, Any] | None = None,
    **policy: Any,
) -> list[EpisodeResult]:
    env = env or EnvConfig(observation="state")
    vector = registry.make_vec(task, "easy", env, batch, 0, copy=False)
    with closing(vector):
        seeds = range(EVAL_SEED_START, EVAL_SEED_START + count)
        made = KeyframePolicy(vector, **policy)
        return run(made, vector, seeds, progress=False, **(options or {}))


@pytest.mark.parametrize("task", TASKS)
def test_the_experts_keyframes_alone_solve_a_task(task):
    for e in episodes(task):
        assert e.success and e.failure_kind == ""
        assert e.keyframes["stalled"] == e.keyframes["timeout"] == e.keyframes["clipped"] == 0
        # One look a gate and a keyframe that ended: none while the arm is held.
        ended = sum(e.keyframes[name] for name in ENDS)
        assert GATES + ended - 2 <= e.observations <= GATES + ended
        assert e.length < 330


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_they_do_so_with_the_stock_controller_too(task):
    env = EnvConfig(observation="state", control="osc")
    for e in episodes(task, env=env):
        assert e.success and e.keyframes["stalled"] == e.keyframes["timeout"] == 0


def test_batch_size_changes_nothing_but_the_row():
    alone, together = (
        episodes("remember_color", 3, batch, paths=ALWAYS_LIFTED) for batch in (1, 3)
    )
    assert [dataclasses.replace(e, row=0) for e in together] == alone


def test_what_a_donor_did_is_not_counted():
    swap = {"intervene": "swapped", "n_cues": 4}
    (plain,), (swapped,) = (episodes("put_block_back", 1, 1, options=o) for o in ({}, swap))
    assert swapped.intervened and swapped.keyframes == plain.keyframes
    assert plain.keyframes["reached"] == 10


@pytest.mark.render
def test_pictures_are_drawn_only_near_decisions(monkeypatch):
    """And every one that the policy looks at is fresh, or the runner refuses it."""
    from sims.vector import MemoryBenchVectorEnv

    asked, step = [], MemoryBenchVectorEnv.step

    def counting(self, actions, render=None, active=None):
        asked.append((np.sum(render), np.sum(active)))
        return step(self, actions, render, active)

    monkeypatch.setattr(MemoryBenchVectorEnv, "step", counting)
    env = EnvConfig(observation="rgb", image_size=16)
    (e,) = episodes("remember_color", 1, 1, env, also=("front_image_u8",))
    drawn, steps = np.sum(asked, axis=0)
    assert e.success and steps == e.length
    assert e.observations - GATES <= drawn < 0.2 * steps


def test_rows_of_older_files_are_read():
    row = {
        **{"task": "", "level": "", "seed": 1, "cue": 0, "success": True, "committed": True},
        **{"commit": "", "failure_kind": "", "length": 9, "time_s": 0.45, "reward": 1.0},
        **{"observations": 2, "state_bytes": 0, "row": 0},
    }
    assert EpisodeResult.from_json(row).keyframes is None
