"""What is an HCAM agent's own, beside the contract."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from embodied.config import to_plain
from embodied.core.entities import FEATURES
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import ArraySpec, camera_specs
from embodied.train.checkpoint import PolicyMeta, load, write_checkpoint
from policies.hcam.config import HCAMConfig
from policies.hcam.model import Encoder, TokenEncoder
from policies.hcam.policy import HCAM
from tests.contracts.segments import random_segment
from tests.contracts.tools import assert_equal
from tests.policies.hcam.small import OBSERVATIONS, interface, make

ROWS, TICKS = 3, 14


def acted(policy: HCAM, seed: int = 0):
    """Returns a segment with what the policy recorded when it acted, and memory before it."""
    segment = random_segment(policy, ROWS, TICKS, seed)
    segment.valid = torch.ones_like(segment.valid)
    state, records = policy.initial_state(ROWS), []
    with torch.no_grad():
        for t in range(TICKS):
            obs = {key: value[:, t] for key, value in segment.obs.items()}
            working, state = policy.observe(
                obs, segment.time_s[:, t], state, segment.is_first[:, t]
            )
            records.append(working.record)
    segment.record = {k: torch.stack([r[k] for r in records], 1) for k in policy.spec.record}
    return segment, policy.initial_state(ROWS)


def test_stored_and_recomputed_ticks_agree_while_weights_stay() -> None:
    policy = make().eval()
    segment, entry = acted(policy)
    stored = policy.evaluate(segment, entry)
    recomputed = policy.evaluate(dataclasses.replace(segment, record={}), entry)
    used = segment.act_mask
    for name in ("log_prob", "entropy", "value"):
        pair = getattr(stored, name)[used], getattr(recomputed, name)[used]
        assert torch.allclose(*pair, atol=1e-5), name


def test_stored_ticks_carry_no_gradient_and_recomputed_ones_do() -> None:
    policy = make(observations={"cue_code": OBSERVATIONS["cue_code"]})
    segment, entry = acted(policy)
    segment.act_mask[:] = False
    segment.act_mask[:, -1] = True
    for record, expected in ((segment.record, 1), ({}, TICKS)):
        codes = segment.obs["cue_code"].clone().requires_grad_()
        changed = dataclasses.replace(segment, obs={"cue_code": codes}, record=record)
        policy.evaluate(changed, entry).value[:, -1].sum().backward()
        reached = codes.grad.flatten(2).any(dim=-1).any(dim=0).sum()
        assert (reached == 1) if expected == 1 else (reached > 1)


def test_observing_in_place_gives_the_same() -> None:
    policy = make().eval()
    segment, state = acted(policy)
    other = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        for t in range(TICKS):
            arguments = (
                {key: value[:, t] for key, value in segment.obs.items()},
                segment.time_s[:, t],
            )
            plain, state = policy.observe(*arguments, state, segment.is_first[:, t])
            donated, other = policy.observe_into(*arguments, other, segment.is_first[:, t])
            assert torch.equal(plain.features["outputs"], donated.features["outputs"])
            assert_equal(state, other)


def test_read_rule_leaves_reads_out_where_the_observation_is_zero() -> None:
    policy = make(read_when="instruction_token").eval()
    mask = policy._read_mask({"instruction_token": torch.tensor([0, 2, 0])}, 1)
    assert mask.tolist() == [False, True, False]
    policy = make(read_when="homes_token").eval()
    homes = torch.zeros(2, 3, 4, dtype=torch.uint8)
    homes[1, 2, 3] = 1
    assert policy._read_mask({"homes_token": homes}, 2).nonzero().tolist() == [[1, 2]]


def test_exploration_is_training_s_alone() -> None:
    policy = make()
    segment, _ = acted(policy)
    obs = {key: value[:, 0] for key, value in segment.obs.items()}
    working, _ = policy.observe(
        obs, segment.time_s[:, 0], policy.initial_state(ROWS), segment.is_first[:, 0]
    )
    loud = torch.zeros(ROWS, 5)
    loud[:, 3] = 1e3
    assert policy.train().act(working, loud).chunk[:, 0].argmax(-1).tolist() == [3] * ROWS
    best = working.features["outputs"].argmax(-1)
    assert torch.equal(policy.eval().act(working, loud).chunk[:, 0].argmax(-1), best)


def test_a_value_at_another_place_is_another_vector() -> None:
    torch.manual_seed(0)
    encoder = Encoder({"homes_token": OBSERVATIONS["homes_token"]}, 8, 16, [4], True)
    homes = torch.tensor([[1, 2, 0, 0], [2, 1, 0, 0]], dtype=torch.uint8)
    first, second = encoder({"homes_token": homes})
    assert not torch.allclose(first, second)


def test_a_value_is_known_again_at_another_place() -> None:
    spec = OBSERVATIONS["homes_token"]
    homes = torch.tensor([[1, 2, 0, 0], [2, 1, 0, 0]], dtype=torch.uint8)
    shared = TokenEncoder("homes_token", spec, 16, shared_values=True)
    torch.nn.init.zeros_(shared.table.weight)  # what is left tells values, not places
    first, second = shared(homes)
    torch.testing.assert_close(first, second)
    assert not torch.equal(first, shared(homes * 0)[0])
    alone = TokenEncoder("homes_token", spec, 16, shared_values=False)
    assert [name for name, _ in alone.named_parameters()] == ["table.weight"]


TABLE = {
    "entities": ArraySpec((4, FEATURES), "float32", "", -1.0, 1.0),
    "entities_mask": ArraySpec((4,), "bool", "", 0, 1),
}


def test_an_entity_is_known_wherever_it_stands_in_the_table() -> None:
    encoder = Encoder(TABLE, 8, 16, [4], True)
    table, mask = torch.randn(1, 4, FEATURES), torch.tensor([[True, True, False, False]])
    order = torch.tensor([2, 1, 0, 3])
    seen = encoder({"entities": table, "entities_mask": mask})
    moved = encoder({"entities": table[:, order], "entities_mask": mask[:, order]})
    torch.testing.assert_close(seen, moved)
    hidden = table + torch.tensor([0.0, 0.0, 5.0, 5.0])[:, None]
    torch.testing.assert_close(seen, encoder({"entities": hidden, "entities_mask": mask}))
    assert not torch.allclose(seen, encoder({"entities": table, "entities_mask": ~mask}))


def test_an_empty_table_is_no_trouble() -> None:
    encoder = Encoder(TABLE, 8, 16, [4], True)
    none = {
        "entities": torch.zeros(2, 4, FEATURES),
        "entities_mask": torch.zeros(2, 4, dtype=torch.bool),
    }
    assert torch.isfinite(encoder(none)).all()


def test_a_table_without_its_mask_is_refused() -> None:
    with pytest.raises(SpecMismatch, match="'entities' needs 'entities_mask' beside it"):
        make(observations={"entities": TABLE["entities"]})


def test_words_are_read_as_words_and_never_told() -> None:
    words = {"instruction_u8": ArraySpec((160,), "uint8", "utf8", 0, 255), **TABLE}
    policy = make(observations=words, reconstruct=1.0)
    assert policy.spec.instruction == "bytes" and make().spec.instruction == "none"
    assert "entities" in policy.decoder.out and "instruction_u8" not in policy.decoder.out
    segment = random_segment(policy, ROWS, TICKS, 0)
    losses = policy.evaluate(segment, policy.initial_state(ROWS)).aux_losses
    assert torch.isfinite(losses["reconstruct"])


def test_agents_of_the_first_version_act_as_they_did(tmp_path) -> None:
    old = make(shared_values=False)
    config = to_plain(old.config)
    del config["shared_values"]  # which it did not know
    meta = PolicyMeta("hcam", 1, config, old.interface.to_json(), ["t"], "easy", {}, {}, "0.1")
    weights = {name: value.clone() for name, value in old.state_dict().items()}
    write_checkpoint(tmp_path, 1, meta, weights, {}, {})
    new = load(tmp_path).policy
    assert not new.config.shared_values
    assert_equal(new.state_dict(), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read_when": "nothing"}, "read_when='nothing' is no observation"),
        ({"memory": "perceptual_cognitive"}, "remembers streams of tokens"),
        ({"memory": "hierarchical"}, "hierarchical_chunks"),
        ({"memory_config": {"window": 1}}, "memory.window must be >= memory.chunk"),
        ({"memory_config": {"top_k": 0}}, "top_k"),
        ({"memory_config": {"top_k": 9}}, "top_k"),
        ({"memory_config": {"heads": 3}}, "heads"),
        ({"memory_config": {"width": 8}}, "policy.config.width"),
        ({"temperature": 2.0}, "temperature must be within"),
        ({"reconstruct": -1.0}, "reconstruct must be >= 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises((ConfigError, SpecMismatch), match=message):
        make(**options)


def test_sizes_out_of_range_are_refused() -> None:
    for options in ({"width": 0}, {"hidden": 0}, {"channels": []}, {"channels": [0]}):
        with pytest.raises(ConfigError, match="must be"):
            HCAMConfig(**options)


def test_observations_that_say_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one observation"):
        HCAM(HCAMConfig(width=8), interface(observations={}))
    endless = {"word_token": ArraySpec((), "int64", "token", 0)}
    with pytest.raises(ConfigError, match="largest one as `high`"):
        HCAM(HCAMConfig(width=8, memory="none"), interface(observations=endless))


def test_a_cameras_calibration_is_not_looked_at() -> None:
    """A focal length in pixels is a hundred times what a picture in 0..1 adds up to."""
    observations = {**OBSERVATIONS, **camera_specs("front", 16)}
    policy = make(observations=observations, reconstruct=0.1).eval()
    left_out = {"front_intrinsics", "front_cam_to_world"}
    assert policy.spec.observations.keys() == observations.keys() - left_out
    assert policy.decoder is not None and not left_out & policy.decoder.out.keys()
    with pytest.raises(ConfigError, match="at least one observation"):
        make(observations={key: observations[key] for key in left_out})


@pytest.mark.parametrize("option", ["pool_queries", "detach"])
def test_options_of_token_streams_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"memory.config.{option} is for policies with streams"):
        make(memory="gru", memory_config={option: 1})
