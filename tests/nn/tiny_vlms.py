"""Tiny sizes of each vision-language model that is an encoder, and something to show them."""

import copy

import torch

from embodied.nn.encoders import build_encoder

WIDTH = 32
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 272,
    "pad_token_id": None,
}
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
}
QWEN_VISION = {
    "depth": 3,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": WIDTH,
    "patch_size": 4,
}
IMAGE, PAD = 270, 271
SPECIAL = {"image_token_id": IMAGE, "video_token_id": PAD}


def rope(*sections):
    kind = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}
    return {"rope_parameters": kind}


SMOLVLM = {
    "vision_config": VISION | {"patch_size": 4},
    "text_config": TEXT,
    "scale_factor": 2,
    "image_token_id": IMAGE,
}
PALIGEMMA = {
    "vision_config": VISION | {"patch_size": 8},
    "text_config": TEXT | {"head_dim": 8},
    "projection_dim": WIDTH,
    "image_token_index": IMAGE,
}
MODELS = {
    "smolvlm": SMOLVLM,
    "paligemma": PALIGEMMA,
    "paligemma 2": PALIGEMMA
    | {
        "text_config": PALIGEMMA["text_config"]
        | {"model_type": "gemma2", "query_pre_attn_scalar": 8}
    },
    "qwen2_5_vl": SPECIAL
    | {
        # A window is 2x2 of the 4x4 tokens, so their order in it differs from that of rows.
        "vision_config": QWEN_VISION | {"window_size": 16, "fullatt_block_indexes": [2]},
        "text_config": TEXT | rope(1, 1, 2) | {"bos_token_id": None, "eos_token_id": None},
    },
    "qwen3_vl": SPECIAL
    | {
        "vision_config": QWEN_VISION
        | {"num_position_embeddings": 25, "deepstack_visual_indexes": [0, 1]},
        "text_config": TEXT | rope(2, 1, 1) | {"head_dim": 8},
    },
    "prismatic": {
        "dinov2_config": VISION | {"patch_size": 8},
        "siglip_config": VISION | {"hidden_size": 24, "patch_size": 8},
        "text_config": TEXT,
    },
}
del MODELS["prismatic"]["dinov2_config"]["intermediate_size"]
NAMES = ["smolvlm", "paligemma", "qwen2_5_vl", "qwen3_vl", "prismatic"]
KINDS = list(MODELS)
GRID, CAMERAS = 4, 2
INSTRUCTIONS = ["Put the block back where it was", "öffne die Schublade"]


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    if "weights" not in options or kind == "prismatic":
        options = {"model": copy.deepcopy(MODELS[kind])} | options
    own = {"image_size": 32, "text_tokens": 100}
    return build_encoder(kind.split()[0], own | options)


def instructions(*texts):
    rows = torch.zeros(len(texts), 160, dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text.encode())] = torch.tensor(list(text.encode()))
    return rows


def batch(seed=1, rows=2):
    images = torch.rand(rows, CAMERAS, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return images, instructions(*INSTRUCTIONS[:rows])


def write_tokenizer(folder):
    """Writes a tokenizer of bytes as transformers stores one."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = [*pre_tokenizers.ByteLevel.alphabet()]
    words = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
