"""Encoders that are pretrained vision-language models, at tiny sizes with random weights."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.prompt import PromptRule
from embodied.nn.encoders.pretrained import ADAPTER
from embodied.nn.encoders.text import QUESTION, ByteTokenizer, Prompts, load_tokenizer
from embodied.serve.tokens import read_tokenizer
from embodied.train.config import OptimConfig
from embodied.train.optim import make_optimizer
from tests.nn.tiny_vlms import (
    CAMERAS,
    GRID,
    IMAGE,
    INSTRUCTIONS,
    KINDS,
    MODELS,
    NAMES,
    SMOLVLM,
    TEXT,
    VISION,
    WIDTH,
    batch,
    build,
    instructions,
    write_tokenizer,
)

pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_one_look_at_each_picture(kind):
    encoder = build(kind).eval()
    looks = []
    for module in encoder.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            module.register_forward_hook(lambda *_: looks.append(1))
    visual, cognitive = encoder(*batch())
    width = WIDTH + 24 if kind == "prismatic" else WIDTH
    assert visual.shape == (2, CAMERAS, encoder.tokens, encoder.width)
    assert (encoder.grid, encoder.width, encoder.cognitive) == (GRID, width, WIDTH)
    assert cognitive.shape == (2, WIDTH)
    assert visual.dtype == cognitive.dtype == torch.float32
    assert len(looks) == (2 if kind == "prismatic" else 1)
    assert not any("lm_head" in name for name, _ in encoder.named_modules())
    assert encoder.weights_sha == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_in_a_batch_is_as_alone(kind):
    encoder = build(kind).eval()
    images, said = batch()
    together = encoder(images, said)
    for row in range(2):
        alone = encoder(images[row : row + 1], said[row : row + 1])
        for one, all_ in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_depends_on_what(kind):
    encoder = build(kind).eval()
    images, said = batch()
    visual, cognitive = encoder(images, said)
    other_visual, other_cognitive = encoder(images, said.flip(0))
    assert torch.equal(visual, other_visual)
    assert not torch.allclose(cognitive, other_cognitive, atol=1e-4)
    other = images.clone()
    other[:, 1] = 1 - other[:, 1]
    other_visual, other_cognitive = encoder(other, said)
    torch.testing.assert_close(visual[:, 0], other_visual[:, 0])
    assert not torch.allclose(visual[:, 1], other_visual[:, 1], atol=1e-3)
    assert not torch.allclose(cognitive, other_cognitive, atol=1e-5)
    shouted = encoder(images, instructions(*[text.upper() for text in INSTRUCTIONS]))[1]
    assert torch.equal(cognitive, shouted)


@pytest.mark.parametrize("enclosed", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_a_controller_reads_the_same_tokens(tmp_path, enclosed, loaded):
    tokenizer = ByteTokenizer()
    if loaded:
        write_tokenizer(tmp_path)
        tokenizer = load_tokenizer(tmp_path)
    prompts = Prompts(tokenizer, 100, enclosed)
    file = tmp_path / "own.json"
    file.write_text(prompts.prompt().tokenizer_json())
    rule = PromptRule.from_json(json.loads(json.dumps(prompts.prompt().rule.to_json())))
    said = instructions(*INSTRUCTIONS, "", "<s> {instruction} </s>\n")
    tokens, lengths = prompts(said)
    read, counted = read_tokenizer(file, rule)(said.numpy())
    assert np.array_equal(read, tokens.numpy()) and np.array_equal(counted, lengths.numpy())


def test_a_tokenizer_that_no_controller_has_is_refused():
    class Foreign:
        bos_token_id, eos_token_id = 1, 2

    with pytest.raises(ConfigError, match=r"\(Foreign\) has no form in the library tokenizers"):
        Prompts(Foreign(), 100, True).prompt().tokenizer_json()


@pytest.mark.parametrize("size", [8, 16, 24, 32])
def test_patches_of_smaller_pictures_are_where_smolvlm_says(size):
    encoder = build("smolvlm", image_size=size).eval()
    pictures = torch.rand(2, 3, size, size)
    model = encoder.base.model.vision_model
    whole = torch.ones(2, size // 4, size // 4, dtype=torch.bool)
    hidden = model.embeddings(encoder.normalize(pictures), whole)
    hidden = model.post_layernorm(model.encoder(inputs_embeds=hidden).last_hidden_state)
    expected = encoder.base.model.connector(hidden)
    assert torch.equal(encoder._see(pictures).visual, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_come_row_by_row(kind):
    encoder = build(kind).eval()
    side = 32 // GRID
    wall = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    plain = encoder(wall, instructions("look"))[0][0, 0]
    for row, column in [(0, 1), (1, 0), (2, 3), (3, 1)]:
        painted = wall.clone()
        patch = painted[..., row * side : (row + 1) * side, column * side : (column + 1) * side]
        patch.copy_(1 - patch)
        change = (encoder(painted, instructions("look"))[0][0, 0] - plain).norm(dim=-1)
        assert change.argmax() == row * GRID + column


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "prismatic"])
def test_equal_to_the_whole_model_of_transformers(kind):
    encoder = build(kind).eval()
    model = encoder.base.model
    images, said = batch()
    visual, cognitive = encoder(images, said)
    tokens, lengths = encoder.prompts(said)
    longest = int(lengths.max())
    seen = torch.full((2, CAMERAS * encoder.tokens), IMAGE)
    ids = torch.cat([seen, tokens[:, :longest]], dim=1)
    given = {
        "input_ids": ids,
        "attention_mask": torch.arange(ids.shape[1]) < seen.shape[1] + lengths[:, None],
    }
    pixels = encoder.normalize(images)
    if kind == "smolvlm":
        given["pixel_values"] = pixels
    elif kind.startswith("paligemma"):
        given |= {"pixel_values": pixels.flatten(0, 1), "token_type_ids": torch.zeros_like(ids)}
    else:
        given["pixel_values"] = qwen_patches(pixels.flatten(0, 1))
        given["image_grid_thw"] = torch.tensor([[1, 8, 8]]).expand(2 * CAMERAS, -1)
        given["mm_token_type_ids"] = (ids == IMAGE).int()
        # A view after another view: without this they would be one group of one grid.
        given["position_ids"] = qwen_positions(tokens[:, :longest])
    hidden = model(**given).last_hidden_state
    last = hidden[torch.arange(2), seen.shape[1] + lengths - 1]
    torch.testing.assert_close(cognitive, last, atol=1e-5, rtol=1e-4)
    given.pop("position_ids", None)
    if kind.startswith("qwen"):
        features = model.get_image_features(given["pixel_values"], given["image_grid_thw"])
        features = torch.stack(features.pooler_output)
    else:
        features = model.get_image_features(given["pixel_values"]).pooler_output
        features = torch.stack(features) if isinstance(features, list) else features
    torch.testing.assert_close(visual.flatten(), features.flatten(), atol=1e-5, rtol=1e-4)


def qwen_patches(pictures):
    """Patches of 4x4 pixels, blocks of 2x2 patches after one another, each frame twice."""
    rows = []
    for picture in pictures:
        for block_y in range(0, 32, 8):
            for block_x in range(0, 32, 8):
                for y in (block_y, block_y + 4):
                    for x in (block_x, block_x + 4):
                        patch = picture[:, y : y + 4, x : x + 4]
                        rows.append(torch.stack([patch, patch], dim=1).flatten())
    return torch.stack(rows)


def qwen_positions(tokens):
    """Time, row and column of each token; a view takes as many positions as it has rows."""
    places = []
    for view in range(CAMERAS):
        start = view * GRID
        places += [(start, start + y, start + x) for y in range(GRID) for x in range(GRID)]
    start = CAMERAS * GRID
    places += [(start + index,) * 3 for index in range(tokens.shape[1])]
    return torch.tensor(places).T[:, None].expand(-1, len(tokens), -1)


@pytest.mark.parametrize("kind", NAMES)
def test_adapters_learn_and_nothing_else_changes(kind):
    encoder = build(kind, learn="lora", lora_rank=4, lora_alpha=8.0).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    learning = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    assert learning and all(ADAPTER in name for name in learning)
    assert {p.shape[0] for name, p in learning.items() if "lora_A" in name} == {4}
    parts = {name.split(".")[2] for name in learning}  # vision and language
    assert len(parts) == (3 if kind == "prismatic" else 2)
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-2)
    images, said = batch()
    aims = [torch.randn_like(x) for x in encoder(images, said)]
    losses = []
    for _ in range(4):
        outputs = encoder(images, said)
        loss = sum(F.mse_loss(x, aim) for x, aim in zip(outputs, aims, strict=True))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 1e-3
    changed = {n for n, value in encoder.state_dict().items() if not torch.equal(value, before[n])}
    assert changed and all(ADAPTER in name for name in changed)


def test_options_of_the_adapters():
    weak, strong = (build("smolvlm", learn="lora", lora_alpha=alpha) for alpha in (16.0, 32.0))
    for encoder in (weak, strong):
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(parameter, 1e-3)
    layer = "base.model.text_model.layers.0.self_attn.q_proj"
    x = torch.randn(1, 3, WIDTH)
    added = [
        e.get_submodule(layer)(x) - e.get_submodule(layer).base_layer(x) for e in (weak, strong)
    ]
    torch.testing.assert_close(2 * added[0], added[1])
    noisy = build("smolvlm", learn="lora", lora_dropout=0.5)
    for name, parameter in noisy.named_parameters():
        if "lora_B" in name:
            nn.init.constant_(parameter, 1e-2)
    given = batch()
    assert not torch.equal(noisy.train()(*given)[1], noisy(*given)[1])
    assert torch.equal(noisy.eval()(*given)[1], noisy(*given)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    encoder, fresh = build(kind).eval(), build(kind, seed=5).eval()
    given = batch()
    expected = encoder(*given)
    assert not torch.equal(fresh(*given)[1], expected[1])
    holder, fresh_holder = nn.ModuleDict({"trunk": encoder}), nn.ModuleDict({"trunk": fresh})
    fresh_holder.load_state_dict(holder.state_dict())
    for one, other in zip(fresh(*given), expected, strict=True):
        assert torch.equal(one, other)
    twin = copy.deepcopy(encoder)
    assert torch.equal(twin(*given)[1], expected[1])
    assert build(kind, learn="frozen").state_dict().keys() == encoder.state_dict().keys()


def test_instructions():
    encoder = build("paligemma", text_tokens=60)
    images, _ = batch(rows=1)
    said = "put it back " * 3
    count = 1 + len(QUESTION.format(instruction=said))
    with pytest.raises(ConfigError, match=rf"{said}.* takes {count} tokens.*text_tokens=60"):
        encoder(images, instructions(said))
    with pytest.raises(SpecMismatch, match="not UTF-8"):
        encoder(images, torch.full((1, 160), 0xFF, dtype=torch.uint8))
    tokens, lengths = encoder.prompts(instructions("", "Go"))
    assert tokens.shape == (2, 60) and lengths.tolist() == [
        tokens[0].count_nonzero(),
        lengths[0] + 2,
    ]
    encoder.prompts.read.KEPT = 4
    first = encoder.prompts(instructions("a"))[0]
    for text in "bcdefgh":
        encoder.prompts(instructions(text))
    assert len(encoder.prompts.read._known) == 4
    assert torch.equal(encoder.prompts(instructions("a"))[0], first)


@pytest.mark.parametrize(
    ("kind", "size", "match"),
    [
        ("smolvlm", 36, "multiple of 8"),
        ("smolvlm", 64, "at most 32"),
        ("paligemma", 64, "must be 32"),
        ("qwen2_5_vl", 36, "multiple of 8"),
        ("qwen3_vl", 36, "multiple of 8"),
        ("prismatic", 64, "must be 32"),
    ],
)
def test_refused_picture_sizes(kind, size, match):
    with pytest.raises(ConfigError, match=f"image_size={size} must be.*{match}|{match}"):
        build(kind, image_size=size)


@pytest.mark.parametrize(("kind", "size"), [("smolvlm", 24), ("qwen2_5_vl", 40), ("qwen3_vl", 24)])
def test_other_picture_sizes(kind, size):
    encoder = build(kind, image_size=size).eval()
    visual, _ = encoder(torch.rand(1, 1, 3, size, size), instructions("look"))
    assert visual.shape == (1, 1, (size // 8) ** 2, WIDTH)


def test_refused_options():
    for options, match in (
        ({"lora_rank": 0}, "lora_rank must be >= 1"),
        ({"lora_alpha": 0.0}, "lora_alpha must be > 0"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\)"),
        ({"text_tokens": 0}, "text_tokens must be >= 1"),
        ({"dtype": "float16"}, "unknown encoder.dtype 'float16'"),
        ({"learn": "frozen", "checkpointing": True}, "checkpointing=true saves memory"),
        ({"dtype": "bfloat16"}, "learn=full with encoder.dtype=bfloat16 would hardly learn"),
        ({"model": {}}, r"encoder\.weights is empty.*hf download"),
        ({"model": SMOLVLM | {"scale": 2}}, "unknown key of encoder.model.*did you mean"),
        ({"model": SMOLVLM | {"text_config": {"hidden": 8}}}, "encoder.model.text_config 'hidden'"),
        ({"model": SMOLVLM | {"scale_factor": "2"}}, "doesn't make a smolvlm"),
        (
            {"model": SMOLVLM | {"vision_config": VISION | {"patch_size": 4, "hidden_size": 33}}},
            "make a model",
        ),
        (
            {"model": SMOLVLM | {"text_config": TEXT | {"vocab_size": 100}}},
            "vocab_size must be >= 259",
        ),
    ):
        with pytest.raises(ConfigError, match=match):
            build("smolvlm", **options)
    with pytest.raises(ConfigError, match=r"unknown key of encoder\.model"):
        build("prismatic", model={"vision_config": {}})
    patches = {"siglip_config": MODELS["prismatic"]["siglip_config"] | {"patch_size": 4}}
    with pytest.raises(ConfigError, match="must agree"):
        build("prismatic", model=MODELS["prismatic"] | patches)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("learn", ["full", "lora"])
def test_checkpointing_changes_no_gradient(kind, learn):
    gradients = []
    for checkpointing in (False, True):
        encoder = build(kind, learn=learn, checkpointing=checkpointing).train()
        runs = []
        for module in encoder.modules():
            if type(module).__name__.endswith("Attention"):
                module.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        visual, cognitive = encoder(*batch())
        forward = len(runs)
        (visual.square().mean() + cognitive.square().mean()).backward()
        assert len(runs) == (2 * forward if checkpointing else forward)
        learning = [p for p in encoder.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in learning)
        gradients.append([p.grad for p in learning])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", NAMES)
def test_all_weights_learn_where_the_forward_pass_is_in_bfloat16(kind):
    encoder = build(kind, checkpointing=True).train()
    optimizer = make_optimizer(encoder, OptimConfig(lr=2e-5, weight_decay=0.0))
    before = [p.detach().clone() for p in encoder.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        visual, cognitive = encoder(*batch())
        (visual.float().square().mean() + cognitive.float().square().mean()).backward()
    grads = [p.grad for p in encoder.parameters()]
    assert {grad.dtype for grad in grads} == {torch.float32}
    optimizer.step()
    reached = moved = 0
    for parameter, old, grad in zip(encoder.parameters(), before, grads, strict=True):
        some = grad.abs() > 1e-6  # AdamW divides by at least 1e-8
        reached += int(some.sum())
        moved += int((parameter != old)[some].sum())
    assert reached > 1000 and moved > 0.99 * reached


@pytest.mark.parametrize("kind", NAMES)
def test_bfloat16(kind):
    exact, narrow = build(kind).eval(), build(kind, dtype="bfloat16", learn="frozen").eval()
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    narrow.load_state_dict(exact.state_dict())
    for output, expected in zip(narrow(*batch()), exact(*batch()), strict=True):
        assert output.dtype == torch.float32
        assert F.cosine_similarity(output, expected, dim=-1).min() > 0.99
    encoder = build(kind, dtype="bfloat16", learn="lora").train()
    for name, parameter in encoder.named_parameters():
        assert parameter.dtype == (torch.float32 if ADAPTER in name else torch.bfloat16)
    encoder(*batch())[1].sum().backward()
    frozen = build(kind, dtype="bfloat16", learn="frozen")
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen(*batch())[1].isfinite().all()
