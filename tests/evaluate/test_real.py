"""The runner on the real RememberColor: success, invariances, swaps, and whole evaluations."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from embodied import registry
from embodied.core.errors import ConfigError
from embodied.core.files import read_json
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import EnvConfig
from embodied.evaluate.api import evaluate
from embodied.evaluate.executors import ExecutorConfig
from embodied.evaluate.process import NEEDED, STAGES, process_rates
from embodied.evaluate.results import read_episodes
from embodied.evaluate.runner import closing, run
from tests.evaluate.checkpoints import STATE, memory_vla, untrained
from tests.evaluate.scripted import ChecklistPolicy, ColourPolicy

pytestmark = pytest.mark.sim

FIRST = EVAL_SEED_START  # a multiple of three: whole blocks of balanced cues
SEEDS = list(range(FIRST, FIRST + 9))


def episodes(batch=4, workers=0, seeds=SEEDS, remember=True, env=STATE, horizon=8, **options):
    vector = registry.make_vec("remember_color", "easy", env, batch, workers, copy=False)
    with closing(vector):
        policy = ColourPolicy(vector.observation_specs, remember, horizon)
        return run(policy, vector, seeds, n_cues=3, progress=False, **options)


@pytest.fixture(scope="module")
def reference():
    return episodes()


def test_a_remembered_colour_is_touched(reference):
    assert all(e.success and e.failure_kind == "" for e in reference)
    assert sorted(e.cue for e in reference) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(60 < e.length < 220 and e.observations > 8 for e in reference)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.filterwarnings("ignore:.*simulator workers on.*")
def test_workers_change_no_bit(reference, workers):
    assert episodes(workers=workers) == reference


def test_batch_size_changes_no_outcome(reference):
    for batch in (1, 16):
        other = episodes(batch=batch)
        assert [e.outcome() for e in other] == [e.outcome() for e in reference]


def test_replay_in_the_same_rows_is_bit_equal(reference):
    some = [reference[i] for i in (1, 4, 6)]
    assert episodes(seeds=[e.seed for e in some], rows=[e.row for e in some]) == some


def test_ensembling_and_a_frozen_memory_solve_it_too():
    executor = ExecutorConfig("ensemble", ensemble_chunks=2)
    blended = episodes(executor=executor, seeds=SEEDS[:3], horizon=12)
    frozen = episodes(intervene="frozen", seeds=SEEDS[:3])
    assert all(e.success for e in blended) and all(e.success for e in frozen)


def test_swapped_memory_is_followed_and_a_twin_is_not_moved():
    swapped = episodes(intervene="swapped")
    assert all(e.intervened and e.followed and not e.success for e in swapped)
    assert {e.failure_kind for e in swapped} == {"wrong_choice"}
    assert all(e.donor_cue == (e.cue + 1) % 3 for e in swapped)
    plain = episodes(remember=False)
    twin = episodes(remember=False, intervene="swapped")
    assert [e.commit for e in twin] == [e.commit for e in plain]
    assert np.mean([e.success for e in plain]) < 0.8


@pytest.mark.parametrize("remember", [True, False])
def test_in_a_row_of_choices_the_memory_of_one_less_is_swapped_in(remember):
    """It must open the last box again; a policy that ignores its memory isn't moved."""
    results = {}
    for kind in ("none", "swapped"):
        knobs = {"gap_min_s": 1.0, "gap_max_s": 1.5}
        env = EnvConfig(observation="state", knobs=knobs)
        vector = registry.make_vec("checklist_inspect", "easy", env, 2, 0, copy=False)
        with closing(vector):
            policy = ChecklistPolicy(vector.observation_specs, remember)
            results[kind] = run(policy, vector, SEEDS[:3], n_cues=2, intervene=kind, progress=False)
    if not remember:
        assert [e.commit for e in results["none"]] == [e.commit for e in results["swapped"]]
        assert not any(e.intervened for e in results["swapped"])  # it never got so far
        return
    assert all(e.success and e.commit == "done" for e in results["none"])
    for episode in results["swapped"]:
        assert episode.intervened and episode.followed and not episode.success
        assert (episode.commit, episode.failure_kind) == ("box2", "wrong_choice")


@pytest.mark.parametrize("remember", [True, False])
def test_in_a_row_of_choices_a_choice_is_stored_in_the_gap_behind_it(remember):
    """What was done is hidden before it is observed, so memory is rewound to that gap."""
    env = EnvConfig(observation="state", knobs={"gap_min_s": 1.0, "gap_max_s": 1.5})
    vector = registry.make_vec("checklist_inspect", "easy", env, 2, 0, copy=False)
    with closing(vector):
        policy = ChecklistPolicy(vector.observation_specs, remember)
        rows = [
            row
            for kind in NEEDED
            for row in run(policy, vector, SEEDS[:3], n_cues=2, intervene=kind, progress=False)
        ]
    rates = process_rates(rows)
    if not remember:  # it opens the first box again, and no memory moves it
        assert rates["recalled"]["rate"] == 0 and rates["blamed"] == {"recalled": 3}
        return
    assert [rates[stage]["k"] for stage in STAGES] == [3, 3, 3, 3] and not rates["blamed"]


@pytest.mark.render
def test_worker_count_changes_no_image_bit():
    """A policy that reads pixels and answers from them."""
    env = EnvConfig(image_size=32)
    outcomes = []
    for workers in (0, 2):
        vector = registry.make_vec("remember_color", "easy", env, 3, workers, copy=False)
        with closing(vector):
            torch.manual_seed(0)
            policy = memory_vla("none", vector.observation_specs)
            outcomes.append(run(policy, vector, SEEDS[:4], progress=False))
    assert outcomes[0] == outcomes[1]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {
        memory: untrained(tmp_path_factory.mktemp(memory), memory)
        for memory in ("perceptual_cognitive", "none")
    }


@pytest.mark.render
def test_a_checkpoint_becomes_a_results_directory(checkpoints):
    out = evaluate(
        checkpoints["perceptual_cognitive"],
        episodes=4,
        batch=2,
        intervene=["none", "swapped"],
        intervene_episodes=2,
        twin=str(checkpoints["none"]),
        videos=1,
        progress=False,
    )
    assert out.parent == checkpoints["perceptual_cognitive"] / "eval"
    names = {p.name for p in out.iterdir()}
    assert names == {
        "results.json",
        "episodes.jsonl",
        "twin_episodes.jsonl",
        "report.md",
        "report.html",
        "videos",
        "pictures",
    }
    results = read_json(out / "results.json")
    assert [(r["role"], r["intervene"], r["n"]) for r in results["rows"]] == [
        ("policy", "none", 4),
        ("twin", "none", 4),
        ("policy", "swapped", 2),
    ]
    main = results["rows"][0]
    assert main["ceiling"] == pytest.approx(1 / 3) and main["twin"]["paired_n"] == 4
    assert main["train_seed"] == 7 and main["knobs"]["K"] == 3
    rows = read_episodes(out / "episodes.jsonl")
    assert len(rows) == 6 and {e.task for e in rows} == {"remember_color"}
    assert "embodied evaluate" in results["command"]
    json.dumps(results, allow_nan=False)
    assert not list(out.parent.glob(".*"))
    assert len(list((out / "videos").iterdir())) == 3


def test_evaluation_refuses(checkpoints, tmp_path):
    source = checkpoints["none"]
    with pytest.raises(ConfigError, match="overlap"):
        evaluate(source, seed_start=1500, episodes=10)
    with pytest.raises(ConfigError, match="already exists"):
        evaluate(source, out=str(tmp_path))
    with pytest.raises(ConfigError, match="did you mean 'swapped'"):
        evaluate(source, intervene=["swaped"])
    with pytest.raises(ConfigError, match="did you mean 'remember_color'"):
        evaluate(source, task=["remember_colour"], out=str(tmp_path / "x"))
    with pytest.raises(ConfigError, match="level"):
        evaluate(source, level="eazy", out=str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
