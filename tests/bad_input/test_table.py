"""Bad input on the command line: one clear line, exit code 2, nothing written over.

Each row is a command line that must be refused. What the modules behind it refuse in detail is
tested beside them; names and keys of `train`, `collect` and `list` are in test_cli.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embodied.cli import main
from tests.bad_input.damage import (
    ANY,
    EVALUATE,
    SMALL,
    TASK,
    TRAIN,
    add_tensor,
    contents,
    edit_array,
    edit_manifest,
    edit_policy,
    edit_weights,
    flip,
    foreign,
    misshape,
    no_checkpoint,
    nothing,
    other_video,
    pickled,
    put,
    refused,
    truncate,
    unfinished,
)

TINY = [*ANY, "policy.config.trunk=tiny", "policy.config.encoder.image_size=16"]
"""An encoder that fits the pictures of ``data``."""

NAMES = [
    (["evaluate", "run", "task=remember_colour"], "did you mean 'remember_color'?"),
    (["evaluate", "run", "level=eazy"], "did you mean 'easy'?"),
    (["evaluate", "run", "knobs.gap_max=3"], "did you mean 'gap_max_s'?"),
    (["evaluate", "run", "intervene=swaped"], "did you mean 'swapped'?"),
    (["evaluate", "run", "executor.name=prefx"], "did you mean 'prefix'?"),
    (["evaluate", "run", "executor.nam=prefix"], "did you mean 'executor.name'?"),
    (["evaluate", "run", "device=cudda"], "did you mean 'cuda'?"),
    (["evaluate", "run", "episodez=3"], "did you mean 'episodes'?"),
    (["evaluate"], "missing SOURCE. Usage: embodied evaluate SOURCE [key=value ...]"),
    (["serve"], "missing SOURCE. Usage: embodied serve SOURCE"),
    (["data", "show"], "missing DATASET. Usage: embodied data ACTION DATASET"),
    (
        ["evaluate", "memory_vla-remember_colour-k3-rgb"],
        "did you mean the claim 'memory_vla-remember_color-k3-rgb'?",
    ),
    (["evaluate", "rum"], "no checkpoint at rum: expected policy.json"),
    (["evaluate", "run", "twin=rum"], "no checkpoint at rum"),
    (["play", "remember_colour"], "did you mean 'remember_color'?"),
    (["play", TASK, "level=eazy"], "did you mean 'easy'?"),
    (["play", TASK, "control=fst"], "did you mean 'fast'?"),
    (["play", "policy=rum"], "no checkpoint at rum"),
    (["data", "shwo", "data"], "did you mean 'show'?"),
    (["data", "show", "dta"], "dta is not a directory, so it is no dataset"),
    (["data", "check", "run"], "run has no dataset.json"),
    (["data", "show", "data", "sample=3"], "data show does not read sample; check does"),
    (["data", "render", "data", "out=new", "observation=rgbb"], "did you mean 'rgb'?"),
    (["verify", "memory_vla-remember_colour"], "unknown claim 'memory_vla-remember_colour'"),
    (["certify", "remember_colour"], "did you mean 'remember_color'?"),
    (["certify", TASK, "level=eazy"], "did you mean 'easy'?"),
    (["certify", TASK, "controls=fst"], "did you mean 'fast'?"),
    (["demo", "preset=dmo"], "did you mean 'demo'?"),
    (["doctor", "quik=true"], "did you mean 'quick'?"),
    ([*TRAIN, "device=gpu"], "unknown device 'gpu'"),
    ([*TRAIN, "data=data", "policy.config.trunk=cnov"], "did you mean 'conv'?"),
    ([*TRAIN, "data=data", "policy.config.head.kind=flw"], "did you mean 'flow'?"),
    ([*TRAIN, "data=data", "policy.config.head.dit.perception=alive"], "did you mean 'live'?"),
    ([*TRAIN, "data=data", "policy.config.goal_sees=arms"], "did you mean 'arm'?"),
    ([*TRAIN, "data=data", "policy.config.encoder.patch=8"], "trunk=conv has no encoder"),
    ([*TINY, "data=data", "policy.config.encoder.pach=8"], "did you mean 'patch'?"),
    ([*TRAIN, "data=data", "memory.config.overflow=retain"], "unknown overflow rule 'retain'"),
    ([*TRAIN, "data=data", "observation=rbg"], "did you mean 'rgb'?"),
    ([*TRAIN, "data=data", "order=groop"], "did you mean 'group'?"),
    ([*TRAIN, "data=data", "levels=[eazy]"], "did you mean 'easy'?"),
    (["evaluate", "run", "clock=call"], "did you mean 'calls'?"),
]

TYPES = [
    (["evaluate", "run", "episodes=many"], "episodes: expected int, got 'many' (str)"),
    (["evaluate", "run", "threads=0"], "threads must be >= 1, got 0"),
    (["evaluate", "run", "capacity=-1"], "capacity must be >= 0, got -1"),
    (["evaluate", "run", "knobs.K=nine"], "knob 'K' of remember_color: expected a number"),
    (["evaluate", "run", "seed_start=50"], "overlap the seeds 0..99"),
    (["play", TASK, "size=big"], "size: expected int, got 'big' (str)"),
    (["play", TASK, "out=new.gif"], "ending in .mp4"),
    (["data", "render", "data", "out=new", "image_size=9.5"], "image_size: expected int or null"),
    (["data", "render", "data", "out=new", "control=osc"], "unknown key 'control'"),
    (
        ["evaluate", "run", "knobs.K=99", "out=new"],
        "knob K of remember_color: expected 2 to 12, got 99",
    ),
    (["benchmark", "suite=memory_bench_3", "level=exteme"], "did you mean 'extreme'?"),
    (["benchmark", "suite=memory_bench3"], "did you mean 'memory_bench_3'?"),
    (["verify", "x", "episodes=0"], "episodes must be >= 1, got 0"),
    (["certify", TASK, "seeds=0"], "seeds >= 1"),
    (["demo", "episodes=0"], "expected demonstrations >= 1 and episodes >= 1"),
    ([*TRAIN, "data=data", "seed=-1"], "seed must be >= 0, got -1"),
    ([*TRAIN, "data=data", "optim.clip_norm=0"], "clip_norm must be > 0"),
    ([*TRAIN, "data=data", "data_weights=[1,2]"], "data_weights must be 1 numbers"),
    ([*TRAIN, "data=data", "policy.config.head.steps=0"], "steps within 1..100"),
    ([*TRAIN, "data=data", "policy.config.blocks=-1"], "blocks must be >= 0"),
    ([*TRAIN, "data=data", "memory.config.capacity=0"], "choose memory=none"),
    ([*TRAIN, "data=data", "memory.config.heads=5"], "heads must divide the width 16, got 5"),
    ([*TRAIN, "data=data", "memory.config.anchor=16"], "pins all of the 16 slots"),
    ([*TRAIN, "data=data", "policy.config.head.guidance=1.5"], "set condition_dropout too"),
    ([*TRAIN, "data=data", "levels=[easy,hard]"], "1 tasks need as many levels"),
    ([*TRAIN, "data=data", "order=stream"], "order_ticks must be >= 2 for order=stream, got 0"),
    ([*TRAIN, "data=data", "stages=[{steps: 9}, {steps: 9}]"], "the last would never begin"),
    ([*ANY, "data=data", "policy.config.trunk=tiny"], "16 px wide, the encoder takes"),
    ([*TINY, "data=data", "policy.config.token_grid=3"], "token_grid=3 must divide"),
    (["collect", f"task={TASK}", "out=new", "workers=-1"], "num_workers must be at least 0"),
    (
        ["collect", f"task={TASK}", "out=new", "workers=0", "observe_period_s=0.03"],
        "expected a whole number >= 1. Use a multiple of 0.05 s",
    ),
]

MIXED = ("train", f"task={TASK},put_block_back", "steps=2", "out=new", *SMALL)

FILES = [
    # No dataset.
    (nothing, [*TRAIN, "level=hard", "observation=state"],
     "`embodied collect task=remember_color level=hard observation=state`"),
    (nothing, [*TRAIN, "data=dta"], "level=easy observation=rgb out=dta`"),
    # A dataset of another task, level, observation, controller, camera set or action size.
    (nothing, [*TRAIN, "data=other_task"], "other_task holds put_block_back easy rgb, asked for"),
    (nothing, [*TRAIN, "data=data", "level=hard"], "easy rgb, asked for is remember_color hard"),
    (nothing, [*TRAIN, "data=data", "observation=state"], "asked for is remember_color easy state"),
    (nothing, [*MIXED, "data=osc,other_task"], "env.control: 'osc' against 'fast'"),
    (nothing, [*MIXED, "data=two_cameras,other_task"], "['front', 'wrist'] against ['front']"),
    (edit_manifest(action_size=6), [*MIXED, "data=data,other_task"], "action_size: 6 against 7"),
    (edit_manifest(action_size=6), [*TRAIN, "data=data"], "label chunks of [16, 7], expected"),
    (nothing, [*TRAIN, "data=data", "policy.config.horizon=40"], "label chunks have 16"),
    (nothing, [*ANY, "data=data", "policy.config.trunk=entities"], "Use observation=state"),
    (nothing, [*TRAIN, "data=data", "policy.config.proprio=[joint]"], "needs the observations"),
    (nothing, ["data", "render", "data", "out=data"], "is the source itself"),
    (nothing, ["collect", f"task={TASK}", "image_size=24", "out=data", "episodes=3", "workers=0"],
     "env.image_size: 24 against 16; nothing was written"),
    # NaN and actions out of range.
    (edit_array("label/chunk", put(np.nan)), [*TRAIN, "data=data"], "label chunk with NaN or an"),
    (edit_array("label/chunk", put(1.5)), [*TRAIN, "data=data"], "an action outside [-1, 1]. One"),
    # Damaged files.
    (truncate, [*TRAIN, "data=data"], "bytes, expected"),
    (flip, [*TRAIN, "data=data"], "was edited or damaged"),
    (foreign, [*TRAIN, "data=data"], "shard-00000.h5 is a foreign HDF5 file"),
    (foreign, ["data", "show", "data"], "is a foreign HDF5 file"),
    (edit_manifest(format_version=99), [*TRAIN, "data=data"], "format_version 99"),
    (unfinished, [*TRAIN, "data=data"], "run the same `embodied collect` again to finish it"),
    # Damaged checkpoints.
    (edit_weights(lambda w: w.pop("goal.out.bias")), EVALUATE, "missing goal.out.bias"),
    (edit_weights(add_tensor), EVALUATE, "unexpected backdoor"),
    (edit_weights(misshape), EVALUATE, "goal.out.bias: shape [3], expected [5]"),
    (edit_weights(lambda w: w.clear()), EVALUATE, "more. It was edited or written by another"),
    (pickled, EVALUATE, "is a pickle or zip archive, which is never loaded"),
    (pickled, ["play", "policy=run"], "is a pickle or zip archive"),
    (pickled, [*TRAIN, "data=data", "init=run"], "is a pickle or zip archive"),
    (edit_policy(lambda d: d.update(format_version=99)), EVALUATE, "format version 99 is newer"),
    (edit_policy(lambda d: d["interface"].pop("observations")), EVALUATE, "'interface' does not"),
    (edit_policy(lambda d: d["config"].update(widht=3)), EVALUATE, "did you mean 'policy.json"),
    (edit_policy(lambda d: d.update(policy="memory_vl")), EVALUATE, "did you mean 'memory_vla'?"),
    (edit_policy(lambda d: d.pop("env")), EVALUATE, "is not a valid policy description"),
    (no_checkpoint, EVALUATE, "carry it on with: embodied train --resume out=run"),
    # What is there already.
    (nothing, [*TRAIN[:4], "out=run", "data=data"], "run already exists; pass --resume to carry"),
    (nothing, [*TRAIN[:4], "out=data", "data=data"], "it is no run (it has no config.yaml)"),
    (nothing, [*TRAIN[:4], "out=run/config.yaml", "data=data"], "is a file; choose another"),
    (nothing, [*EVALUATE, "out=data"], "data already exists; choose another out="),
    (nothing, ["collect", f"task={TASK}", "out=run", "workers=0"], "exists and is no dataset"),
    (nothing, ["demo", "out=run"], "run exists and is no demo"),
    (other_video, ["play", TASK, "out=video.mp4"], "video.mp4 already exists"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), NAMES + TYPES, ids=[row[1] for row in NAMES + TYPES])
def test_names_and_types(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    assert message in refused(capsys, *words)
    assert contents(place) == before


@pytest.mark.parametrize(("damage", "words", "message"), FILES, ids=[row[2] for row in FILES])
def test_files(
    damage: Callable[[Path], object],
    words: list[str],
    message: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(place)
    before = contents(place)
    assert message in refused(capsys, *words)
    assert contents(place) == before


def test_a_check_lists_every_damage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(place)
    assert main(["data", "check", "data", "sample=0"]) == 1
    captured = capsys.readouterr()
    assert "PROBLEM" in captured.out and "edited or damaged" in captured.out
    assert captured.err == ""


# ---- interrupted writes ------------------------------------------------------------------


def test_what_interrupted_writes_left_is_no_obstacle(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "new").mkdir()
    (place / "new" / ".tmp-config.yaml-1").write_text("task: [rem")
    words = [*TRAIN, "data=data", "checkpoint_every=1"]
    assert main(words) == 0
    torn = place / "new" / "checkpoints" / ".writing-00000003"
    torn.mkdir()
    (torn / "policy.json").write_text("{")
    half = place / "data" / ".tmp-shard-00001.h5-1"
    half.write_bytes(b"\x89HDF")
    capsys.readouterr()
    assert main(["train", "--resume", "out=new"]) == 0, "a finished run has nothing left to do"
    assert main(["data", "check", "data", "sample=0"]) == 0


def test_a_torn_training_state_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "data=data"]) == 0
    state = place / "new" / "checkpoints" / "00000002" / "train_state"
    (state / "state.json").write_text('{"st')
    before = contents(place)
    assert "cannot be resumed from" in refused(capsys, "train", "--resume", "out=new")
    assert contents(place) == before
    (state / "state.json").write_text('{"step": 2}')
    (state / "optimizer.safetensors").unlink()
    before = contents(place)
    assert "lacks optimizer.safetensors" in refused(capsys, "train", "--resume", "out=new")
    assert contents(place) == before
