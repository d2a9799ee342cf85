"""SAM2Act as a policy: what it refuses, what learns in which stage, what memory changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import Interface, camera_specs
from embodied.core.types import Segment
from policies.sam2act.cloud import every_so_many, make_cloud
from policies.sam2act.config import SAM2ActConfig, SAM2ActPlusConfig
from policies.sam2act.encoder import EncoderOptions
from policies.sam2act.model import NAMES
from policies.sam2act.policy import SAM2Act, SAM2ActPlus
from policies.sam2act.targets import as_logits, count_ticks
from tests.contracts.segments import random_array
from tests.contracts.tools import assert_equal
from tests.policies.sam2act.small import HIERA, OBSERVATIONS, SMALL_MEMORY, make

ABOVE = ([0, 1, 0], [1, 0, 0], [0, 0, -1])
FRONT = ([0, 0, -1], [1, 0, 0], [0, -1, 0])
"""Rows of the rotations of cameras that look down, and from the front."""
PLUS = {"memory": "spatial", "memory_config": SMALL_MEMORY}


def scene(policy: SAM2Act, *leading: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Returns observations whose points fill the scene box."""
    rng = np.random.default_rng(seed)
    obs = {k: random_array(s, leading, rng) for k, s in policy.spec.observations.items()}
    for index, camera in enumerate(policy.cameras):
        pose = np.zeros((4, 4), np.float32)
        # From above, and from the front.
        rows = (
            ([0, 1, 0], [1, 0, 0], [0, 0, -1])
            if index == 0
            else ([0, 0, -1], [1, 0, 0], [0, -1, 0])
        )
        pose[:3, :3], pose[3, 3] = np.array(rows, np.float32), 1.0
        pose[:3, 3] = policy.config.scene_center_m
        pose[2 if index == 0 else 0, 3] += 1.0
        camera_matrix = np.array([[20, 0, 8], [0, 20, 8], [0, 0, 1]], np.float32)
        obs[f"{camera}_cam_to_world"] = torch.from_numpy(pose).expand(*leading, 4, 4).clone()
        obs[f"{camera}_intrinsics"] = torch.from_numpy(camera_matrix).expand(*leading, 3, 3).clone()
        depth = rng.uniform(0.7, 1.3, (*leading, 16, 16)).astype(np.float32)
        obs[f"{camera}_depth_m"] = torch.from_numpy(depth)
    return obs


def segment(policy: SAM2Act, batch: int = 2, ticks: int = 4, seed: int = 0) -> Segment:
    rng = np.random.default_rng(seed)
    yes = torch.ones(batch, ticks, dtype=torch.bool)
    pose = np.zeros((batch, ticks, 9), np.float32)
    pose[..., :3] = policy.config.scene_center_m + rng.uniform(-0.2, 0.2, (batch, ticks, 3))
    pose[..., 3], pose[..., 7] = 1.0, rng.choice([-1, 1], (batch, ticks))
    return Segment(
        obs=scene(policy, batch, ticks, seed=seed),
        time_s=torch.arange(ticks).float().expand(batch, ticks),
        is_first=(torch.arange(ticks) == 0).expand(batch, ticks),
        valid=yes,
        act_mask=yes,
        chunk=torch.zeros(batch, ticks, 1, 7),
        chunk_valid=yes[..., None],
        extras={"keyframe": torch.from_numpy(pose), "keyframe_valid": yes},
    )


def learn(policy: SAM2Act, batch: Segment, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return policy.loss(batch, policy.initial_state(batch.valid.shape[0]), generator).loss


# ---- what is refused -----------------------------------------------------------------------


def test_data_that_is_not_observed_on_decisions_is_refused():
    with pytest.raises(SpecMismatch, match="observe_on=decision"):
        SAM2Act(SAM2ActConfig(), Interface(OBSERVATIONS, observe_on="period"))


def test_a_camera_without_depth_is_refused_by_name():
    offered = {**OBSERVATIONS, **camera_specs("side", 16)}
    config = SAM2ActConfig(cameras=["front", "side"])
    with pytest.raises(SpecMismatch, match=r"side_depth_m.*front, wrist"):
        SAM2Act(config, Interface(offered, observe_on="decision"))


def test_data_without_any_depth_is_refused():
    offered = {k: s for k, s in OBSERVATIONS.items() if not k.endswith("_depth_m")}
    with pytest.raises(SpecMismatch, match="at least one camera with depth"):
        SAM2Act(SAM2ActConfig(), Interface(offered, observe_on="decision"))


def test_keyframes_outside_the_scene_box_are_refused():
    policy = make()
    inside = np.array([*policy.config.scene_center_m, 0, 0, 0, 1, 1, 1], np.float32)
    outside = inside + np.array([0.6, 0, 0, 0, 0, 0, 0, 0, 0], np.float32)
    policy.set_statistics({"keyframe": {"low": inside, "high": inside}})
    with pytest.raises(SpecMismatch, match="scene_side_m"):
        policy.set_statistics({"keyframe": {"low": inside, "high": outside}})


def test_data_without_keyframes_is_refused():
    with pytest.raises(SpecMismatch, match="observe_on=decision"):
        make().set_statistics({"action": {}})


def test_depth_in_millimetres_is_refused_by_name():
    policy = make()
    obs = scene(policy, 2)
    policy.check(obs, "this test")
    wrong = {**obs, "front_depth_m": obs["front_depth_m"] * 1000}
    with pytest.raises(SpecMismatch, match=r"this test.*front_depth_m.*millimetres"):
        policy.check(wrong, "this test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn": "memory"}, "memory=spatial"),
        ({"learn": "everything"}, "learn"),
        ({"marks": "guessed"}, "marks"),
        ({"view_size": 60}, "multiple of patch=8"),
        ({"proprio": []}, "proprio is empty"),
        ({"scene_side_m": 0.0}, "scene_side_m"),
        ({"zoom": 0.5}, "zoom"),
        ({"scene_center_m": [0.0, 1.0]}, "three metres"),
        ({"points_stride": 0}, "points_stride"),
        ({"patch": 0}, "patch must be >= 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SAM2ActConfig(**options)


def test_a_level_coarser_than_the_tokens_is_refused():
    # The level of the tokens' side would be projected, and the trunk reads it as it is.
    with pytest.raises(ConfigError, match=r"encoder\.grid=4.*8x8 tokens.*encoder\.grid=8"):
        make(view_size=64, encoder=EncoderOptions(model=HIERA, grid=4, level_widths=[12]))


def test_marks_need_a_memory_that_stores_them():
    with pytest.raises(ConfigError, match="marks=labels says which heatmaps are stored"):
        make(memory="gru", marks="labels")


# ---- stages ---------------------------------------------------------------------------------


def test_ii_the_second_stage_trains_memory_upsampler_and_projections_alone():
    policy = make(**PLUS, learn="memory")
    learning = {name for name, p in policy.named_parameters() if p.requires_grad}
    expected = ("memory.", "coarse.upsampler.", "encoder.projections.")
    assert learning == {n for n, _ in policy.named_parameters() if n.startswith(expected)}
    assert policy.needs_init
    assert not make(**PLUS).needs_init


def test_the_second_stage_leaves_frozen_parts_in_evaluation_mode():
    policy = make(**PLUS, learn="memory").train()
    assert policy.training
    assert policy.memory.training
    assert policy.coarse.upsampler.training
    assert not policy.coarse.trunk.training
    assert not policy.fine.training
    assert not policy.eval().memory.training


def test_the_second_stage_reaches_what_it_trains_and_nothing_else():
    policy = make(**PLUS, learn="memory").train()
    learn(policy, segment(policy)).backward()
    for name, parameter in policy.named_parameters():
        grad = parameter.grad
        assert (grad is not None and bool(grad.abs().sum() > 0)) == parameter.requires_grad, name


@pytest.mark.parametrize("options", [{}, PLUS], ids=["alone", "plus"])
def test_the_close_look_learns_alone_and_remembers_nothing(options):
    policy = make(**options, learn="fine").train()
    assert policy.needs_init and policy.frozen_key() == {}
    assert policy.fine.training and not policy.coarse.training and not policy.encoder.training
    batch = segment(policy)
    state = policy.initial_state(batch.valid.shape[0])
    out = policy.loss(batch, state, torch.Generator().manual_seed(0))
    out.loss.backward()
    assert "fine_error_m" in out.metrics and "coarse_loss" not in out.metrics
    assert_equal(out.state, state)
    for name, parameter in policy.named_parameters():
        grad = parameter.grad
        learnt = grad is not None and bool(grad.abs().sum() > 0)
        assert learnt == parameter.requires_grad == name.startswith("fine."), name


def test_the_close_look_learns_what_it_learns_with_everything():
    """Given the same draws, its part of the loss is that of the first stage."""
    whole, close = make(), make(learn="fine")
    close.load_state_dict(whole.state_dict())
    batch = segment(whole)
    everything, fine = (
        p.loss(batch, p.initial_state(2), torch.Generator().manual_seed(0)).metrics
        for p in (whole.eval(), close.eval())
    )
    for name in ("fine_loss", "rotation_loss", "gripper_loss", "collision_loss", "fine_error_m"):
        torch.testing.assert_close(everything[name], fine[name])
    torch.testing.assert_close(everything["loss"], fine["loss"] + everything["coarse_loss"])


def test_plus_is_the_second_stage_by_default():
    assert SAM2ActPlusConfig().memory == "spatial"
    assert SAM2ActPlusConfig().learn == "memory"
    assert SAM2ActPlus.Config is SAM2ActPlusConfig


# ---- memory ---------------------------------------------------------------------------------


def test_y_with_an_empty_memory_plus_is_sam2act():
    plain, plus = make().eval(), make(**PLUS).eval()
    plus.load_state_dict(plain.state_dict(), strict=False)
    obs, reset = scene(plain, 2), torch.ones(2, dtype=torch.bool)
    told = []
    for policy in (plain, plus):
        working, state = policy.observe(obs, torch.zeros(2), policy.initial_state(2), reset)
        told.append(working.features["logits"])
    assert torch.equal(*told)
    # The next tick has something to read.
    later, _ = plus.observe(obs, torch.ones(2), state, torch.zeros(2, dtype=torch.bool))
    assert not torch.allclose(later.features["logits"], told[0], atol=1e-4)


def encoder_gradient(policy: SAM2Act) -> torch.Tensor:
    """Returns the gradient of what encodes memory's entries; zeros where there is none."""
    weight = policy.memory.banks["16x32"].encoder.out.weight
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def test_jj_the_last_tick_teaches_what_the_first_stored():
    policy = make(**PLUS).eval()
    batch = segment(policy, batch=1, ticks=2)
    only_last = batch.extras["keyframe_valid"].clone()
    only_last[:, 0] = False
    batch = dataclasses.replace(batch, extras={**batch.extras, "keyframe_valid": only_last})
    # The second tick reads the first one's entry alone; its own is read by none.
    learn(policy, batch).backward()
    assert encoder_gradient(policy).abs().sum() > 0


@pytest.mark.parametrize("detached", [False, True])
def test_jj_the_gradient_ends_where_memory_is_detached(detached):
    policy = make(**PLUS).eval()
    batch = segment(policy, batch=1, ticks=2)
    first, last = (batch.map(lambda x, t=t: x[:, t : t + 1]) for t in (0, 1))
    state = policy.loss(first, policy.initial_state(1), torch.Generator().manual_seed(0)).state
    if detached:
        state = {name: tensor.detach() for name, tensor in state.items()}
    policy.loss(last, state, torch.Generator().manual_seed(0)).loss.backward()
    assert bool(encoder_gradient(policy).any()) is not detached
    assert policy.memory.banks["16x32"].temporal.grad.any()  # it was read in either case


def test_labels_are_stored_in_training_on_request():
    losses = []
    for marks in ("predicted", "labels"):
        policy = make(**PLUS, marks=marks).eval()
        losses.append(learn(policy, segment(policy)).item())
    assert losses[0] != losses[1]


def test_labels_as_logits_give_the_label_back():
    labels = torch.zeros(1, 4, 4)
    labels[0, 1, 2], labels[0, 1, 1] = 0.5, 0.25
    heat = as_logits(labels).sigmoid()
    assert heat[0, 1, 2] > 0.99
    assert abs(heat[0, 1, 1] - 0.5) < 1e-3
    assert heat[0, 0, 0] < 1e-3


# ---- time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, PLUS], ids=["alone", "plus"])
@pytest.mark.parametrize("learn", ["all", "fine"])
def test_the_count_goes_on_from_batch_to_batch(options, learn):
    """As ``order=stream`` feeds them: the second batch begins no episode."""
    policy = make(**options, time_feature=True, learn=learn)
    batch, state = segment(policy), policy.initial_state(2)
    for expected in (4, 8):
        state = policy.loss(batch, state, torch.Generator().manual_seed(0)).state
        assert state["keyframe_count"].tolist() == [expected] * 2
        assert state.keys() == policy.initial_state(2).keys()
        batch = dataclasses.replace(batch, is_first=torch.zeros_like(batch.is_first))


def test_ticks_are_counted_over_episodes_and_segments():
    first = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    before, after = count_ticks(torch.tensor([5, 7, 2]), first, valid)
    assert before[0].tolist() == [5, 6, 0, 1]
    assert before[1, :2].tolist() == [0, 1]
    assert after.tolist() == [2, 2, 2]


def test_the_time_feature_falls_from_one():
    policy = make(time_feature=True)
    told = policy._proprio(scene(policy, 2), torch.tensor([0, 24]))
    assert told[:, -1].tolist() == [1.0, -1.0]


# ---- clouds and answers ---------------------------------------------------------------------


def test_a_stride_thins_each_picture_of_the_coarse_cloud():
    policy = make(points_stride=4)
    cloud = make_cloud(scene(policy, 1), policy.cameras, policy.frame)
    thin = every_so_many(cloud, [(16, 16)] * 2, policy.config.points_stride)
    assert thin.xyz.shape[1] == cloud.xyz.shape[1] // 16
    picture = cloud.rgb[:, :256].view(1, 16, 16, 3)
    assert torch.equal(thin.rgb[:, :16].view(1, 4, 4, 3), picture[:, ::4, ::4])


def test_an_answer_is_a_pose_in_the_box_a_gripper_and_a_flag():
    policy = make().eval()
    obs = scene(policy, 3)
    reset = torch.ones(3, dtype=torch.bool)
    working, _ = policy.observe(obs, torch.zeros(3), {}, reset)
    chunk = policy.act(working, torch.zeros(3, 1)).chunk
    assert chunk.shape == (3, 1, len(NAMES))
    assert policy.spec.action.names == NAMES
    # A fine crop at the box's border reaches a quarter of the box beyond it.
    assert policy.frame.to_cube(chunk[..., :3]).abs().max() <= 1.25
    assert torch.allclose(chunk[..., 3:7].norm(dim=-1), torch.ones(3, 1), atol=1e-5)
    assert set(chunk[..., 7].flatten().tolist()) <= {-1.0, 1.0}
    assert set(chunk[..., 8].flatten().tolist()) <= {0.0, 1.0}


def test_looking_inside_says_what_was_seen_and_meant():
    policy = make(**PLUS).eval()
    obs, reset = scene(policy, 2), torch.ones(2, dtype=torch.bool)
    state = policy.initial_state(2)
    report = policy.inspect(obs, torch.zeros(2), state, reset)
    working, _ = policy.observe(obs, torch.zeros(2), state, reset)
    answer = policy.act(working, torch.zeros(2, 1)).chunk
    assert torch.equal(report["keyframe"], answer[:, 0])
    assert report["view.image"].shape == (2, 3, 32, 32, 3)
    assert report["view.image"].dtype == torch.uint8
    assert torch.allclose(report["view.heatmap"].sum((-1, -2)), torch.ones(2, 3), atol=1e-5)
    assert {"top.attention", "front.attention", "right.attention"} <= report.keys()


@pytest.mark.slow
def test_it_learns_where_to_go():
    policy = make().train()
    batch = segment(policy, batch=2, ticks=2)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for step in range(120):
        loss = learn(policy, batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.eval()
    obs = {k: v.flatten(0, 1) for k, v in batch.obs.items()}
    reset = torch.ones(4, dtype=torch.bool)
    working, _ = policy.observe(obs, torch.zeros(4), {}, reset)
    chunk = policy.act(working, torch.zeros(4, 1)).chunk[:, 0]
    target = batch.extras["keyframe"].flatten(0, 1)
    # An untrained one is off by 20 to 40 cm.
    assert (chunk[:, :3] - target[:, :3]).norm(dim=-1).max() < 0.06
    assert torch.equal(chunk[:, 7], target[:, 7])
