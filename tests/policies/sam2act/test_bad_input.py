"""Rules for data that is poor, not wrong: what teaches nothing, what is short, what is empty.

What is refused by name is tested beside what refuses it: cameras, units, holes and empty clouds in
`test_cloud`, targets outside the box and data without keyframes in `test_policy`, sizes that don't
divide in `test_encoder` and `test_branch`, frozen parts without weights in `test_kept`.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from embodied.core.errors import SpecMismatch
from embodied.core.types import Segment
from embodied.train.imitation import _first_ticks
from policies.sam2act.policy import SAM2Act
from tests.policies.sam2act.small import SMALL_MEMORY, make
from tests.policies.sam2act.test_policy import PLUS, learn, scene, segment


def without_keyframes(batch: Segment, rows: list[int]) -> Segment:
    known = batch.extras["keyframe_valid"].clone()
    known[rows] = False
    # Labels of ticks without one may hold anything.
    pose = torch.where(known[..., None], batch.extras["keyframe"], 1e6)
    extras = {**batch.extras, "keyframe": pose, "keyframe_valid": known}
    return dataclasses.replace(batch, extras=extras)


def only(batch: Segment, rows: slice, ticks: slice = slice(None)) -> Segment:
    return batch.map(lambda x: x[rows, ticks])


@pytest.mark.parametrize("options", [{}, PLUS], ids=["plain", "plus"])
def test_a_demonstration_without_keyframes_teaches_nothing(options: dict[str, object]) -> None:
    policy = make(**options).eval()
    batch = segment(policy)
    alone = learn_coarse(policy, only(batch, slice(0, 1)))
    beside = learn_coarse(policy, without_keyframes(batch, [1]))
    torch.testing.assert_close(beside, alone)
    nothing = learn(policy, without_keyframes(batch, [0, 1]))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert all(not p.grad.any() for p in policy.parameters() if p.grad is not None)


def learn_coarse(policy: SAM2Act, batch: Segment) -> torch.Tensor:
    """Returns the coarse loss; the fine one draws noise for each row."""
    state = policy.initial_state(len(batch.valid))
    return policy.loss(batch, state, torch.Generator().manual_seed(0)).metrics["coarse_loss"]


def test_sequences_shorter_than_the_window_are_padded_and_masked() -> None:
    window = {**SMALL_MEMORY, "capacity": 9}
    policy = make(memory="spatial", memory_config=window, learn="memory").eval()
    batch = segment(policy, batch=2, ticks=4)
    short = only(batch, slice(0, 1), slice(0, 2))
    alone = learn(policy, short)
    assert float(alone.detach()) > 0
    alone.backward()
    assert policy.memory.banks["16x32"].encoder.out.weight.grad.abs().sum() > 0
    # Padded to the longer ones, with anything in the padding.
    valid = torch.tensor([[True, True, False, False]])
    padded = only(batch, slice(0, 1)).map(lambda x: x.clone())
    padded = dataclasses.replace(padded, valid=valid)
    for camera in policy.cameras:
        padded.obs[f"{camera}_depth_m"][:, 2:] = torch.nan
    torch.testing.assert_close(learn(policy, padded), alone)


def test_a_cloud_that_is_empty_in_use_is_drawn_empty() -> None:
    """Refused where a run begins; amid an episode it is no reason to stop a robot's memory."""
    policy = make(**PLUS).eval()
    obs, reset = scene(policy, 2), torch.ones(2, dtype=torch.bool)
    for camera in policy.cameras:
        obs[f"{camera}_depth_m"][1] = torch.nan
    with pytest.raises(SpecMismatch, match="NaN, infinite, zero or negative"):
        policy.check(obs, "this test")
    working, state = policy.observe(obs, torch.zeros(2), policy.initial_state(2), reset)
    chunk = policy.act(working, torch.zeros(2, 1)).chunk
    assert chunk.isfinite().all()
    assert all(value.isfinite().all() for value in state.values())
    assert not working.features["valid"][1].any()


def test_a_wrong_unit_in_one_of_several_datasets_is_found() -> None:
    policy = make()
    good = segment(policy, batch=1)
    depth = good.obs["front_depth_m"]
    wrong = dataclasses.replace(good, obs={**good.obs, "front_depth_m": depth * 1000})

    class Two:
        stores = ([0, 1, 2], [0])

        def whole(self, dataset: int, episode: int) -> Segment:
            return (good, wrong)[dataset]

    first, second = (_first_ticks(policy, Two(), i, torch.device("cpu")) for i in (0, 1))
    policy.check(first, "data/a")
    with pytest.raises(SpecMismatch, match=r"data/b: front_depth_m must be in metres"):
        policy.check(second, "data/b")
