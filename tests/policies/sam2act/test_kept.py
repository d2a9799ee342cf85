"""The second stage from kept outputs of what never learns: the same lessons, encoded once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from embodied.core.errors import CheckpointError, ConfigError
from embodied.core.task import EnvConfig
from embodied.core.types import Segment
from embodied.data.features import attach_features
from embodied.data.segments import SegmentConfig, SegmentDataset
from embodied.train import checkpoint
from policies.sam2act.augment import AugmentOptions
from policies.sam2act.policy import SAM2Act
from tests.data.conftest import collect_fake
from tests.policies.sam2act.small import SMALL_MEMORY, make
from tests.policies.sam2act.test_policy import segment

MOVED = AugmentOptions(translation=0.1, yaw_deg=30.0, kept=3)
STAGE = {"memory": "spatial", "memory_config": SMALL_MEMORY, "learn": "memory", "augment": MOVED}
"""Of the fake demonstrations: the box around their hand, which is near the origin."""
BOX = {"scene_center_m": [0.0, 0.0, 0.1], "scene_side_m": 1.8}


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rgbd") / "fake"
    config = EnvConfig(image_size=16, observation="rgbd", cameras=["front"])
    collect_fake(out, 6, config=config, observe_on="decision", noise=0.0)
    return out


def read(path: Path) -> SegmentDataset:
    return SegmentDataset(path, SegmentConfig(3))


def build(data: SegmentDataset, **options: object) -> SAM2Act:
    return make(data.interface, **{**STAGE, **BOX, **options}).train()


def kept(policy: SAM2Act, batch: Segment, seed: int) -> Segment:
    """Returns a batch with nothing but kept outputs, made with the moves that `seed` draws."""
    policy.eval()
    with torch.no_grad():
        made = policy.encode_frozen(batch, torch.Generator().manual_seed(seed))
    policy.train()
    return dataclasses.replace(batch, obs=made)


def learn(policy: SAM2Act, batch: Segment, seed: int) -> dict[str, torch.Tensor]:
    """Returns the loss and the gradients."""
    policy.zero_grad()
    state = policy.initial_state(len(batch.valid))
    loss = policy.loss(batch, state, torch.Generator().manual_seed(seed)).loss
    loss.backward()
    grads = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **grads}


@pytest.mark.parametrize("options", [{}, {"time_feature": True}, {"marks": "labels"}])
def test_kept_outputs_teach_what_encoding_anew_does(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make(**{**STAGE, **options}).train()
    batch = segment(policy)
    anew = learn(policy, batch, 5)
    rounded, other = (learn(policy, kept(policy, batch, seed), 0) for seed in (5, 6))
    name = "encoder.projections.8.bias"
    scale = float(anew[name].abs().max())
    assert (rounded[name] - anew[name]).abs().max() < 0.01 * scale
    assert (other[name] - anew[name]).abs().max() > 0.1 * scale
    # But for the rounding to float16 it is the same, to the bit.
    monkeypatch.setattr(torch.Tensor, "half", torch.Tensor.float)
    exact = learn(policy, kept(policy, batch, 5), 0)
    assert exact.keys() == anew.keys() and len(anew) > 20
    assert all(torch.equal(exact[name], value) for name, value in anew.items())


def test_only_a_frozen_policy_keeps_anything() -> None:
    assert make(**{**STAGE, "learn": "all"}).frozen_key() == {}
    assert make(**STAGE).frozen_copies == 3
    assert make(**{**STAGE, "augment": AugmentOptions(0.0, 0.0)}).frozen_copies == 1


def test_batches_hold_several_moves_and_no_pictures(demonstrations: Path, tmp_path: Path) -> None:
    data = read(demonstrations)
    policy = build(data)
    directory = attach_features(policy, data, tmp_path)
    assert policy.training and policy.memory.training and not policy.coarse.trunk.training
    first = data.batch(0)
    assert first.obs.keys() == {
        "kept_features", "kept_level_8", "kept_yaw_rad", "kept_shift"
    }  # fmt: skip
    assert first.obs["kept_features"].dtype == torch.float16
    assert first.obs["kept_features"].shape[2:] == (3, 32, 4, 4)
    assert first.obs["kept_level_8"].shape[2:] == (3, 16, 8, 8)

    # One move a sequence, three a demonstration, and a pure function of the step.
    yaw = first.obs["kept_yaw_rad"]
    assert torch.equal(yaw[first.valid], yaw[:, :1].expand_as(yaw)[first.valid])
    drawn: dict[int, set[float]] = {}
    for step in range(12):
        turned = data.batch(step).obs["kept_yaw_rad"][:, 0].tolist()
        for (piece,), angle in zip(data.pieces(step), turned, strict=True):
            drawn.setdefault(piece.episode, set()).add(angle)
    assert max(map(len, drawn.values())) == 3
    again = read(demonstrations)
    attach_features(build(again), again, tmp_path)
    assert torch.equal(again.batch(7).obs["kept_shift"], data.batch(7).obs["kept_shift"])
    assert float(learn(policy, data.batch(1), 0)["loss"]) > 0

    files = sorted(directory.glob("*.safetensors"))
    assert len(files) == 3 * len(data.stores[0].manifest.shards)


def test_more_moves_are_added_and_others_kept_apart(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = SAM2Act.encode_frozen

    def counted(self: SAM2Act, some: Segment, generator: torch.Generator) -> object:
        encoded.append(1)
        return original(self, some, generator)

    monkeypatch.setattr(SAM2Act, "encode_frozen", counted)
    data = read(demonstrations)
    episodes = len(data.stores[0])

    def attach(**options: object) -> tuple[Path | None, int]:
        encoded.clear()
        data = read(demonstrations)
        return attach_features(build(data, **options), data, tmp_path), len(encoded)

    two, four = (dataclasses.replace(MOVED, kept=n) for n in (2, 4))
    directory, count = attach(augment=two)
    assert count == 2 * episodes
    assert attach(augment=two) == (directory, 0)
    assert attach(augment=four) == (directory, 2 * episodes)
    # What memory is, and what it is taught with, changes nothing that is kept.
    window = {**SMALL_MEMORY, "capacity": 1}
    assert attach(augment=four, memory_config=window, marks="labels") == (directory, 0)
    # What was interrupted is filled in.
    max(directory.glob("*.safetensors")).unlink()
    assert 0 < attach(augment=four)[1] <= episodes
    for options in ({"augment": AugmentOptions(0.1, 30.0, per_tick=True, kept=1)},
                    {"time_feature": True, "augment": AugmentOptions(0.0, 0.0)}):  # fmt: skip
        other, count = attach(**options)
        assert other != directory and count == episodes


def test_what_stays_frozen_must_come_from_the_first_stage(tmp_path: Path) -> None:
    plain = make()
    weights = plain.state_dict()
    meta = checkpoint.PolicyMeta(
        "sam2act", 1, dataclasses.asdict(plain.config), {}, ["fake"], "easy", {}, {}, "0", levels=[]
    )  # fmt: skip
    checkpoint.write_policy(tmp_path, meta, weights)
    checkpoint.initialise_from(make(**STAGE), tmp_path)
    with pytest.raises(CheckpointError, match=r"no coarse.trunk.from_proprio.*same policy.config"):
        checkpoint.initialise_from(make(**{**STAGE, "time_feature": True}), tmp_path)
    # The same weights in twice as many heads of half the width are another function.
    trunk = dataclasses.replace(plain.config.trunk, heads=2 * plain.config.trunk.heads,
                                head_width=plain.config.trunk.head_width // 2)  # fmt: skip
    other = make(**{**STAGE, "trunk": trunk})
    with pytest.raises(ConfigError, match=r"policy\.config\.trunk="):
        checkpoint.initialise_from(other, tmp_path)
    assert other.frozen_key() != make(**STAGE).frozen_key()
    # What frozen weights are given is as it was too; a close look that learns may be closer.
    for name, value in {"zoom": 2.0, "points_stride": 2}.items():
        with pytest.raises(ConfigError, match=rf"policy\.config\.{name}="):
            checkpoint.initialise_from(make(**{**STAGE, name: value}), tmp_path)
    checkpoint.initialise_from(make(learn="fine", zoom=2.0), tmp_path)
