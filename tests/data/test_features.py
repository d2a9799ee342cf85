"""Kept outputs of a frozen encoder: equal to encoding anew, bound to weights and data."""

import copy
import json

import pytest
import torch

from embodied import collect
from embodied.core.errors import DataError
from embodied.data import features
from embodied.data.features import attach_features
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.nn.encoders import text
from policies.memory_vla.config import MemoryVLAConfig
from policies.memory_vla.policy import MemoryVLA
from tests.data.conftest import collect_fake
from tests.nn.tiny_vlms import MODELS

ENCODER = {
    "image_size": 16, "patch": 8, "width": 16, "heads": 2, "vision_depth": 1,
    "language_depth": 1, "learn": "frozen",
}  # fmt: skip


def make(dataset, seed=0, **encoder):
    torch.manual_seed(seed)
    config = MemoryVLAConfig(
        trunk="tiny", width=32, readout_queries=2, horizon=4, encoder={**ENCODER, **encoder}
    )
    return MemoryVLA(config, dataset.interface)


@pytest.fixture
def segments(original):
    return SegmentDataset(original, SegmentConfig(3))


def loss(policy, segment):
    state = policy.initial_state(len(segment.valid))
    return policy.loss(segment, state, torch.Generator().manual_seed(0)).loss


def test_kept_outputs_are_those_of_the_encoder(segments, tmp_path, monkeypatch):
    policy = make(segments)
    plain = segments.batch(1)
    directory = attach_features(policy, segments, tmp_path)
    kept = segments.batch(1)
    with torch.no_grad():
        expected = policy.encode_frozen(plain, torch.Generator())
    assert expected.keys() == {"encoded_visual", "encoded_cognitive"}
    for name, value in expected.items():
        found = kept.obs[name][plain.valid]
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, value[plain.valid], atol=2e-3, rtol=0)
    torch.testing.assert_close(loss(policy, kept), loss(policy, plain), atol=2e-3, rtol=1e-3)

    # A second run encodes nothing, a killed one what is missing.
    count = []
    monkeypatch.setattr(type(policy), "encode_frozen", lambda *_: count.append(1))
    other = SegmentDataset(segments.stores[0].path, SegmentConfig(3))
    assert attach_features(make(other), other, tmp_path) == directory
    assert count == []
    assert torch.equal(other.batch(1).obs["encoded_visual"], kept.obs["encoded_visual"])


def test_a_shard_without_episodes_has_no_outputs_and_others_keep_theirs(tmp_path, monkeypatch):
    """Of large pictures a shard is a single seed, on which the demonstrator may have failed."""
    monkeypatch.setattr(collect, "_SHARD_EPISODES", 1)
    collect_fake(tmp_path / "data", episodes=3, seed_start=7)
    segments = SegmentDataset(tmp_path / "data", SegmentConfig(2))
    assert [len(s.seeds) for s in segments.stores[0].manifest.shards.values()] == [0, 1, 1]
    directory = attach_features(make(segments), segments, tmp_path / "features")
    assert {"encoded_visual", "encoded_cognitive"} <= segments.batch(0).obs.keys()
    assert len(list(directory.glob("*.safetensors"))) == 2


def test_other_weights_have_their_own_directory(segments, tmp_path):
    first = attach_features(make(segments), segments, tmp_path)
    assert attach_features(make(segments, seed=1), segments, tmp_path) != first
    assert attach_features(make(segments, learn="full"), segments, tmp_path) is None


def reader(dataset):
    """A policy whose frozen language model reads a question."""
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder = {"model": copy.deepcopy(MODELS["smolvlm"]), "image_size": 16, "text_tokens": 100}
    config = MemoryVLAConfig(
        trunk="smolvlm", width=32, readout_queries=2, horizon=4,
        encoder={**encoder, "learn": "frozen"},
    )  # fmt: skip
    return MemoryVLA(config, dataset.interface)


def test_another_version_or_question_has_its_own_directory(segments, tmp_path, monkeypatch):
    def again(build):
        other = SegmentDataset(segments.stores[0].path, SegmentConfig(3))
        return attach_features(build(other), other, tmp_path)

    found = [again(reader), again(make)]
    assert [again(reader), again(make)] == found
    with monkeypatch.context() as patched:
        patched.setattr(text, "QUESTION", "What should the robot do to {instruction}?")
        assert again(reader) not in found
        assert again(make) == found[1]  # it asks nothing
    monkeypatch.setattr(MemoryVLA, "version", MemoryVLA.version + 1)
    assert not {again(reader), again(make)} & set(found)


def test_a_cache_of_other_weights_is_refused(segments, tmp_path):
    directory = attach_features(make(segments), segments, tmp_path)
    file = directory / features.DESCRIPTION
    description = json.loads(file.read_text())
    description["key"]["weights"] = "0" * 64
    file.write_text(json.dumps(description))
    with pytest.raises(DataError, match=r"features of another encoder \(weights: '0000.*delete it"):
        attach_features(make(segments), segments, tmp_path)


def test_broken_and_short_files_are_named(segments, tmp_path):
    policy = make(segments)
    directory = attach_features(policy, segments, tmp_path)
    file = next(directory.glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    other = SegmentDataset(segments.stores[0].path, SegmentConfig(3))
    with pytest.raises(DataError, match=f"{file.name} is broken .* encoded anew"):
        attach_features(policy, other, tmp_path)
    from safetensors.torch import load, save

    file.write_bytes(save({k: v[:-1].clone() for k, v in load(whole).items()}))
    with pytest.raises(DataError, match=r"ticks of encoded_\w+, its shard has \d+; delete it"):
        attach_features(policy, other, tmp_path)


def test_features_that_are_not_finite_are_refused(segments, tmp_path):
    policy = make(segments)
    with torch.no_grad():
        policy.trunk.encoder.position.fill_(float("nan"))
    with pytest.raises(DataError, match="gives NaN or infinity"):
        attach_features(policy, segments, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
