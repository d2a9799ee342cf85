"""Fills a part's options dataclass from plain data, naming what does not fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from embodied.core.errors import ConfigError, unknown_name

T = TypeVar("T")


def fill_options(schema: type[T], options: Mapping[str, Any] | None, what: str, where: str) -> T:
    """Returns the dataclass `schema` with `options` set; others keep their defaults.

    Args:
      schema: A dataclass whose fields all have defaults; their types are those of the defaults.
      options: Field name -> plain value.
      what: The part, for messages, for example ``"memory gru"``.
      where: Dotted prefix of the keys, for messages, for example ``"memory"``.

    Raises:
      ConfigError: For an unknown option or a value of the wrong type.
    """
    defaults = schema()
    known = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(schema)}  # type: ignore[arg-type]
    filled = {}
    for key, value in (options or {}).items():
        if key not in known:
            raise unknown_name(f"option of {what}", key, known)
        filled[key] = _typed(f"{where}.{key}", value, known[key])
    return schema(**filled)


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
