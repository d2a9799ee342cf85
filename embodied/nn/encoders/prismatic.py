"""The paper's layout: two vision encoders side by side, a projector and LLaMA-2.

Shape letters: P pictures, S side of the pictures, G tokens along a side, N = G*G tokens a view,
F width of a visual token, Z width of the language model.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.encoders.openvla import load_openvla
from embodied.nn.encoders.vlm import Normalize, Seen, VisionLanguage, VLMOptions
from embodied.nn.encoders.weights import (
    DTYPES,
    random_config,
    random_model,
    read_model_type,
    uninitialised,
)

DINOV2, SIGLIP, TEXT = "dinov2_config", "siglip_config", "text_config"
TYPES = {DINOV2: "dinov2_with_registers", SIGLIP: "siglip_vision_model", TEXT: "llama"}

PAPER: dict[str, dict[str, Any]] = {
    DINOV2: {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "num_register_tokens": 4,
    },
    SIGLIP: {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        # The published weights were trained and are run with the exact function.
        "hidden_act": "gelu",
    },
    TEXT: {
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    },
}
"""Source: MemoryVLA (arXiv 2508.19236) section 3.1: DINOv2 ViT-L/14 (of the kind with four
registers), SigLIP So400m/14 and LLaMA-2 7B, as in Prismatic (arXiv 2402.07865) and OpenVLA
(arXiv 2406.09246), whose vocabulary has a token for padding and is rounded up."""


@dataclasses.dataclass
class PrismaticOptions(VLMOptions):
    """Options of `Prismatic`.

    Attributes:
      model: Differences from `PAPER`, under ``dinov2_config``, ``siglip_config`` and
        ``text_config``. With `weights` too, since their config.json names no sizes.
    """

    image_size: int = 224


class Prismatic(VisionLanguage):
    """DINOv2 and SigLIP on one picture, joined on channels; a projector; LLaMA-2.

    Visual tokens are the raw ones, before the projector: the patches' states behind the
    second-to-last layer of each vision encoder. Last layers, which nothing reads, are not built.

    Source: as `PAPER`. The projector is Prismatic's for joined encoders; the paper calls it
    linear.
    """

    options_class = PrismaticOptions
    MODEL_TYPES = ("openvla",)
    EXAMPLE = "openvla/openvla-7b"
    ENCLOSED = True

    def __init__(self, options: PrismaticOptions) -> None:
        super().__init__(options)
        self.width = sum(tower.config.hidden_size for tower in self.base.model.towers())
        # Source: of ImageNet, as DINOv2 (arXiv 2304.07193) was trained.
        self.normalize_dinov2 = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def _configure(self, folder: Path | None) -> Any:
        for key in self.options.model:
            if key not in PAPER:
                raise unknown_name("key of encoder.model (prismatic)", key, PAPER)
        sizes = {key: own | self.options.model.get(key, {}) for key, own in PAPER.items()}
        if folder is not None:
            found = read_model_type(folder, self.MODEL_TYPES, type(self).__name__)
            words = found.get(TEXT, {}).get("vocab_size", sizes[TEXT]["vocab_size"])
            sizes[TEXT]["vocab_size"] = words
        for key in (DINOV2, SIGLIP):
            sizes[key]["num_hidden_layers"] -= 1
        sizes[SIGLIP]["vision_use_head"] = False
        configs = {key: random_config(TYPES[key], sizes[key]) for key in PAPER}
        return SimpleNamespace(**configs, get_text_config=lambda: configs[TEXT])

    def _grid(self, config: Any) -> int:
        size = self.options.image_size
        grids = set()
        for key in (DINOV2, SIGLIP):
            tower = getattr(config, key)
            if size != tower.image_size or size % tower.patch_size:
                raise ConfigError(
                    f"encoder.image_size={size} must be {tower.image_size}, as this model's "
                    f"{key}, and a multiple of its patches of {tower.patch_size} px"
                )
            grids.add(size // tower.patch_size)
        if len(grids) > 1:
            raise ConfigError(
                f"encoder.model: {DINOV2} and {SIGLIP} cut a picture into {sorted(grids)} "
                "patches a side; they must agree, as their tokens are joined"
            )
        return grids.pop()

    def _build(self, config: Any, folder: Path | None) -> nn.Module:
        if folder is None:
            return PrismaticModel(config, self.options.dtype)
        with uninitialised():
            model = PrismaticModel(config, self.options.dtype)
        load_openvla(model, folder)
        return model

    def _see(self, pictures: Tensor) -> Seen:
        model = self.base.model
        dinov2 = model.dinov2(self.normalize_dinov2(pictures).to(self.dtype)).last_hidden_state
        siglip = model.siglip(self.normalize(pictures).to(self.dtype)).last_hidden_state
        # The class and the registers are no patches.
        visual = torch.cat([dinov2[:, -siglip.shape[1] :], siglip], dim=-1)
        return Seen(visual, model.projector(visual))


class PrismaticModel(nn.Module):
    """The parts of the model; `Prismatic` runs them."""

    def __init__(self, config: Any, dtype: str) -> None:
        super().__init__()
        self.dinov2 = random_model(getattr(config, DINOV2), dtype)
        self.siglip = random_model(getattr(config, SIGLIP), dtype)
        self.projector = Projector(
            sum(tower.config.hidden_size for tower in self.towers()),
            getattr(config, TEXT).hidden_size,
        ).to(DTYPES[dtype])
        self.language_model = random_model(getattr(config, TEXT), dtype)
        # Behind the second-to-last layer there is no norm, and no picture is masked.
        self.dinov2.layernorm = nn.Identity()
        self.dinov2.embeddings.mask_token = None
        self.siglip.post_layernorm = nn.Identity()

    def towers(self) -> tuple[Any, Any]:
        """Returns the vision encoders in the order in which their channels are joined."""
        return self.dinov2, self.siglip


class Projector(nn.Module):
    """Brings joined visual tokens to the width of the language model.

    Source: the "fused GELU MLP" of Prismatic (arXiv 2402.07865).
    """

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, 4 * width_in)
        self.fc2 = nn.Linear(4 * width_in, width)
        self.fc3 = nn.Linear(width, width)

    def forward(self, visual: Tensor) -> Tensor:
        """Maps [P, N, F] to [P, N, Z]."""
        hidden = nn.functional.gelu(self.fc1(visual))
        return self.fc3(nn.functional.gelu(self.fc2(hidden)))
