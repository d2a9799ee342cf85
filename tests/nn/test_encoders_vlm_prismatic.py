"""The paper's layout: its sizes, its prompt, and weights as OpenVLA stores them."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from embodied.core.errors import CheckpointError
from embodied.nn.encoders import build_encoder
from embodied.nn.encoders.text import QUESTION, ByteTokenizer, Prompts
from tests.nn.tiny_vlms import MODELS, TEXT, WIDTH, build, instructions, write_tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")


def test_enclosed_prompts():
    tokens, lengths = Prompts(ByteTokenizer(), 60, enclosed=True)(instructions("go"))
    row = tokens[0, : lengths[0]].tolist()
    assert (row[0], row[-1]) == (1, 2)
    assert bytes(token - 3 for token in row[1:-1]).decode() == QUESTION.format(instruction="go")


def test_the_papers_layout():
    from embodied.nn.encoders.prismatic import PAPER

    with torch.device("meta"):
        encoder = build_encoder("prismatic", {"model": PAPER})
    assert (encoder.tokens, encoder.width, encoder.cognitive) == (256, 2176, 4096)
    model = encoder.base.model
    count = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    # LLaMA-2 7B has 6,738,415,616 parameters, its head 32,000 x 4096; 64 words are added.
    assert count["language_model"] == 6_738_415_616 - 32_000 * 4096 + 64 * 4096
    # A layer of a vision transformer: 12 D^2 + 13 D, two scales of D; 256 places, a class and
    # four registers, patches of 14x14x3. One of the 24 layers is not built.
    width = 1024
    layer = 12 * width**2 + 13 * width + 2 * width
    assert count["dinov2"] == 23 * layer + (257 + 1 + 4) * width + (14 * 14 * 3 + 1) * width
    width, wide = 1152, 4304
    layer = 4 * width**2 + 4 * width + 2 * width * wide + wide + width + 4 * width
    assert count["siglip"] == 26 * layer + 256 * width + (14 * 14 * 3 + 1) * width
    assert count["projector"] == 2176 * 8704 + 8704 + 8704 * 4096 + 4096 + 4096 * 4096 + 4096


def openvla_tensors(generator):
    """A tiny model under OpenVLA's names, whole: with what is not read too."""

    def rand(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    def linear(name, width_out, width_in):
        return {name + ".weight": rand(width_out, width_in), name + ".bias": rand(width_out)}

    tensors = {}
    for tower, width, hidden in (("featurizer", 32, 128), ("fused_featurizer", 24, 48)):
        top = f"vision_backbone.{tower}."
        tensors[top + "patch_embed.proj.weight"] = rand(width, 3, 8, 8)
        tensors[top + "patch_embed.proj.bias"] = rand(width)
        tensors[top + "pos_embed"] = rand(1, 16, width)
        for index in range(3):
            block = f"{top}blocks.{index}."
            tensors |= linear(block + "attn.qkv", 3 * width, width)
            tensors |= linear(block + "attn.proj", width, width)
            tensors |= linear(block + "mlp.fc1", hidden, width)
            tensors |= linear(block + "mlp.fc2", width, hidden)
            for norm in ("norm1", "norm2"):
                tensors |= {
                    f"{block}{norm}.weight": rand(width),
                    f"{block}{norm}.bias": rand(width),
                }
            if tower == "featurizer":
                tensors |= {f"{block}ls{i}.scale_factor": rand(width) for i in (1, 2)}
        tensors[top + "norm.weight"] = rand(width)
    tensors["vision_backbone.featurizer.cls_token"] = rand(1, 1, 32)
    tensors["vision_backbone.featurizer.reg_token"] = rand(1, 4, 32)
    tensors["vision_backbone.fused_featurizer.attn_pool.latent"] = rand(1, 1, 24)
    tensors |= linear("projector.fc1", 4 * 56, 56)
    tensors |= linear("projector.fc2", WIDTH, 4 * 56)
    tensors |= linear("projector.fc3", WIDTH, WIDTH)
    torch.manual_seed(3)
    text = {key: value for key, value in TEXT.items() if value is not None}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text | {"rms_norm_eps": 1e-5}))
    return tensors | {f"language_model.{name}": t.clone() for name, t in llama.state_dict().items()}


def patch_states(tensors, tower, picture):
    """States [N, D] of the patches behind the second-to-last of three layers, two heads."""
    own = {
        name.removeprefix(f"vision_backbone.{tower}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"vision_backbone.{tower}.")
    }

    def apply(x, name):
        return F.linear(x, own[name + ".weight"], own[name + ".bias"])

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], own[name + ".weight"], own[name + ".bias"], 1e-6)

    x = F.conv2d(picture[None], own["patch_embed.proj.weight"], own["patch_embed.proj.bias"], 8)
    x = x.flatten(2).transpose(1, 2)[0] + own["pos_embed"][0]
    if "cls_token" in own:
        x = torch.cat([own["cls_token"][0], own["reg_token"][0], x])
    for index in range(2):
        block = f"blocks.{index}."
        heads = apply(norm(x, block + "norm1"), block + "attn.qkv").unflatten(-1, (3, 2, -1))
        q, k, v = heads.permute(1, 2, 0, 3)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        x = x + own.get(block + "ls1.scale_factor", 1.0) * apply(seen, block + "attn.proj")
        wide = F.gelu(apply(norm(x, block + "norm2"), block + "mlp.fc1"))
        x = x + own.get(block + "ls2.scale_factor", 1.0) * apply(wide, block + "mlp.fc2")
    return x[-16:]


def test_weights_of_openvla(tmp_path):
    tensors = openvla_tensors(torch.Generator().manual_seed(0))
    names = sorted(tensors)
    for part in range(2):
        chosen = {name: tensors[name].contiguous() for name in names[part::2]}
        save_file(chosen, tmp_path / f"model-0000{part + 1}-of-00002.safetensors")
    config = {"model_type": "openvla", "text_config": {"model_type": "llama", "vocab_size": 272}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write_tokenizer(tmp_path)
    # The folder says how many words there are.
    model = copy.deepcopy(MODELS["prismatic"])
    del model["text_config"]["vocab_size"]
    model["siglip_config"]["hidden_act"] = "gelu"
    encoder = build("prismatic", weights=str(tmp_path), learn="frozen", model=model)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    expected = torch.cat(
        [
            patch_states(tensors, "featurizer", (picture - mean) / std),
            patch_states(tensors, "fused_featurizer", 2 * picture - 1),
        ],
        dim=-1,
    )
    visual, cognitive = encoder(picture[None, None], instructions("go"))
    torch.testing.assert_close(visual[0, 0], expected, atol=1e-4, rtol=1e-4)

    def projector(x):
        for name in ("fc1", "fc2", "fc3"):
            x = F.linear(x, tensors[f"projector.{name}.weight"], tensors[f"projector.{name}.bias"])
            x = x if name == "fc3" else F.gelu(x)
        return x

    text = {key: value for key, value in TEXT.items() if value is not None}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**text | {"rms_norm_eps": 1e-5}))
    llama.load_state_dict(
        {n[15:]: t for n, t in tensors.items() if n.startswith("language_model.")}
    )
    ids, lengths = encoder.prompts(instructions("go"))
    words = llama.get_input_embeddings()(ids[:, : lengths[0]])
    assert ids[0, 0] == 1 and ids[0, lengths[0] - 1] == 2
    sequence = torch.cat([words[:, :1], projector(expected)[None], words[:, 1:]], dim=1)
    last = llama.model(inputs_embeds=sequence).last_hidden_state[0, -1]
    torch.testing.assert_close(cognitive[0], last, atol=1e-4, rtol=1e-4)
    assert set(encoder.state_dict()) == {"base.source"} and len(encoder.weights_sha) == 64

    wrong = copy.deepcopy(model)
    wrong["text_config"]["intermediate_size"] = 40
    with pytest.raises(CheckpointError, match=r"language_model.model.layers.0.mlp.*expected"):
        build("prismatic", weights=str(tmp_path), model=wrong)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks the tensor"):
        build("prismatic", weights=str(tmp_path), model=model)
