"""Batches of whole episodes: order, padding, cache, splits, statistics."""

import threading

import numpy as np
import pytest
import torch

from embodied.core.errors import ConfigError, DataError
from embodied.core.types import Segment
from embodied.data.normalization import load_statistics, save_statistics
from embodied.data.reader import EpisodeStore
from embodied.data.sampling import EpisodeSampler
from embodied.data.segments import SegmentConfig, SegmentDataset
from tests.data.conftest import collect_fake


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    out = tmp_path_factory.mktemp("second") / "fake"
    collect_fake(out, 9, seed_start=100)
    return out


def equal(one: Segment, other: Segment) -> bool:
    def flat(segment):
        rows = []
        segment.map(rows.append)
        return rows

    return all(torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_order_is_a_pure_function_of_seed_and_step(original, second):
    def make(**options):
        config = SegmentConfig(4, seed=3, stages=[[1.0, 3.0]], **options)
        return SegmentDataset([original, second], config)

    forward, backward, uncached = make(), make(), make(cache="never")
    expected = [forward.pieces(step) for step in range(40)]
    assert [backward.pieces(s) for s in reversed(range(40))] == expected[::-1]
    assert make().pieces(33) == expected[33]  # resuming
    for step in (0, 1, 2, 17, 3):
        assert equal(forward.batch(step), uncached.batch(step))
    assert SegmentDataset([original, second], SegmentConfig(4, seed=4)).pieces(0) != (expected[0])


def test_batches_for_a_gpu_are_pinned_and_made_ahead(original, monkeypatch):
    """Page-locked memory itself needs a GPU: here it is stood in for, and seen to be asked for."""
    pinned: list[str] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.current_thread().name)
        return tensor.clone()

    plain = SegmentDataset(original, SegmentConfig(4))
    expected = [plain.batch(step) for step in range(3)]
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    assert not pinned
    data = SegmentDataset(original, SegmentConfig(4, cache="always", pinned=True))
    for step in range(3):
        assert equal(data.batch(step), expected[step])
    data.close()
    tensors: list[torch.Tensor] = []
    expected[0].map(tensors.append)
    assert len(pinned) == 4 * len(tensors)  # the fourth batch was being made already
    assert {name.startswith("segments") for name in pinned} == {True}


def test_each_pass_shows_every_episode_once():
    sampler = EpisodeSampler([10], [], 4, seed=0)
    flat = [i for step in range(5) for _, i in sampler.batch_indices(step)]
    assert sorted(flat[:10]) == list(range(10)) == sorted(flat[10:20])
    assert flat[:10] != flat[10:20]


def test_weights_and_long_runs():
    sampler = EpisodeSampler([7, 13, 5], [1.0, 0.0, 3.0], 8, seed=1)
    picks = [pick for step in range(1000, 1400) for pick in sampler.batch_indices(step)]
    shares = np.bincount([d for d, _ in picks], minlength=3) / len(picks)
    assert shares[1] == 0 and abs(shares[2] - 0.75) < 0.03
    counts = np.bincount([i for d, i in picks if d == 2])
    assert counts.max() - counts.min() <= 1 + 1  # whole passes, cut at both ends
    fresh = EpisodeSampler([7, 13, 5], [1.0, 0.0, 3.0], 8, seed=1)
    assert fresh.batch_indices(1399) == sampler.batch_indices(1399)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_bad_weights(weights):
    with pytest.raises(ConfigError, match="data_weights"):
        EpisodeSampler([3, 3], weights, 2, 0)


def test_segments_hold_the_episodes(original):
    dataset = SegmentDataset(original, SegmentConfig(5, seed=0, privileged=True))
    segment = dataset.batch(2)
    batch, longest = segment.valid.shape
    assert batch == 5 and longest == int(segment.valid.sum(1).max())
    with EpisodeStore(original) as store:
        for b, (piece,) in enumerate(dataset.pieces(2)):
            episode = store.read(piece.episode)
            n = len(episode.obs["tick"])
            assert segment.valid[b].tolist() == [True] * n + [False] * (longest - n)
            assert segment.is_first[b].tolist() == [True] + [False] * (longest - 1)
            for key in episode.observation_keys:
                got = segment.obs[key][b, :n].numpy()
                expected = episode.obs[key]
                if key == "instruction_u8":
                    expected = np.broadcast_to(expected, (n, 160))
                assert got.dtype == expected.dtype and np.array_equal(got, expected)
            assert np.array_equal(segment.chunk[b, :n], episode.label["chunk"])
            assert np.array_equal(segment.chunk_valid[b, :n], episode.label["chunk_valid"])
            assert not segment.chunk_valid[b, n:].any() and not segment.act_mask[b, n:].any()
            assert np.allclose(segment.time_s[b, :n], episode.obs["time_s"])
            assert (segment.extras["privileged_cue"][b, :n] == episode.meta.cue).all()
    assert segment.time_s.dtype == torch.float32
    assert "privileged_cue" not in SegmentDataset(original).batch(0).extras


def test_interface_and_description(original, second):
    dataset = SegmentDataset([original, second])
    assert dataset.interface.observations["front_image_u8"].shape == (16, 16, 3)
    assert dataset.interface.action_size == 7
    assert dataset.interface.max_ticks >= dataset.batch(0).valid.shape[1]
    assert dataset.tasks == ["fake", "fake"] and dataset.levels == ["easy", "easy"]
    assert dataset.env.image_size == 16
    assert dataset.seed_range == [0, 108]
    assert dataset.episodes == len(dataset.stores[0]) + len(dataset.stores[1])


def test_windows_of_long_episodes(original):
    whole = SegmentDataset(original, SegmentConfig(6, seed=1))
    cut = SegmentDataset(original, SegmentConfig(6, seed=1, order_ticks=3))
    again = SegmentDataset(original, SegmentConfig(6, seed=1, order_ticks=3, cache="never"))
    firsts = 0
    for step in range(6):
        segment, full = cut.batch(step), whole.batch(step)
        assert equal(segment, again.batch(step))
        assert segment.valid.shape == (6, 3) and segment.valid.all()
        for b in range(6):
            start = int((full.time_s[b] == segment.time_s[b, 0]).nonzero()[0, 0])
            assert torch.equal(segment.time_s[b], full.time_s[b, start : start + 3])
            assert bool(segment.is_first[b, 0]) == (start == 0)
            firsts += start == 0
    assert 0 < firsts < 36


def test_splits_are_disjoint_and_survive_extension(dataset):
    def seeds(split):
        config = SegmentConfig(2, split=split, validation_fraction=0.3)
        data = SegmentDataset(dataset, config)
        store = data.stores[0]
        return {store.episodes[p.episode].seed for s in range(40) for (p,) in data.pieces(s)}

    train, validation = seeds("train"), seeds("validation")
    assert train and validation and not train & validation and len(train | validation) == 11
    assert SegmentDataset(dataset, SegmentConfig(2, split="validation", validation_fraction=0.3))
    collect_fake(dataset, 20)
    assert train < seeds("train") and validation <= seeds("validation")


def test_statistics(original, second, tmp_path):
    one = SegmentDataset([original, second])
    values = one.statistics()
    assert values["action"]["low"].shape == (7,)
    assert (values["action"]["low"] <= values["action"]["high"]).all()
    rows, images = [], []
    for path in (original, second):
        with EpisodeStore(path) as store:
            for i in range(len(store)):
                episode = store.read(i)
                rows.append(episode.obs["eef_pos_world_m"])
                images.append(episode.obs["front_image_u8"])
    rows, images = np.concatenate(rows), np.concatenate(images)
    assert np.allclose(values["eef_pos_world_m"]["mean"], rows.mean(0), atol=1e-6)
    assert np.allclose(values["eef_pos_world_m"]["std"], rows.std(0), atol=1e-6)
    assert np.allclose(values["front_image_u8"]["mean"], images.mean(0) / 255, atol=1e-6)
    assert "instruction_u8" not in values
    save_statistics(tmp_path / "s.safetensors", values)
    back = load_statistics(tmp_path / "s.safetensors")
    for key, part in values.items():
        for name, array in part.items():
            assert back[key][name].tobytes() == array.tobytes()
    (tmp_path / "bad").write_bytes(b"pickle")
    with pytest.raises(DataError, match="safetensors"):
        load_statistics(tmp_path / "bad")


def test_statistics_are_the_same_with_and_without_cache(original):
    one = SegmentDataset(original).statistics()
    other = SegmentDataset(original, SegmentConfig(cache="never")).statistics()
    assert all(one[k][n].tobytes() == other[k][n].tobytes() for k in one for n in one[k])


def test_keyframes_of_decision_data_are_extras(decisions, original):
    dataset = SegmentDataset(decisions, SegmentConfig(5, seed=0))
    segment = dataset.batch(1)
    keyframe, labelled = segment.extras["keyframe"], segment.extras["keyframe_valid"]
    assert keyframe.shape == (*segment.valid.shape, 9) and keyframe.dtype == torch.float32
    assert labelled.shape == segment.valid.shape and labelled.dtype == torch.bool
    assert torch.equal(labelled, segment.act_mask)
    with EpisodeStore(decisions) as store:
        for b, (piece,) in enumerate(dataset.pieces(1)):
            episode = store.read(piece.episode)
            n = len(episode.obs["tick"])
            assert (keyframe[b, :n].numpy() == episode.label["keyframe"]).all()
            assert not keyframe[b, n:].any() and not labelled[b, n:].any()
    assert equal(segment, SegmentDataset(decisions, SegmentConfig(5, cache="never")).batch(1))
    assert not {"keyframe", "keyframe_valid"} & set(SegmentDataset(original).batch(0).extras)


def test_a_broken_keyframe_label_is_refused(decisions, tmp_path):
    import shutil

    import h5py

    shutil.copytree(decisions, tmp_path / "fake")
    with h5py.File(tmp_path / "fake" / "shard-00000.h5", "r+") as file:
        file["episode_000000001/label/keyframe"][-1, 0] = np.nan
    with pytest.raises(DataError, match="a keyframe label with NaN"):
        SegmentDataset(tmp_path / "fake", SegmentConfig(verify=False)).batch(0)
