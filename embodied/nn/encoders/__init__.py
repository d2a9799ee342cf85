"""Image encoders by name. Importing this table loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embodied.core.errors import unknown_name
from embodied.core.options import fill_options

if TYPE_CHECKING:
    from embodied.nn.encoders.base import Encoder

ENCODERS: dict[str, str] = {
    "tiny": "embodied.nn.encoders.tiny:TinyVisionLanguage",
    "pretrained_conv": "embodied.nn.encoders.efficientnet:EfficientNetLite",
    "smolvlm": "embodied.nn.encoders.smolvlm:SmolVLM",
    "paligemma": "embodied.nn.encoders.paligemma:PaliGemma",
    "qwen2_5_vl": "embodied.nn.encoders.qwen_vl:Qwen25VL",
    "qwen3_vl": "embodied.nn.encoders.qwen_vl:Qwen3VL",
    "prismatic": "embodied.nn.encoders.prismatic:Prismatic",
}
"""Encoder name -> "module:Class". The class has an `options_class` and takes its options."""


def build_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Builds an encoder.

    Args:
      name: One of `ENCODERS`.
      options: Fields of the encoder's options; missing ones take their defaults.

    Raises:
      ConfigError: For an unknown encoder or option, or a value of the wrong type or range.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    module, attribute = ENCODERS[name].split(":")
    found: type[Encoder] = getattr(importlib.import_module(module), attribute)
    settings = fill_options(found.options_class, options, f"encoder {name}", "encoder")
    return found(settings)
