"""The spatial memory is the same function as SAM 2's modules in transformers, weights carried over.

SAM2Act+ uses those modules as they are (its code's ``MemoryAttention`` and ``MemoryEncoder``); the
last test is its whole memory, written with them: every past entry in a list, the last nine read.

Shape letters: R rows, M frames, N tokens, D width.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.memory import build_memory
from embodied.memory.spatial_attention import MemoryAttention
from embodied.memory.spatial_bank import SpatialConfig
from embodied.memory.spatial_encoder import MemoryEncoder, sine_code

pytest.importorskip("transformers")

from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoConfig
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoMemoryAttention,
    Sam2VideoMemoryEncoder,
)

ENTRY = 64
"""The width of memory tokens is no option in transformers."""
ROWS, TOLERANCE = 2, 1e-5

NAMES = {
    "self_attention": "self_attn",
    "cross_attention": "cross_attn_image",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "norm_self": "layer_norm1",
    "norm_cross": "layer_norm2",
    "norm_feedforward": "layer_norm3",
    "depthwise": "depthwise_conv",
}
"""Part of a parameter's name here -> there; the rest is in `attention_name`, `encoder_name`."""


def attention_name(name: str) -> str:
    parts = [NAMES.get(part, part) for part in name.split(".")]
    plain = ".".join(parts).replace(".out.", ".o_proj.")
    plain = plain.replace(".widen.", ".linear1.").replace(".narrow.", ".linear2.")
    return plain.replace("norm.", "layer_norm.") if plain.startswith("norm.") else plain


def encoder_name(name: str) -> str:
    parts = [NAMES.get(part, part) for part in name.split(".")]
    if parts[0] == "mask":
        step, kind = divmod(int(parts[1]), 3)
        if step == 4:
            return f"mask_downsampler.final_conv.{parts[2]}"
        return f"mask_downsampler.layers.{step}.{('conv', 'layer_norm')[kind]}.{parts[2]}"
    if parts[0] == "blocks":
        inner = {"norm": "layer_norm", "widen": "pointwise_conv1", "narrow": "pointwise_conv2"}
        rest = [inner.get(part, part) for part in parts[1:]]
        return ".".join(["memory_fuser", "layers", *rest])
    top = {"features": "feature_projection", "out": "projection"}[parts[0]]
    return f"{top}.{parts[1]}"


def carry(theirs: nn.Module, ours: nn.Module, rename) -> None:
    """Copies every parameter by name; none may be left over on either side."""
    given = dict(theirs.named_parameters())
    taken = {name: given.pop(rename(name)) for name, _ in ours.named_parameters()}
    assert not given, sorted(given)
    ours.load_state_dict({name: tensor.detach() for name, tensor in taken.items()})


def shaken(module: nn.Module) -> nn.Module:
    """Moves every parameter: weights of norms from 1, layer scales from 1e-6."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def settings(side: int, width: int, feedforward: int = 2048, heads: int = 1) -> Sam2VideoConfig:
    config = Sam2VideoConfig(
        memory_attention_hidden_size=width,
        memory_attention_rope_feat_sizes=[side, side],
        memory_attention_feed_forward_hidden_size=feedforward,
        memory_attention_num_attention_heads=heads,
        memory_encoder_hidden_size=width,
        memory_encoder_output_channels=ENTRY,
        mask_downsampler_embed_dim=width,
        memory_fuser_embed_dim=width,
        memory_fuser_intermediate_dim=4 * width,
    )
    config._attn_implementation = "eager"
    return config


def attentions(
    side: int, width: int, feedforward: int = 2048, heads: int = 1
) -> tuple[nn.Module, MemoryAttention]:
    torch.manual_seed(0)
    theirs = shaken(Sam2VideoMemoryAttention(settings(side, width, feedforward, heads)))
    published = SpatialConfig()
    ours = MemoryAttention(
        side, width, ENTRY, published.layers, heads, feedforward, 0.0, published.position_scale
    ).eval()
    carry(theirs, ours, attention_name)
    return theirs, ours


def ask(theirs: nn.Module, query: Tensor, position: Tensor, keys: Tensor, codes: Tensor) -> Tensor:
    """Calls their attention: tokens before rows, all frames one after another."""

    def first(tokens: Tensor) -> Tensor:
        return tokens.flatten(1, -2).transpose(0, 1)

    found = theirs(first(query[:, None]), first(keys), first(position[:, None]), first(codes))
    return found[0]


@pytest.mark.parametrize(
    ("side", "width", "feedforward", "heads"),
    [(16, 128, 2048, 1), (8, 128, 512, 1), (4, 64, 128, 2)],
    ids=["published", "small", "two-heads"],
)
def test_memory_attention_is_that_of_sam2(
    side: int, width: int, feedforward: int, heads: int
) -> None:
    theirs, ours = attentions(side, width, feedforward, heads)
    tokens = side * side
    query, position = torch.randn(2, ROWS, tokens, width)
    entries, codes = torch.randn(2, ROWS, 3, tokens, ENTRY)
    expected = ask(theirs, query, position, entries, codes)
    live = torch.ones(ROWS, 3, dtype=torch.bool)
    found = ours(query, position, entries + codes, entries, live)
    assert (found - expected).abs().max() <= TOLERANCE
    # Frames that are not live are as if they were not there.
    more = torch.cat([entries, 9 * torch.randn(ROWS, 2, tokens, ENTRY)], dim=1)
    coded = torch.cat([entries + codes, torch.randn(ROWS, 2, tokens, ENTRY)], dim=1)
    live = torch.tensor([[True, True, True, False, False]] * ROWS)
    found = ours(query, position, coded, more, live)
    assert (found - expected).abs().max() <= TOLERANCE


def test_an_empty_memory_does_not_return_the_query_there() -> None:
    """Why the bank's bypass is written out."""
    theirs, _ = attentions(4, 64, 128)
    query = torch.randn(1, 16, 64)
    none = torch.zeros(1, 0, 16, ENTRY)
    found = ask(theirs, query, torch.zeros_like(query), none, none)
    assert (found - query).abs().max() > 0.1


@pytest.mark.parametrize(("side", "width"), [(16, 128), (8, 128), (3, 32)])
def test_memory_encoder_is_that_of_sam2(side: int, width: int) -> None:
    torch.manual_seed(0)
    theirs = shaken(Sam2VideoMemoryEncoder(settings(side, width)))
    ours = MemoryEncoder(side, width, ENTRY, SpatialConfig().encoder_blocks).eval()
    carry(theirs, ours, encoder_name)
    tokens = torch.randn(ROWS, side * side, width)
    grid = tokens.transpose(1, 2).reshape(ROWS, width, side, side)
    for pixels in (16 * side, 14 * side):
        logits = 3 * torch.randn(ROWS, pixels, pixels)
        size = (16 * side, 16 * side)
        mask = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)
        expected, code = theirs(grid, mask.sigmoid() * 20 - 10)
        found = ours(tokens, logits)
        assert (found - expected.flatten(2).transpose(1, 2)).abs().max() <= TOLERANCE
        coded = sine_code(side, ENTRY).expand(ROWS, -1, -1)
        assert (coded - code.flatten(2).transpose(1, 2)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_the_whole_memory_is_that_of_sam2act_plus() -> None:
    """Twelve steps of one view: encode features and predicted heatmap, read the last nine."""
    side, width, window, pixels = 8, 128, 9, 64
    tokens = side * side
    torch.manual_seed(0)
    memory = build_memory("spatial", {"view": (tokens, width)}, {"feedforward": 512}).eval()
    bank = memory.banks[f"{tokens}x{width}"]
    theirs, ours = attentions(side, width, 512)
    bank.attention.load_state_dict(ours.state_dict())
    encoder = shaken(Sam2VideoMemoryEncoder(settings(side, width)))
    carry(encoder, bank.encoder, encoder_name)
    bank.temporal.normal_()

    past: list[tuple[Tensor, Tensor]] = []
    state, keep = memory.initial(ROWS), torch.zeros(ROWS, dtype=torch.bool)
    place = sine_code(side, width).expand(ROWS, -1, -1)
    for t in range(12):
        query = torch.randn(ROWS, tokens, width)
        expected = query
        if past:
            recent = past[-window:]
            frames = torch.stack([entry for entry, _ in recent], dim=1)
            steps = range(len(recent), 0, -1)
            codes = [
                code + bank.temporal[k - 1] for k, (_, code) in zip(steps, recent, strict=True)
            ]
            expected = ask(theirs, query, place, frames, torch.stack(codes, dim=1))
        time_s = torch.full((ROWS,), float(t))
        value, pending = memory.read({"view": query}, time_s, state, keep)
        assert (value["view"] - expected).abs().max() <= TOLERANCE, t

        # A stand-in for the upsampler: it sees the features after memory.
        logits = expected[..., :1].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        logits = F.interpolate(logits, size=(pixels, pixels), mode="bicubic")
        mask = F.interpolate(logits, size=(16 * side, 16 * side), mode="bilinear")
        grid = query.transpose(1, 2).reshape(ROWS, width, side, side)
        entry, code = encoder(grid, mask.sigmoid() * 20 - 10)
        past.append((entry.flatten(2).transpose(1, 2), code.flatten(2).transpose(1, 2)))
        item = {"view": query, "view.mark": logits.flatten(1)[..., None]}
        state = memory.write(pending, item, time_s, state)
    assert state["view.overflow"].tolist() == [3] * ROWS


def test_the_default_options_have_the_published_sizes() -> None:
    """2.57 and 0.49 million weights at width 128; 0.99 with the small feed-forward layers."""
    for options, attention in (({}, 2.57), ({"feedforward": 512}, 0.99)):
        bank = build_memory("spatial", {"view": (256, 128)}, options).banks["256x128"]
        sizes = [sum(p.numel() for p in m.parameters()) for m in (bank.attention, bank.encoder)]
        assert [round(n / 1e6, 2) for n in sizes] == [attention, 0.49]
        assert bank.temporal.shape == (9, 64)
        assert 0.015 < float(bank.temporal.detach().std()) < 0.025
