"""Small datasets and a checkpoint, ways to damage them, and what a refusal must look like."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from embodied.cli import main
from embodied.collect import collect
from embodied.core.specs import ArraySpec, Interface, camera_specs
from embodied.core.task import EnvConfig
from tests.data import fake_env
from tests.data.test_files import first_shard, rehash

TASK = "remember_color"
SMALL = (
    "policy.config.width=16",
    "policy.config.readout_queries=2",
    "policy.config.head.dit.hidden=16",
    "policy.config.head.dit.depth=1",
)
ANY = ("train", f"task={TASK}", "steps=2", "batch_episodes=2", "out=new", *SMALL)
"""With any trunk; `TRAIN` is for the one that has a stem."""
TRAIN = (*ANY, "policy.config.channels=[8,16]")
EVALUATE = ("evaluate", "run", "episodes=1", "batch=1", "videos=0", "progress=false")


def make_data(out: Path, task: str = TASK, **env) -> None:
    """Collects three seeds; the fake environment stands in for the simulator."""
    config = EnvConfig(**{"image_size": 16, **env})
    collect(
        task,
        "easy",
        config,
        episodes=3,
        out=out,
        num_workers=0,
        progress=False,
        env_factory=fake_env.make,
    )


def make_run(run: Path) -> None:
    """Writes a run directory with an untrained checkpoint."""
    import torch

    from embodied.train import checkpoint
    from policies.memory_vla.config import MemoryVLAConfig
    from policies.memory_vla.policy import MemoryVLA

    observations = {
        "eef_pos_world_m": ArraySpec((3,), "float32", "m"),
        "gripper_opening": ArraySpec((1,), "float32"),
        "instruction_u8": ArraySpec((160,), "uint8"),
        **camera_specs("front", 64),
    }
    torch.manual_seed(0)
    config = MemoryVLAConfig(width=16, channels=[8, 16], readout_queries=2)
    policy = MemoryVLA(config, Interface(observations, max_ticks=32))
    interface = policy.interface.to_json()
    meta = checkpoint.PolicyMeta(
        "memory_vla",
        MemoryVLA.version,
        dataclasses.asdict(config),
        interface,
        [TASK],
        "easy",
        dataclasses.asdict(EnvConfig()),
        {"data_seeds": [0, 99]},
        "0",
    )
    weights = policy.state_dict()
    checkpoint.write_checkpoint(run, 1, meta, weights, {"weights": weights}, {})
    (run / "config.yaml").write_text("task: [remember_color]\n")


def contents(place: Path) -> dict[str, str]:
    """Returns path -> hash of everything below a directory."""
    files = sorted(place.rglob("*"))
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "directory"
        for path in files
    }


def error_line(text: str) -> str:
    """Returns the one line of an error; progress bars and warnings may precede it."""
    assert "Traceback" not in text
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and "%|" not in line]
    lines = [line for line in lines if "warning:" not in line]
    assert len(lines) == 1, lines
    assert lines[0].startswith("embodied: ")
    return lines[0]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs a command line that must be refused; returns its one line."""
    capsys.readouterr()
    assert main(words) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out
    return error_line(captured.err)


def edit_array(name: str, change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    """Returns an editor of one array of an episode, as a careful attacker would do it."""

    def damage(place: Path) -> None:
        with h5py.File(first_shard(place / "data"), "r+") as file:
            array = file[f"episode_000000001/{name}"][()]
            change(array)
            file[f"episode_000000001/{name}"][...] = array
        rehash(place / "data")

    return damage


def put(value: float) -> Callable[[np.ndarray], None]:
    """Returns a function that writes `value` into an array."""
    return lambda array: array.__setitem__((slice(None), 0, 2), value)


def edit_manifest(**values) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        path = place / "data" / "dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def truncate(place: Path) -> None:
    path = first_shard(place / "data")
    path.write_bytes(path.read_bytes()[:4000])


def flip(place: Path) -> None:
    path = first_shard(place / "data")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(place: Path) -> None:
    path = first_shard(place / "data")
    path.unlink()
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros(3)
    rehash(place / "data")


def unfinished(place: Path) -> None:
    edit_manifest(complete=False)(place)


def checkpoint_of(place: Path) -> Path:
    return place / "run" / "checkpoints" / "00000001"


def edit_weights(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = checkpoint_of(place) / "model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file)

    return damage


def edit_policy(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(place: Path) -> None:
        file = checkpoint_of(place) / "policy.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return damage


def pickled(place: Path) -> None:
    (checkpoint_of(place) / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))


def misshape(weights: dict) -> None:
    weights["goal.out.bias"] = weights["goal.out.bias"][:3].clone()


def add_tensor(weights: dict) -> None:
    weights["backdoor"] = weights["goal.out.bias"].clone()


def no_checkpoint(place: Path) -> None:
    shutil.rmtree(checkpoint_of(place))


def other_video(place: Path) -> None:
    (place / "video.mp4").write_bytes(b"another")


def nothing(place: Path) -> None:
    """Leaves all as it is."""
