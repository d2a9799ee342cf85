"""Reads weights of OpenVLA, which are those of the paper's layout, under its names of tensors."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from embodied.core.errors import CheckpointError

RENAMED = (
    (r"^language_model\.", "language_model.model."),
    (r"^dinov2\.", "vision_backbone.featurizer."),
    (r"^siglip\.", "vision_backbone.fused_featurizer."),
    (r"\.embeddings\.(patch_embeddings\.projection|patch_embedding)\.", ".patch_embed.proj."),
    (r"\.embeddings\.(position_embeddings|position_embedding\.weight)$", ".pos_embed"),
    (r"\.embeddings\.cls_token$", ".cls_token"),
    (r"\.embeddings\.register_tokens$", ".reg_token"),
    (r"\.encoder\.layers?\.", ".blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.scale_factor"),
    (r"\.(attention|self_attn)\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.(attention\.o|self_attn\.out)_proj\.", ".attn.proj."),
)
"""Patterns in names of our tensors -> in the names of the stored ones; the last five change
names of the vision encoders alone. Source: the module names of OpenVLA's published model
(arXiv 2406.09246), which are timm's for the vision encoders."""


def stored_name(name: str) -> str:
    """Returns the name under which OpenVLA stores a tensor of `PrismaticModel`."""
    renamed = RENAMED[:1] if name.startswith("language_model.") else RENAMED[1:]
    for pattern, replacement in renamed:
        name = re.sub(pattern, replacement, name)
    return name


def load_openvla(model: nn.Module, folder: Path) -> None:
    """Fills a `PrismaticModel` with the weights of a folder.

    Stored tensors that nothing here reads are left alone: last layers and final norms of the
    vision encoders, SigLIP's pooling, the head of the language model.

    Raises:
      CheckpointError: If a file is damaged, or a tensor is missing or of another shape.
    """
    files = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            file = safe_open(path, framework="pt")
            files.update(dict.fromkeys(file.keys(), file))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} can't be read ({error}); fetch it again") from error
    for name, own in model.state_dict().items():
        source = stored_name(name)
        if source not in files:
            raise CheckpointError(
                f"encoder.weights={folder} lacks the tensor {source} (here {name}); fetch it "
                "again, whole"
            )
        tensor = _as_ours(name, files[source].get_tensor(source))
        if tensor.shape != own.shape:
            raise CheckpointError(
                f"encoder.weights={folder}: {source} has shape {list(tensor.shape)}, expected "
                f"{list(own.shape)} for {name}; encoder.model must give the sizes of these weights"
            )
        own.copy_(tensor)


def _as_ours(name: str, stored: Tensor) -> Tensor:
    """Returns a stored tensor, or the part of it that is ours, in our axes."""
    if name.startswith("language_model."):
        return stored
    part = re.search(r"\.([qkv])_proj\.", name)
    if part:
        return stored.chunk(3)["qkv".index(part[1])]
    if name.endswith("position_embeddings"):
        # There the class has no place of its own.
        return torch.cat([torch.zeros_like(stored[:, :1]), stored], dim=1)
    if name.endswith("position_embedding.weight"):
        return stored[0]
    return stored
