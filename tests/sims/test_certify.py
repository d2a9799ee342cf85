"""Certificates: stored ones against fresh small computations, and faults that must be found."""

from __future__ import annotations

import importlib.metadata
import json

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from sims.memory_bench import aliasing, certify
from sims.memory_bench.catalog import TASKS
from sims.memory_bench.machines import task_class
from tests.examples import own_task

NAMES = tuple(TASKS)
LEVELS = [(task, level) for task in NAMES for level in TASKS[task].levels]
CORE_TEN = (
    "reopen_drawer",
    "put_block_back",
    "rearrange_block",
    "shell_game_swap",
    "remember_color",
    "order_recall",
    "pick_times",
    "checklist_inspect",
    "stale_fact",
    "key_trial",
)
HELD = ("remember_color", "shell_game_swap", "stale_fact")
"""Those of them whose arm is held until go."""
NO_MEMORY = {n for n, info in TASKS.items() if not info.needs_memory(info.knobs("easy"))}

COARSE = (
    "order_recall",
    "pick_times",
    "checklist_inspect",
    "key_trial",
    "intercept_behind_screen",
    "gather_and_recall",
    "trace_route",
    "bind_shape_color",
    "odd_one_out",
    "blink_count",
    "stop_at_nth_pass",
    "insert_as_shown",
    "set_recall",
    "take_it_back",
)
"""Tasks whose expert has been measured on 20 episodes a level or more, under ``fast`` alone. A
finer measurement takes a name out."""


@pytest.mark.parametrize("task", NAMES)
def test_stored_certificates_are_whole_and_hold(task):
    stored = certify.load(task)
    assert stored["task"] == task and stored["env_id"] == TASKS[task].env_id
    assert stored["format_version"] == certify.FORMAT_VERSION
    assert set(stored["levels"]) == set(TASKS[task].levels)
    for level, proof in stored["levels"].items():
        assert proof["holds"], level
        assert proof["knobs"] == TASKS[task].knobs(level)
        expert = proof["expert"]["fast"]
        episodes = 20 if task in COARSE else 200
        assert expert["episodes"] >= episodes and expert["success"] >= 0.99, (level, expert)
        if task not in COARSE:
            noisy = proof["expert"]["fast_noisy"]
            assert noisy["success"] >= 0.95, (level, noisy)
        if level in ("easy", "hard") and task not in COARSE:
            osc = proof["expert"]["osc"]
            assert osc["episodes"] >= 100 and osc["success"] >= 0.97, (level, osc)
        assert proof.get("needs_memory", True) == (task not in NO_MEMORY)
        if task in NO_MEMORY:
            assert proof["aliasing"] == proof["gate"] == proof["reactive"] == {}
            continue
        assert proof["window"]["fast"]["last_ticks"] > 0, level  # the present alone never suffices
        assert proof["onward"].keys() == proof["aliasing"].keys(), level
        assert all(part["gates"] and part["ticks"] for part in proof["onward"].values()), level
        pairs = proof["aliasing"]["fast"]
        for behaviour in aliasing.BEHAVIOURS:
            assert pairs["behaviours"][behaviour]["pairs"] > 0, (level, behaviour)
        assert {"entities", "front_image_u8", "wrist_depth_m", "instruction_u8"} <= set(
            pairs["observations"]
        )
        assert {"mujoco_integration", "controller_command"} <= set(pairs["state"])
        own = {f"hidden_var_{name}" for name in task_class(TASKS[task]).hidden_vars}
        assert set(pairs["hidden"]) == {"hidden_cue", "hidden_tick", *own}


@pytest.mark.parametrize("task", CORE_TEN)
def test_no_stored_attack_carried_anything_through_a_gate(task):
    for level in ("easy", "medium"):
        proof = certify.load(task)["levels"][level]
        for attack in proof["attack"]["fast"].values():
            # Where the arm is held until go nothing can be tried.
            assert (attack["candidates"] == 0) == (task in HELD), level
            assert attack["holds"] and attack["seeds"] >= 12, (level, attack)
            assert attack["accuracy"] == pytest.approx(attack["chance"])
            assert attack["largest_difference"] == 0.0


@pytest.mark.parametrize(("task", "level"), LEVELS)
def test_stored_ceilings_equal_fresh_ones(task, level):
    stored = certify.load(task)["levels"][level]
    fresh = certify.ceiling(TASKS[task], TASKS[task].knobs(level))
    assert fresh == stored["ceiling"]
    assert fresh["exact"] and fresh["c_star"] == pytest.approx(fresh["closed_form"])
    assert fresh["time_aware"]["low"] >= fresh["c_star"]


def test_a_clock_would_give_interactive_cues_away():
    interactive = certify.ceiling(TASKS["put_block_back"], TASKS["put_block_back"].knobs("easy"))
    held = certify.ceiling(TASKS["remember_color"], TASKS["remember_color"].knobs("easy"))
    assert interactive["time_aware"] == {"low": 1.0, "high": 1.0}
    assert held["time_aware"] == {"low": 1 / 3, "high": 1 / 3}


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.parametrize("task", NAMES)
def test_fresh_small_certificate(task):
    effort = certify.Effort(
        pair_seeds=1, expert_episodes=3, noisy_episodes=0, reactive_episodes=1, image_size=32
    )
    fresh = certify.certify(task, "easy", effort)
    assert fresh["holds"], json.dumps(fresh["aliasing"], indent=1)
    assert fresh["expert"]["fast"]["successes"] == 3
    stored = certify.load(task)
    for part in ("observations", "state", "hidden") if task not in NO_MEMORY else ():
        assert fresh["aliasing"]["fast"][part] == stored["levels"]["easy"]["aliasing"]["fast"][part]
    if stored["versions"] == {n: importlib.metadata.version(n) for n in stored["versions"]}:
        certified = stored["levels"]["easy"]["mjcf_sha256"]
        assert fresh["mjcf_sha256"]["fast"] == certified["fast"], (
            "the simulated model has changed since it was certified; run: "
            f"embodied certify {task} level=all seeds=3 episodes=200 noisy_episodes=200 "
            "reactive_episodes=50 out=sims/memory_bench/certificates"
        )


@pytest.mark.sim
@pytest.mark.parametrize("part", ["offset", "colour", "clock", "command"])
def test_a_leaking_gate_is_found(make_env, part, monkeypatch):
    """Plants the cue in four places a sloppy gate might leave it."""
    env = make_env("put_block_back", copy=1)
    task, original = env.task, env.task.show

    def leak():
        original()
        if task.phase == "cue":
            return
        if part == "offset":
            task.scene.d.qvel[-1] = 1e-9 * task.cue
        elif part == "colour":
            task.scene.m.geom_rgba[0, 0] = 0.5 + 0.001 * task.cue
        elif part == "clock":
            task.scene.d.time = 0.05 * task.cue

    monkeypatch.setattr(task, "show", leak)
    if part == "command":
        reset = env.controller.reset

        def leaky_reset(home, closed=0.0):
            reset(home, closed)
            env.controller.home[0] += 1e-12 * task.cue

        monkeypatch.setattr(env.controller, "reset", leaky_reset)
    found = aliasing.compare(env, [1])
    assert not found["holds"]
    name = {"offset": "mujoco_integration", "colour": "scene_rgba",
            "clock": "mujoco_integration", "command": "controller_command"}[part]  # fmt: skip
    assert any(name in row["name"] for row in found["differences"])


@pytest.mark.sim
def test_a_gate_that_keeps_something_is_found(make_env, monkeypatch):
    env = make_env("put_block_back", copy=1)
    assert aliasing.corrupt_before_gates(env, [1])["holds"]
    clear = env.scene.clear

    def forgetful():
        warm = env.scene.d.qacc_warmstart.copy()
        clear()
        env.scene.d.qacc_warmstart[:] = warm
        env.scene.d.userdata[:] = 0

    monkeypatch.setattr(env.scene, "clear", forgetful)
    monkeypatch.setattr(env.scene, "settle", lambda: env.scene.forward())
    found = aliasing.corrupt_before_gates(env, [1])
    assert not found["holds"] and any("mujoco_integration" in name for name in found["leaks"])


def test_a_task_without_memory_is_certified_by_its_ceiling():
    level = {"knobs": {}, "ceiling": {"exact": True, "c_star": 1.0}, "needs_memory": False}
    level |= {"aliasing": {}, "gate": {}, "onward": {}, "reactive": {}}
    assert certify._holds(level)
    assert not certify._holds(level | {"ceiling": {"exact": True, "c_star": 0.5}})
    assert not certify._holds(level | {"ceiling": {"exact": False, "c_star": 1.0}})


def test_the_command_shows_what_does_not_apply():
    from embodied.commands.certify import HEADER, _rows

    paired = [
        HEADER.index(name) for name in ("equal at go", "gates hold", "equal onward", "cue in sight")
    ]
    for task in NAMES:
        rows = _rows("easy", certify.load(task)["levels"]["easy"])
        assert sorted(row[1] for row in rows) == ["fast"] + ["osc"] * (task not in COARSE)
        for row in rows:
            assert {row[i] for i in paired} == ({"-"} if task in NO_MEMORY else {"yes"})
            assert row[-1] == "yes"


@pytest.mark.sim
@pytest.mark.render
def test_a_task_of_another_package_is_certified_by_its_row():
    effort = certify.Effort(
        pair_seeds=1, expert_episodes=2, noisy_episodes=0, reactive_episodes=1, image_size=32
    )
    result = certify.certify_task(own_task.INFO, ["easy"], effort)
    assert result["task"] == "remember_side" and result["levels"]["easy"]["holds"]


def test_unknown_task_and_level():
    with pytest.raises(ConfigError, match="did you mean 'put_block_back'"):
        certify.certify("put_block_bak", "easy")
    with pytest.raises(ConfigError, match="did you mean 'easy'"):
        certify.certify("put_block_back", "eazy")


def test_save_is_whole(tmp_path):
    path = certify.save({"task": "t", "levels": {"easy": {"c": np.float64(0.5).item()}}}, tmp_path)
    assert json.loads(path.read_text())["levels"]["easy"]["c"] == 0.5
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_merging_keeps_other_controls():
    def level(control, holds, knobs):
        part = {control: {"holds": holds}}
        parts = ("aliasing", "gate", "onward", "window", "expert", "reactive")
        attack = {control: {"state": {"holds": holds}}}
        named = {"mjcf_sha256": {control: "model"}, **dict.fromkeys(parts, part), "attack": attack}
        return {"knobs": knobs, "ceiling": {"exact": True}, "holds": holds, **named}

    old, new = level("osc", True, {"K": 3}), level("fast", True, {"K": 3})
    merged = certify._merge(old, new)
    assert merged["holds"] and set(merged["aliasing"]) == {"fast", "osc"}
    assert not certify._merge(level("osc", False, {"K": 3}), new)["holds"]
    assert certify._merge(level("osc", True, {"K": 4}), new) == new
    assert certify._merge(level("fast", False, {"K": 3}), new)["holds"]
    assert certify._merge(None, new) == new
    seen = {**level("fast", True, {"K": 3}), "attack": {"fast": {"rgb": {"holds": False}}}}
    both = certify._merge(new, seen)
    assert set(both["attack"]["fast"]) == {"rgb", "state"} and not both["holds"]
