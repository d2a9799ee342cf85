"""Memories by name. Importing this table loads no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.options import fill_options

if TYPE_CHECKING:
    from embodied.memory.base import Memory, StreamShapes
    from embodied.memory.vector import VectorMemory

MEMORIES: dict[str, str] = {
    "none": "embodied.memory.none:NoMemory",
    "perceptual_cognitive": "embodied.memory.perceptual_cognitive:PerceptualCognitiveMemory",
    "gru": "embodied.memory.gru:GRUMemory",
    "full_history": "embodied.memory.full_history:FullHistoryMemory",
    "spatial": "embodied.memory.spatial:SpatialMemory",
    "lstm": "embodied.memory.lstm:LSTMMemory",
    "transformer_xl": "embodied.memory.transformer_xl:TransformerXLMemory",
    "gated_transformer_xl": "embodied.memory.transformer_xl:GatedTransformerXLMemory",
    "recurrent_tokens": "embodied.memory.recurrent_tokens:RecurrentTokensMemory",
    "hierarchical_chunks": "embodied.memory.hierarchical_chunks:HierarchicalChunksMemory",
}
"""Memory name -> "module:Class". The class has a `config_class` and takes (streams, config)."""


def memory_class(name: str) -> type[Memory]:
    """Returns the class of a memory.

    Raises:
      ConfigError: For an unknown name, with the nearest match.
    """
    if name not in MEMORIES:
        raise unknown_name("memory", name, MEMORIES)
    module, attribute = MEMORIES[name].split(":")
    found: type[Memory] = getattr(importlib.import_module(module), attribute)
    return found


def memory_config(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Returns the memory's config dataclass filled with `options`.

    Raises:
      ConfigError: For an unknown memory or option, or a value of the wrong type.
    """
    schema = memory_class(name).config_class  # type: ignore[attr-defined]
    return fill_options(schema, options, f"memory {name}", "memory")


def build_memory(
    name: str, streams: StreamShapes, config: Mapping[str, Any] | None = None
) -> Memory:
    """Builds a memory for the given streams.

    Args:
      name: One of `MEMORIES`.
      streams: Stream name -> (N, D).
      config: Options of the memory's config dataclass; missing ones take their defaults.

    Returns:
      The memory, freshly initialised.

    Raises:
      ConfigError: For an unknown memory or option, or a value of the wrong type or range.
    """
    settings = memory_config(name, config)
    return memory_class(name)(streams, settings)


def build_vector_memory(
    name: str, width: int, config: Mapping[str, Any] | None = None
) -> VectorMemory | None:
    """Builds a memory of single vectors, without the adapter that serves token streams.

    Args:
      name: One of `MEMORIES` that remembers vectors; ``"none"`` gives None.
      width: V.
      config: Options of the memory's config dataclass but its width.

    Raises:
      ConfigError: As `build_memory`, for a memory of token streams, and for options of these.
    """
    from embodied.memory.adapter import VectorAdapter

    if name == "none":
        memory_config(name, config)
        return None
    found = memory_class(name)
    if not issubclass(found, VectorAdapter):
        fit = [n for n in MEMORIES if issubclass(memory_class(n), VectorAdapter)]
        raise ConfigError(
            f"memory={name} remembers streams of tokens, and this policy has single vectors; "
            f"choose one of {', '.join(fit)} or none"
        )
    idle = sorted(set(found.OWN) & set(config or {}))
    if idle:
        raise ConfigError(
            f"memory.config.{idle[0]} is for policies with streams of tokens, and this one has "
            "single vectors; leave it out"
        )
    memory = build_memory(name, {"vector": (1, width)}, {**(config or {}), "width": width})
    assert isinstance(memory, VectorAdapter)
    return memory.inner
