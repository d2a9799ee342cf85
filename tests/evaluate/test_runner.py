"""The runner against a tiny environment: places, noise, ticks, interventions, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError, SimulatorError, SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.evaluate.results import EpisodeResult, read_episodes, write_episodes
from embodied.evaluate.runner import run
from tests.evaluate.fakes import CUES, FakePolicy, FakeVecEnv

SEEDS = list(range(1_000_000, 1_000_024))


def episodes(policy=None, batch=4, seeds=SEEDS, env=None, **kwargs) -> list[EpisodeResult]:
    env = env or FakeVecEnv(batch)
    return run(policy or FakePolicy(), env, seeds, progress=False, **kwargs)


def test_memory_succeeds_and_twin_is_at_chance():
    memory, twin = episodes(), episodes(FakePolicy(remember=False), seeds=range(300))
    assert all(e.success and e.committed and e.failure_kind == "" for e in memory)
    assert [e.seed for e in memory] == SEEDS
    assert 0.2 < np.mean([e.success for e in twin]) < 0.5
    assert {e.failure_kind for e in twin} == {"", "wrong_choice"}


@pytest.mark.parametrize("batch", [1, 3, 16, 40])
def test_batch_size_changes_no_outcome(batch):
    reference = [e.outcome() | {"reward": e.reward} for e in episodes(FakePolicy(remember=False))]
    other = episodes(FakePolicy(remember=False), batch=batch)
    assert [e.outcome() | {"reward": e.reward} for e in other] == reference


def test_replaying_some_episodes_in_their_rows_gives_the_same_rows():
    full = episodes(FakePolicy(remember=False))
    some = [full[i] for i in (3, 10, 17)]
    again = episodes(
        FakePolicy(remember=False), seeds=[e.seed for e in some], rows=[e.row for e in some]
    )
    assert again == some


def test_policy_is_called_once_for_all_rows():
    policy, env = FakePolicy(), FakeVecEnv(8)
    results = episodes(policy, env=env)
    observations = sum(e.observations for e in results)
    assert len(policy.calls) < 1.6 * observations / 8
    assert env.steps == sum(e.length for e in results)


def test_images_only_where_observed():
    env = FakeVecEnv(4)
    results = episodes(FakePolicy(images=True), env=env)
    gates_seen = sum(e.observations for e in results)
    assert env.renders < gates_seen + 2 * len(results)


def test_stale_image_is_refused():
    env = FakeVecEnv(4)
    original = env._observe
    env._observe = lambda i, render: original(i, render and env.rows[i].tick == 0)
    with pytest.raises(SimulatorError, match="no fresh image"):
        episodes(FakePolicy(images=True), env=env)


def test_explicit_cues():
    cues = [i % CUES for i in range(len(SEEDS))]
    results = episodes(cues=cues)
    assert [e.cue for e in results] == cues and all(e.success for e in results)


@pytest.mark.parametrize("interactive", [False, True])
def test_swapped_memory_is_followed(interactive):
    policy = FakePolicy()
    results = episodes(
        policy, env=FakeVecEnv(4, interactive=interactive), intervene="swapped", n_cues=CUES
    )
    assert len(results) == len(SEEDS)
    for e in results:
        assert e.intervened and e.followed and not e.success
        assert e.donor_cue == (e.cue + 1) % CUES and e.commit == str(e.donor_cue)
    # The memory's clock goes along: nothing stored ever lies in the future.
    assert all((c["last_s"] <= c["time_s"]).all() for c in policy.calls)


def test_swapped_twin_does_not_follow():
    results = episodes(
        FakePolicy(remember=False), seeds=range(200), intervene="swapped", n_cues=CUES
    )
    assert np.mean([e.followed for e in results]) < 0.5


def test_swap_refuses_observations_that_leak():
    with pytest.raises(SimulatorError, match="The task leaks"):
        episodes(env=FakeVecEnv(4, leaky=True), intervene="swapped", n_cues=CUES)


def test_erased_is_chance_and_frozen_still_remembers():
    erased = episodes(seeds=range(300), intervene="erased")
    frozen = episodes(intervene="frozen")
    assert 0.2 < np.mean([e.success for e in erased]) < 0.5
    assert all(e.success for e in frozen)
    assert all(e.intervened and e.donor_cue is None and e.followed is None for e in frozen)


def test_frozen_memory_is_not_written_after_go():
    policy = FakePolicy()
    episodes(policy, batch=1, seeds=SEEDS[:1], intervene="frozen")
    last = [float(c["last_s"][0]) for c in policy.calls]
    after_go = [float(c["time_s"][0]) for c in policy.calls if float(c["time_s"][0]) > last[-1]]
    assert len(after_go) >= 2 and last[-1] == last[-2]


def test_refusals():
    with pytest.raises(ConfigError, match="repeat"):
        episodes(seeds=[1, 1])
    with pytest.raises(ConfigError, match="swapped"):
        episodes(intervene="swaped")
    with pytest.raises(ConfigError, match="two cues"):
        episodes(intervene="swapped", n_cues=1)
    with pytest.raises(ActionError, match="NaN"):
        episodes(FakePolicy(bad_answer=True))
    policy = FakePolicy()
    policy.spec.observations["cue"] = ArraySpec((5,), "float32")
    with pytest.raises(SpecMismatch, match="cue"):
        episodes(policy)


def test_rows_survive_a_file(tmp_path):
    results = episodes(intervene="swapped", n_cues=CUES, task="fake", level="easy", train_seed=3)
    path = tmp_path / "episodes.jsonl"
    write_episodes(path, results)
    assert read_episodes(path) == results
    assert results[0].task == "fake" and results[0].train_seed == 3
    assert not list(tmp_path.glob(".*tmp"))


def test_executors_are_cleared_at_starts_gates_and_holds(monkeypatch):
    """No chunk reaches over a gate or a hold; between them nothing is cleared."""
    from embodied.evaluate import executors, runner

    cleared, moved = [], []

    class Spy(executors.ChunkPrefix):
        def clear(self, rows):
            cleared.append(bool(rows[0]))
            super().clear(rows)

        def act(self, observation, rows):
            moved.append(bool(rows[0]))
            return super().act(observation, rows)

    monkeypatch.setattr(runner, "build_executor", lambda config, spec, batch: Spy(spec, batch))
    env = FakeVecEnv(1)
    row = env.rows[0]
    (result,) = episodes(env=env, seeds=SEEDS[:1])
    # One call a control tick: held up to go (the start and both gates among them), then none.
    assert cleared[: row.go + 1] == [True] * (row.go + 1)
    assert not any(cleared[row.go + 1 :])
    assert moved == [False] * row.go + [True] * (result.length - row.go)


@pytest.mark.parametrize("clock", ["episode", "calls"])
def test_memory_is_told_seconds_or_counts_of_calls(clock):
    policy = FakePolicy()
    (result,) = episodes(policy, batch=1, seeds=SEEDS[:1], clock=clock)
    times = [float(call["time_s"][0]) for call in policy.calls]
    assert len(times) == result.observations
    if clock == "calls":
        assert times == pytest.approx([i / 20.0 for i in range(len(times))])
    else:
        assert times[1] == pytest.approx(0.4) and times[-1] > times[1] + 1
