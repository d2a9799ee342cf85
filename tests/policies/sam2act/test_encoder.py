"""transformers' SAM2 vision model at any size, its levels, its weights and what of it learns."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from embodied.core.errors import CheckpointError, ConfigError, MissingExtra
from policies.sam2act.branch import Branch, BranchOptions
from policies.sam2act.encoder import SIZES, Encoder, EncoderOptions, HieraSize
from policies.sam2act.heads import HeadOptions
from policies.sam2act.trunk import TrunkOptions

pytest.importorskip("transformers")

SIDES = {"tiny": [16, 8, 4], "small": [32, 16, 8], "base_plus": [64, 32, 16]}
GRIDS = {"tiny": 8, "small": 8, "base_plus": 16}
LITTLE = {"dims": [8, 16, 24, 32], "heads": [1, 2, 2, 4], "fpn_width": 64}
"""A model even smaller than tiny, whose mask decoder has projections of 8 and 16 channels."""


def make(seed=0, **options):
    torch.manual_seed(seed)
    return Encoder(EncoderOptions(**options)).eval()


def pictures(side=64, count=2):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", SIZES)
def test_sides_and_channels_of_the_levels(size):
    with torch.device("meta"):
        encoder = make(size=size, grid=GRIDS[size])
        levels = encoder(torch.rand(2, 3, encoder.image_size, encoder.image_size))
    assert list(levels) == SIDES[size] == list(encoder.channels)
    for side, level in levels.items():
        assert level.shape == (2, encoder.channels[side], side, side)


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_levels_are_those_of_the_model(size):
    encoder = make(size=size)
    x = pictures(encoder.image_size)
    with torch.no_grad():
        ours, theirs = encoder(x), encoder.base.model(x).fpn_hidden_states
        for own, other in zip(ours.items(), theirs, strict=True):
            side, level = own
            if str(side) in encoder.projections:
                other = encoder.projections[str(side)](other)
            torch.testing.assert_close(level, other)


@pytest.mark.parametrize(
    ("grid", "channels"),
    [
        (4, {16: 32, 8: 64, 4: 96}),
        (8, {16: 64, 8: 96, 4: 96}),
        (16, {16: 96, 8: 96, 4: 96}),
    ],
)
def test_levels_finer_than_the_grid_are_projected(grid, channels):
    encoder = make(grid=grid)
    assert encoder.channels == channels
    assert {s: x.shape[1] for s, x in encoder(pictures()).items()} == channels


def test_parameter_counts():
    with torch.device("meta"):
        for size, millions in (("base_plus", 69.1), ("small", 1.43), ("tiny", 0.613)):
            encoder = make(size=size, grid=GRIDS[size])
            count = sum(p.numel() for p in encoder.base.model.parameters()) / 1e6
            assert count == pytest.approx(millions, rel=0.005), size


def test_attends_with_the_fused_kernel():
    model = make().base.model
    assert model.config._attn_implementation == "sdpa"
    assert model.backbone.config._attn_implementation == "sdpa"


def test_resizes_with_the_corners_kept_in_place():
    encoder, seen = make(), []
    backbone = encoder.base.model.backbone
    backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ramp = torch.linspace(0, 1, 56).expand(1, 3, 56, 56)
    encoder(ramp)
    expected = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    torch.testing.assert_close(seen[0], expected)
    same = pictures()
    encoder(same)
    assert seen[1] is same


def test_gradients_reach_everything_of_a_random_encoder():
    encoder = make().train()
    sizes = BranchOptions(
        trunk=TrunkOptions(width=24, encoder_width=8, patch_width=8, hidden=16, heads=2),
        heads=HeadOptions([12]),
    )
    torch.manual_seed(1)
    branch = Branch(sizes, encoder.channels, 4, 8, heads=False)
    images = torch.rand(1, 3, 10, 64, 64)
    levels = encoder(images[:, :, 3:6].flatten(0, 1))
    x = branch.trunk(images, levels, torch.randn(1, 4), torch.randn(1, 2, 8))
    heatmaps = branch.heatmaps(x, levels).flatten(2)
    (heatmaps.logsumexp(-1) - heatmaps[..., 99]).mean().backward()
    for name, parameter in [*encoder.named_parameters(), *branch.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.any(), name


def test_a_picture_alone_equals_the_picture_in_a_batch():
    encoder, x = make(), pictures(count=4)
    with torch.no_grad():
        for side, level in encoder(x[1:2]).items():
            torch.testing.assert_close(level, encoder(x)[side][1:2], atol=1e-5, rtol=1e-5)


def test_runs_under_bfloat16_autocast():
    encoder, x = make(), pictures(56)
    with torch.no_grad():
        plain = encoder(x)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = encoder(x)
    for side, level in narrow.items():
        assert level.dtype == torch.bfloat16
        error = (level.float() - plain[side]).abs().mean() / plain[side].abs().mean()
        assert error < 0.03


def test_can_be_traced():
    encoder, x = make(), pictures(56)
    program = torch.export.export(encoder, (x,), strict=False)
    for side, level in program.module()(x).items():
        torch.testing.assert_close(level, encoder(x)[side])


def test_names_and_options_need_no_transformers():
    code = (
        "import sys; from policies.sam2act.encoder import EncoderOptions; EncoderOptions();"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_projections_may_stay_as_they_start():
    trained, frozen = make(), make(projections="frozen")
    assert all(p.requires_grad for p in trained.projections.parameters())
    assert not any(p.requires_grad for p in frozen.projections.parameters())
    assert all(p.requires_grad for p in frozen.base.parameters())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders as repositories of the hub are, of each kind of model that has the encoder."""
    from transformers import AutoConfig, AutoModel

    vision = EncoderOptions(model=LITTLE, level_widths=[16, 8]).hiera.as_config()
    decoder = {
        "hidden_size": 64,
        "mlp_dim": 32,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 32,
    }
    inner = {
        "vision_config": {"model_type": "sam2_vision_model", **vision},
        "prompt_encoder_config": {"hidden_size": 64},
        "mask_decoder_config": decoder,
    }
    memory = {
        "memory_attention_hidden_size": 64,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": 64,
        "mask_downsampler_embed_dim": 64,
        "memory_fuser_embed_dim": 64,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }
    values = {"sam2": inner, "sam2_video": inner | memory, "sam2_vision_model": vision}
    made = {}
    for seed, (kind, config) in enumerate(values.items()):
        torch.manual_seed(10 + seed)
        model = AutoModel.from_config(AutoConfig.for_model(kind, **config)).eval()
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        made[kind] = folder, model
    return made


def little(folder, seed=0, **options):
    values = {"model": LITTLE, "level_widths": [16, 8], "grid": 4, **options}
    return make(seed, weights=str(folder), **values)


@pytest.mark.parametrize("kind", ["sam2", "sam2_video", "sam2_vision_model"])
def test_weights_of_a_folder(kind, folders):
    folder, model = folders[kind]
    encoder, x = little(folder), pictures()
    with torch.no_grad():
        levels = encoder(x)
        expected = getattr(model, "vision_encoder", model)(x).fpn_hidden_states
    # Additions start at zero; no projection is on the token grid's level.
    torch.testing.assert_close(levels[4], expected[2])
    if kind == "sam2_vision_model":
        return
    decoder = model.mask_decoder
    torch.testing.assert_close(levels[16], decoder.conv_s0(expected[0]))
    torch.testing.assert_close(levels[8], decoder.conv_s1(expected[1]))


def test_of_loaded_weights_only_additions_and_projections_learn(folders):
    encoder = little(folders["sam2"][0]).train()
    learns = {name for name, p in encoder.named_parameters() if p.requires_grad}
    blocks = sum(EncoderOptions(model=LITTLE).hiera.blocks)
    assert len([name for name in learns if ".lora_" in name]) == 4 * blocks
    assert {name for name in learns if ".lora_" not in name} == {
        f"projections.{side}.{part}" for side in (16, 8) for part in ("weight", "bias")
    }
    for name, parameter in encoder.named_parameters():
        if "lora_b" in name:
            nn.init.normal_(parameter, std=0.1)
    sum(level.square().mean() for level in encoder(pictures()).values()).backward()
    for name, parameter in encoder.named_parameters():
        if name in learns:
            assert parameter.grad is not None and parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def test_loaded_weights_stay_out_of_checkpoints(folders):
    folder, _ = folders["sam2"]
    encoder = little(folder)
    state = encoder.state_dict()
    assert {name.partition(".")[0] for name in state if ".lora_" not in name} == {
        "base",
        "projections",
    }
    assert [name for name in state if name.startswith("base.") and ".lora_" not in name] == [
        "base.source"
    ]
    nn.init.normal_(encoder.base.model.backbone.blocks[1].attn.qkv.lora_b_q)
    again = little(folder, seed=5)
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for side, level in again(pictures()).items():
            assert torch.equal(level, encoder(pictures())[side])
    with pytest.raises(CheckpointError, match="trained on pretrained weights of sha256"):
        little(folders["sam2_video"][0]).load_state_dict(encoder.state_dict())
    assert encoder.weights_sha and not make().weights_sha
    assert "base.model.neck.convs.0.weight" in make().state_dict()


def test_models_of_another_size_are_refused(folders):
    folder, _ = folders["sam2"]
    with pytest.raises(ConfigError, match=r"size=tiny has hidden_size=24, and the model .* has 8"):
        make(weights=str(folder))
    with pytest.raises(ConfigError, match=r"window_size_per_stage=\[8, 4, 4, 2\].*\[8, 8, 4, 2\]"):
        little(folder, model={**LITTLE, "windows": [8, 4, 4, 2]})
    with pytest.raises(ConfigError, match=r"fpn_top_down_levels=\[2, 3\].*\[1, 2, 3\]"):
        little(folder, model={**LITTLE, "top_down": [2, 3]})


def test_weights_that_cannot_be_used_are_refused(folders, tmp_path):
    folder, _ = folders["sam2"]
    with pytest.raises(CheckpointError, match=r"no such folder.*hf download ID --revision SHA"):
        little(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="40 hex digits of a commit"):
        little("owner/name", revision="main")
    with pytest.raises(ConfigError, match=r"is a folder: leave encoder\.revision empty"):
        little(folder, revision="0" * 40)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match=r"Pickled weights are never\s+opened"):
        little(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in tensors.items() if "neck.convs.0" not in name}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 2 tensors.*neck\.convs\.0"):
        little(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match=r"expected model_type sam2_video or sam2"):
        little(tmp_path)


def test_a_commit_of_the_hub_is_pinned_and_brings_no_code(folders, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, **how):
        asked.append((name, how["revision"], how["allow_patterns"]))
        return str(folders["sam2"][0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    little("owner/name", revision="ab" * 20)
    assert asked[0][:2] == ("owner/name", "ab" * 20)
    assert not any(pattern.endswith(("bin", "py", "*")) for pattern in asked[0][2])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"'transformers'.*\[vlm\]"):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, r"unknown encoder\.size 'huge'"),
        ({"image_size": 112}, r"encoder\.image_size must be a multiple of 32 px.*got 112"),
        ({"image_size": -64}, r"must be a multiple of 32 px.*got -64"),
        ({"grid": 32}, r"encoder\.grid=32 must be the side of a level.*64 px have \[16, 8, 4\]"),
        ({"grid": 4, "level_widths": [64]}, r"level_widths must be 2 sizes >= 1 or more"),
        ({"level_widths": [0]}, r"level_widths must be 1 sizes >= 1 or more"),
        ({"projections": "random"}, r"unknown encoder\.projections 'random'"),
        ({"lora_rank": 0}, r"encoder\.lora_rank must be >= 1"),
        ({"revision": "0" * 40}, r"encoder\.weights, which is empty"),
        ({"model": {"dim": [8]}}, r"unknown option of encoder size tiny 'dim'.*'dims'"),
        ({"model": {"dims": "wide"}}, r"encoder\.model\.dims: expected list"),
        ({"model": {"dims": ["8", 16, 24, 32]}}, r"encoder\.model\.dims must be whole numbers"),
        ({"model": {"blocks": [1, 1, 1]}}, r"encoder\.model\.blocks must be sizes.*one a stage"),
        ({"model": {"heads": [1, 2, 5, 8]}}, r"encoder\.model\.heads=.* must divide"),
        ({"model": {"windows": [8, 7, 4, 2]}}, r"encoder\.model\.windows but the last.*even"),
        ({"model": {"global_blocks": [3]}}, r"global_blocks must be within 0\.\.4.*\[1, 3, 4\]"),
        ({"model": {"global_blocks": [5]}}, r"global_blocks must be within 0\.\.4.*got 5"),
        ({"model": {"fpn_width": 0}}, r"encoder\.model\.fpn_width must be >= 1"),
        ({"model": {"top_down": [4]}}, r"encoder\.model\.top_down must be within 0\.\.3"),
        ({"model": {"windows": [16, 8, 4, 2]}, "image_size": 96}, r"multiple of 64 px"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EncoderOptions(**options)


def test_three_stages_do():
    sizes = {
        "dims": [16, 32, 64],
        "blocks": [1, 2, 2],
        "heads": [1, 2, 4],
        "windows": [8, 8, 4],
        "top_down": [1, 2],
    }
    encoder = make(model=sizes)
    assert [x.shape[-1] for x in encoder(pictures()).values()] == [16, 8, 4]
    with pytest.raises(ConfigError, match="at least 3 stages"):
        HieraSize(dims=[8, 16], blocks=[1, 1], heads=[1, 1], windows=[8, 4])
