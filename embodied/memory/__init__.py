"""Memories by name. Importing this table loads no torch."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from embodied.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from embodied.memory.base import Memory, StreamShapes

MEMORIES: dict[str, str] = {
    "none": "embodied.memory.none:NoMemory",
    "perceptual_cognitive": "embodied.memory.perceptual_cognitive:PerceptualCognitiveMemory",
    "gru": "embodied.memory.gru:GRUMemory",
    "full_history": "embodied.memory.full_history:FullHistoryMemory",
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
    config_class = memory_class(name).config_class  # type: ignore[attr-defined]
    defaults = config_class()
    known = {
        field.name: getattr(defaults, field.name) for field in dataclasses.fields(config_class)
    }
    filled = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise unknown_name(f"option of memory {name}", key, known)
        filled[key] = _typed(f"memory.{key}", value, known[key])
    return config_class(**filled)


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


def _typed(key: str, value: Any, default: Any) -> Any:
    """Returns `value` as the type of `default`, or raises ConfigError."""
    kind = type(default)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, dict) and isinstance(value, Mapping):
        return dict(value)
    if isinstance(default, list) and isinstance(value, (list, tuple)):
        return list(value)
    if type(value) is not kind:
        raise ConfigError(f"{key}: expected {kind.__name__}, got {value!r}")
    return value
