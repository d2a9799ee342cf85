"""Checkpoints: whole or absent, and refused with a reason when anything is off."""

import json
import pickle
import tracemalloc

import pytest
import torch
from safetensors.torch import load_file, save_file

from embodied.core.errors import CheckpointError
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.train import checkpoint
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA

OBSERVATIONS = {
    "eef_pos_world_m": ArraySpec((3,), "float32", "m"),
    "gripper_opening": ArraySpec((1,), "float32"),
    "instruction_u8": ArraySpec((160,), "uint8"),
    **camera_specs("front", 16),
}


@pytest.fixture
def saved(tmp_path):
    """A run directory with one checkpoint, and its policy."""
    import dataclasses

    torch.manual_seed(0)
    config = MemoryVLAConfig(width=16, readout_queries=2, horizon=2)
    policy = MemoryVLA(config, Interface(OBSERVATIONS, max_ticks=4))
    meta = checkpoint.PolicyMeta(
        "memory_vla",
        MemoryVLA.version,
        dataclasses.asdict(config),
        policy.interface.to_json(),
        ["remember_color"],
        "easy",
        {},
        {},
        "0",
    )
    state = {"weights": policy.state_dict()}
    path = checkpoint.write_checkpoint(tmp_path / "run", 3, meta, policy.state_dict(), state, {})
    return tmp_path / "run", path, policy


def test_round_trip(saved):
    run, path, policy = saved
    for source in (run, path):
        loaded = checkpoint.load(source)
        for name, tensor in policy.state_dict().items():
            assert torch.equal(loaded.policy.state_dict()[name], tensor)
        assert loaded.policy.spec == policy.spec
        assert loaded.meta.tasks == ["remember_color"]


def test_interrupted_write_is_not_seen(saved):
    run, path, _ = saved
    torn = run / "checkpoints" / ".writing-00000009"
    torn.mkdir()
    (torn / checkpoint.POLICY_FILE).write_text("{")
    assert checkpoint.resolve(run) == path


def test_only_the_newest_are_kept(saved):
    run, path, policy = saved
    meta = checkpoint.read_meta(path)
    for step in (4, 5, 6):
        checkpoint.write_checkpoint(run, step, meta, policy.state_dict(), {}, {}, keep=2)
    assert [p.name for p in checkpoint.checkpoints(run)] == ["00000005", "00000006"]


def edit_weights(path, change):
    file = path / checkpoint.MODEL_FILE
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("goal.out.weight"), "missing goal.out.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected extra"),
        (lambda w: w.update({"goal.out.bias": torch.zeros(3)}), r"goal.out.bias: shape \[3\]"),
        (lambda w: w["goal.out.bias"].fill_(float("nan")), "goal.out.bias: holds NaN"),
    ],
)
def test_wrong_tensors_are_named(saved, change, message):
    _, path, _ = saved
    edit_weights(path, change)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_pickle_is_refused(saved):
    _, path, _ = saved
    (path / checkpoint.MODEL_FILE).write_bytes(pickle.dumps({"a": 1}, protocol=2))
    with pytest.raises(CheckpointError, match="pickle"):
        checkpoint.load(path)


def test_truncated_weights_are_refused(saved):
    _, path, _ = saved
    file = path / checkpoint.MODEL_FILE
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not safetensors"):
        checkpoint.load(path)


def test_a_large_file_is_not_read_to_say_what_is_wrong(tmp_path):
    file = tmp_path / checkpoint.MODEL_FILE
    with file.open("wb") as sparse:
        sparse.truncate(2**26)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="not safetensors"):
        checkpoint.read_weights(file)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_future_version_is_refused(saved):
    _, path, _ = saved
    file = path / checkpoint.POLICY_FILE
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(CheckpointError, match="newer"):
        checkpoint.load(path)


@pytest.mark.parametrize("version", [1, MemoryVLA.version + 1])
def test_weights_of_another_version_of_the_policy_are_refused(saved, version):
    _, path, _ = saved
    file = path / checkpoint.POLICY_FILE
    data = json.loads(file.read_text())
    assert data.pop("policy_version") == MemoryVLA.version
    if version != 1:  # a file from before the field is of the first version
        data["policy_version"] = version
    file.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=f"written by version {version} of memory_vla"):
        checkpoint.load(path)


def test_weights_of_a_former_version_act_as_they_did(saved):
    _, path, _ = saved
    file = path / checkpoint.POLICY_FILE
    data = json.loads(file.read_text())
    assert data["config"].pop("goal_sees") == "scene"
    file.write_text(json.dumps({**data, "policy_version": 2}))
    assert checkpoint.load(path).policy.config.goal_sees == "arm"


def test_broken_description_is_refused(saved):
    _, path, _ = saved
    (path / checkpoint.POLICY_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="not a valid policy description"):
        checkpoint.load(path)


def test_nothing_there():
    with pytest.raises(CheckpointError, match="no checkpoint at nowhere"):
        checkpoint.load("nowhere")


def test_initialise_from_names_what_does_not_fit(saved):
    _, path, policy = saved
    torch.manual_seed(1)
    config = MemoryVLAConfig(width=16, readout_queries=2, horizon=4)
    other = MemoryVLA(config, Interface(OBSERVATIONS, max_ticks=4))
    lines = checkpoint.initialise_from(other, path)
    assert any("head.dit.position" in line for line in lines)
    assert torch.equal(other.goal.token.weight, policy.goal.token.weight)


def test_weights_of_another_version_start_a_policy_with_a_word(saved):
    _, path, policy = saved
    file = path / checkpoint.POLICY_FILE
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "policy_version": 1}))
    lines = checkpoint.initialise_from(policy, path)
    assert lines == [f"weights of version 1, this is {MemoryVLA.version}"]
    with pytest.raises(CheckpointError, match="written by version 1 of memory_vla"):
        checkpoint.refuse_version(checkpoint.read_meta(path), MemoryVLA.version)
