"""Damaged, edited and foreign files get one clear error that names the file."""

import json

import h5py
import numpy as np
import pytest

from embodied.core.errors import DataError
from embodied.data import schema, shards
from embodied.data.check import check
from embodied.data.manifest import load_manifest
from embodied.data.reader import EpisodeStore, check_same_kind
from embodied.data.segments import SegmentConfig, SegmentDataset
from tests.data import fake_env
from tests.data.conftest import collect_fake


def first_shard(dataset):
    return sorted(dataset.glob("*.h5"))[0]


def rehash(dataset):
    """Makes dataset.json agree with edited shards, as a careful attacker would."""
    path = dataset / "dataset.json"
    data = json.loads(path.read_text())
    for name, info in data["shards"].items():
        info["sha256"] = shards.file_sha256(dataset / name)
        info["bytes"] = (dataset / name).stat().st_size
    path.write_text(json.dumps(data))


def problems(dataset):
    return check(dataset, sample=0).problems


def test_truncated(dataset):
    path = first_shard(dataset)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=path.name):
        EpisodeStore(dataset)
    rehash(dataset)
    with pytest.raises(DataError, match="truncated or not HDF5"):
        SegmentDataset(dataset).batch(0)
    assert any(path.name in p for p in problems(dataset))


def test_edited_values_are_found_even_with_a_new_manifest(dataset):
    path = first_shard(dataset)
    with h5py.File(path, "r+") as file:
        file["episode_000000003/control/action"][4, 2] += 0.25
    with pytest.raises(DataError, match="edited or damaged"):
        EpisodeStore(dataset)
    rehash(dataset)
    assert any("episode_000000003" in p and "does not match" in p for p in problems(dataset))
    with EpisodeStore(dataset) as store, pytest.raises(DataError, match="content"):
        store.read(3, verify=True)


def test_edited_attribute(dataset):
    with h5py.File(first_shard(dataset), "r+") as file:
        file["episode_000000003"].attrs["cue"] = 9
        del file["episode_000000004"].attrs["task"]
    rehash(dataset)
    found = problems(dataset)
    assert any("does not match its stored hash" in p for p in found)
    assert any("'task' is missing" in p for p in found)


def test_foreign_hdf5_and_foreign_bytes(dataset):
    path = first_shard(dataset)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["data/demo_0/actions"] = np.zeros(3)
    rehash(dataset)
    assert any("foreign HDF5" in p for p in problems(dataset))
    path.write_bytes(b"PK\x03\x04 not at all")
    rehash(dataset)
    assert any("not HDF5" in p for p in problems(dataset))


def test_every_broken_file_is_listed(tmp_path):
    collect_fake(tmp_path, 66)
    files = sorted(tmp_path.glob("*.h5"))
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-100])
    files[2].unlink()
    (tmp_path / "extra.h5").write_bytes(b"x")
    found = problems(tmp_path)
    for name in (files[0].name, files[2].name, "extra.h5"):
        assert any(name in p for p in found)
    assert not any(files[1].name in p for p in found)


def test_links_and_virtual_datasets_are_refused(dataset, tmp_path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.zeros(8, np.float32)
    with h5py.File(first_shard(dataset), "r+") as file:
        label = file["episode_000000000/label"]
        del label["chunk"]
        label["chunk"] = h5py.ExternalLink(str(secret), "x")
        obs = file["episode_000000001/obs"]
        del obs["eef_pos_world_m"]
        layout = h5py.VirtualLayout((8,), np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "x", (8,))
        obs.create_virtual_dataset("eef_pos_world_m", layout)
        control = file["episode_000000002/control"]
        del control["action"]
        control["action"] = h5py.SoftLink("/episode_000000003/control/action")
        del file["episode_000000004/obs"]
        file["episode_000000004/obs"] = h5py.ExternalLink(str(secret), "/")
        del file["episode_000000005"]
        file["episode_000000005"] = h5py.ExternalLink(str(secret), "/")
    rehash(dataset)
    with shards.open_shard(first_shard(dataset)) as file:
        for seed, word in ((0, "external link"), (1, "virtual"), (2, "soft"), (4, "external")):
            with pytest.raises(DataError, match=word):
                shards.read_episode(file, seed)
        with pytest.raises(DataError, match="unexpected member"):
            shards.episode_seeds(file)


def test_manifest_cannot_name_files_elsewhere(dataset):
    path = dataset / "dataset.json"
    data = json.loads(path.read_text())
    data["shards"]["../evil.h5"] = data["shards"].popitem()[1]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"\.\./evil"):
        load_manifest(dataset)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "can't be read"),
        ("[]", "not the table of contents"),
        ('{"format": "lerobot"}', "not the table of contents"),
        ('{"format": "embodied-memory-episodes", "format_version": 99}', "format_version 99"),
        ('{"format": "embodied-memory-episodes", "format_version": 1}', "was edited"),
    ],
)
def test_bad_manifest(dataset, text, word):
    (dataset / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=word):
        SegmentDataset(dataset)


def test_a_manifest_that_counts_ticks_otherwise_is_refused(dataset):
    """Else an episode would end early, or be stretched over ticks that it does not have."""
    path = dataset / "dataset.json"
    data = json.loads(path.read_text())
    info = data["shards"][first_shard(dataset).name]
    info["ticks"][0] += 1
    path.write_text(json.dumps(data))
    for cache in ("always", "never"):
        config = SegmentConfig(11, cache=cache)
        with pytest.raises(DataError, match=rf"it holds {info['ticks'][0] - 1} observations, not"):
            SegmentDataset(dataset, config).batch(0)
    info["ticks"].pop()
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="not equally long"):
        load_manifest(dataset)


def test_no_dataset_at_all(tmp_path):
    with pytest.raises(DataError, match=r"no dataset\.json"):
        SegmentDataset(tmp_path)
    with pytest.raises(DataError, match="not a directory"):
        SegmentDataset(tmp_path / "nothing")


def test_future_format_version(dataset):
    with h5py.File(first_shard(dataset), "r+") as file:
        file.attrs["format_version"] = 2
    rehash(dataset)
    assert any("format_version 2" in p for p in problems(dataset))


def test_mixed_controller_is_found(dataset, tmp_path):
    """A shard of another controller smuggled in with a fitting manifest."""
    from embodied.core.task import EnvConfig

    other = tmp_path / "osc"
    collect_fake(other, config=EnvConfig(image_size=16, control="osc"))
    first_shard(dataset).write_bytes(first_shard(other).read_bytes())
    rehash(dataset)
    assert any("env.control: 'osc' against 'fast'" in p for p in problems(dataset))
    with pytest.raises(DataError, match=r"env\.control"):
        check_same_kind([EpisodeStore(original_) for original_ in (dataset, other)])


def test_unlike_datasets_are_not_mixed(original, tmp_path):
    from embodied.core.task import EnvConfig

    collect_fake(tmp_path / "small", 3, config=EnvConfig(image_size=24))
    with pytest.raises(DataError, match="can't be mixed") as error:
        SegmentDataset([original, tmp_path / "small"])
    assert "image_size: 16 against 24" in str(error.value)


def test_check_resimulates_bit_for_bit(dataset, monkeypatch):
    report = check(dataset, sample=4, env_factory=fake_env.make)
    assert report.ok and len(report.resimulated) == 4 and report.episodes == 11
    real = fake_env.FakeEnv.advance

    def drifting(self, action):
        gate = real(self, action)
        if self.tick == 25:
            self.velocity = self.velocity + 1e-15
        return gate

    monkeypatch.setattr(fake_env.FakeEnv, "advance", drifting)
    report = check(dataset, sample=2, env_factory=fake_env.make)
    assert len(report.problems) == 2
    assert "differs at tick 25" in report.problems[0] and "velocity" in report.problems[0]


def test_an_unfinished_dataset_is_checked(dataset):
    path = dataset / "dataset.json"
    data = json.loads(path.read_text())
    data["complete"] = False
    path.write_text(json.dumps(data))
    report = check(dataset, sample=0)
    assert report.ok and "unfinished" in report.notes[0]


def test_content_hash_sees_every_array_and_attribute(original):
    with EpisodeStore(original) as store:
        episode = store.read(0)
    digest = schema.content_sha256(episode)
    for group, arrays in episode.groups().items():
        for name, array in arrays.items():
            saved = array.copy()
            flat = arrays[name].reshape(-1).view(np.uint8)
            flat[-1] ^= 1
            assert schema.content_sha256(episode) != digest, f"{group}/{name}"
            arrays[name] = saved
    episode.meta.cue += 1
    assert schema.content_sha256(episode) != digest


def test_pack_state_keeps_every_bit():
    nan = np.frombuffer(np.uint64(0x7FF8DEADBEEF0001).tobytes(), np.float64)
    state = {
        "b": np.array([True, False, True]),
        "big": np.array([2**63 - 1, -(2**63)]),
        "f": np.array([[0.1, -0.0], [np.inf, nan[0]]]),
        "g": np.float32(0.1),
        "words": np.array([2**64 - 1], np.uint64),
        "empty": np.zeros((0, 3)),
    }
    layout = schema.state_layout(state)
    back = schema.unpack_state(schema.pack_state(state, layout), layout)
    assert sorted(back) == sorted(state)
    for name, array in state.items():
        assert back[name].tobytes() == np.asarray(array).tobytes()
        assert back[name].dtype == np.asarray(array).dtype
        assert back[name].shape == np.asarray(array).shape
    with pytest.raises(DataError, match="changed its layout"):
        schema.pack_state({**state, "b": np.zeros(4, bool)}, layout)
    with pytest.raises(DataError, match="expected numbers"):
        schema.state_layout({"name": np.array(["x"])})
