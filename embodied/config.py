"""Strict plain data <-> dataclasses, YAML and ``key=value`` overrides.

Dataclasses beside their owners are the schema. Files and command lines only fill them, and
whatever does not fit is refused at the start with its full dotted key. Nothing here calls
code named by a file.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from embodied.core.errors import ConfigError
from embodied.core.files import write_atomic

T = TypeVar("T")


class Raw(str):
    """The text of a ``key=value`` override, read only once its field's type is known.

    So ``out=2024`` stays text for a text field, and ``cameras=front,wrist`` is a list.
    """


def from_plain(cls: type[T], data: Mapping[str, Any], *, where: str = "", source: str = "") -> T:
    """Builds a dataclass from plain data, refusing what does not fit.

    Args:
      cls: A dataclass; nested dataclasses, lists, tuples, dicts, enums, ``Literal`` and
        ``X | None`` are understood.
      data: Field name -> plain value (or `Raw` text).
      where: Dotted prefix for messages, for example ``"policy"``.
      source: Where the data came from, for messages, for example a file's path.

    Raises:
      ConfigError: For an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(data, Mapping):
        raise _wrong(where or "configuration", "a mapping", data, source)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise unknown_key(_join(where, key), [_join(where, name) for name in fields], source)
    values = {}
    for name, field in fields.items():
        if name in data:
            given = _filled(_default(field), data[name])
            values[name] = _convert(hints[name], given, _join(where, name), source)
        elif _required(field):
            raise ConfigError(
                f"missing key {_join(where, name)!r}{_from(source)}: expected "
                f"{type_name(hints[name])}; add {_join(where, name)}=VALUE"
            )
    try:
        return cls(**values)
    except ConfigError as error:
        if not where and not source:
            raise
        raise ConfigError(f"{where or 'configuration'}{_from(source)}: {error}") from error


def _default(field: dataclasses.Field[Any]) -> Any:
    """Returns a field's default, or None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _filled(default: Any, given: Any) -> Any:
    """Returns a mapping with what it leaves out taken from a default that is a dataclass.

    A field's own default may differ from its class's: whoever sets one key of it keeps the rest.
    """
    if not dataclasses.is_dataclass(default) or not isinstance(given, Mapping):
        return given
    inner = {key: _filled(getattr(default, key, None), value) for key, value in given.items()}
    return {**to_plain(default), **inner}


def to_plain(value: Any) -> Any:
    """Returns JSON- and YAML-ready data: dicts, lists, text, numbers, booleans, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise ConfigError(f"expected plain data, got {type(value).__name__}: {value!r}")


def load_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML mapping with the safe loader (plain data only).

    Raises:
      ConfigError: If the file is missing, not YAML, or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    return data


def dump_yaml(value: Any) -> str:
    """Returns the YAML text of a dataclass or of plain data, keys in their given order."""
    import yaml

    return yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True, width=90)


def save_yaml(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `dump_yaml(value)` so that a kill leaves the old file or the new one."""
    write_atomic(path, dump_yaml(value))


def parse_overrides(arguments: Iterable[str]) -> dict[str, Raw]:
    """Splits ``key=value`` words; refuses words without ``=``, empty keys and repeats."""
    overrides: dict[str, Raw] = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key):
            raise ConfigError(f"expected key=value, got {word!r}")
        if key in overrides:
            raise ConfigError(f"key {key!r} is given twice: {overrides[key]!r} and {value!r}")
        overrides[key] = Raw(value)
    return overrides


def apply_overrides(
    data: dict[str, Any],
    overrides: Mapping[str, Raw],
    schema: type,
    groups: Iterable[str] = (),
) -> dict[str, Any]:
    """Returns `data` with dotted overrides set; every key must exist in the schema.

    Args:
      data: Nested plain data, left unchanged.
      overrides: Dotted key -> text.
      schema: The dataclass that `data` will fill.
      groups: Keys that were understood before, to be named where one is unknown.

    Raises:
      ConfigError: For an unknown key; names the nearest known key by its full path.
    """
    result = _copy(data)
    for key, raw in overrides.items():
        _check_path(key, schema, groups)
        node, parts = result, key.split(".")
        for part in parts[:-1]:
            child = node.get(part)
            if not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[parts[-1]] = raw
    return result


def known_paths(schema: type, where: str = "") -> list[str]:
    """Returns every dotted key of a dataclass, inner ones included."""
    paths = []
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        path = _join(where, field.name)
        paths.append(path)
        inner = _dataclass_in(hints[field.name])
        if inner:
            paths += known_paths(inner, path)
    return paths


def unknown_key(key: str, known: Iterable[str], source: str = "") -> ConfigError:
    """Returns the error for a dotted `key` that is not among `known`, with the nearest match."""
    options = sorted(known)
    near = difflib.get_close_matches(key, options, n=1, cutoff=0.6)
    if not near:
        leaf = key.rpartition(".")[2]
        leaves = {path.rpartition(".")[2]: path for path in reversed(options)}
        near = [leaves[m] for m in difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.6)]
    hint = f"; did you mean {near[0]!r}?" if near else "."
    shown = options if len(options) <= 30 else [path for path in options if "." not in path]
    return ConfigError(f"unknown key {key!r}{_from(source)}{hint} Known: {', '.join(shown)}")


def field_docs(schema: type) -> dict[str, str]:
    """Returns field name -> its text in the ``Attributes:`` sections of a dataclass.

    Sections of base classes count too.
    """
    docs: dict[str, str] = {}
    for cls in reversed(schema.__mro__[:-1]):
        docs |= _attributes_section(cls.__doc__ or "")
    return docs


def _attributes_section(text: str) -> dict[str, str]:
    docs: dict[str, str] = {}
    name, margin, inside = "", 0, False
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        entry = re.match(r"\s+(\w+): (.*)", line) if inside else None
        if line.strip() == "Attributes:":
            inside, margin = True, indent
        elif inside and line.strip() and indent <= margin:
            inside = False
        elif entry and indent == margin + 2:
            name = entry[1]
            docs[name] = entry[2].strip()
        elif inside and name and line.strip():
            docs[name] += " " + line.strip()
    return docs


def type_name(hint: Any) -> str:
    """Returns a type as a user reads it: ``int``, ``list of str``, ``one of a, b``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(arg) for arg in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arg) for arg in args)
    if origin in (list, tuple) and args:
        return f"list of {type_name(args[0])}"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if hint is type(None):
        return "null"
    if origin is dict or hint is dict or dataclasses.is_dataclass(hint):
        return "a mapping"
    return getattr(hint, "__name__", str(hint))


def _convert(hint: Any, value: Any, path: str, source: str) -> Any:
    if hint is Any:
        return _parsed(value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, args, value, path, source)
    if hint is str and isinstance(value, Raw):
        return _unquote(value)
    if origin in (list, tuple) and isinstance(value, Raw):
        value = _parse_yaml(value, path)
        if isinstance(value, str):
            value = [Raw(item.strip()) for item in value.split(",") if item.strip()]
        elif not isinstance(value, list):
            value = [value]
    if isinstance(value, Raw):
        value = _parse_yaml(value, path)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        return from_plain(hint, value, where=path, source=source)
    if origin in (list, tuple):
        return _convert_sequence(hint, origin, args, value, path, source)
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(path, "a mapping", value, source)
        inner = args[1] if args else Any
        return {str(k): _convert(inner, v, _join(path, str(k)), source) for k, v in value.items()}
    if origin is typing.Literal:
        if value not in args:
            raise _wrong(path, type_name(hint), value, source)
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        for member in hint:
            if value == member.value or value is member:
                return member
        raise _wrong(path, type_name(hint), value, source)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        raise _wrong(path, "int", value, source)
    if isinstance(hint, type) and issubclass(hint, os.PathLike) and isinstance(value, str):
        return Path(value)
    if hint is type(None) and value is None:
        return None
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise _wrong(path, type_name(hint), value, source)


def _parsed(value: Any, path: str) -> Any:
    """Reads override text at any depth of a value whose type nobody knows yet."""
    if isinstance(value, Raw):
        return _parse_yaml(value, path)
    if isinstance(value, Mapping):
        return {key: _parsed(item, _join(path, str(key))) for key, item in value.items()}
    return value


def _convert_union(hint: Any, args: tuple[Any, ...], value: Any, path: str, source: str) -> Any:
    if isinstance(value, Raw):
        # Text is the last resort: "null", numbers and lists are tried first.
        parsed = _parse_yaml(value, path)
        if not isinstance(parsed, str):
            value = parsed
    if value is None and type(None) in args:
        return None
    order = sorted(args, key=lambda arg: (arg is not type(value), arg is str))
    for arg in order:
        if arg is type(None):
            continue
        try:
            return _convert(arg, value, path, source)
        except ConfigError as error:
            # A mapping that does fit a dataclass's shape reports what is wrong inside.
            if dataclasses.is_dataclass(arg) and isinstance(value, Mapping):
                raise error
    raise _wrong(path, type_name(hint), value, source)


def _convert_sequence(
    hint: Any, origin: Any, args: tuple[Any, ...], value: Any, path: str, source: str
) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _wrong(path, type_name(hint), value, source)
    fixed = origin is tuple and args and args[-1] is not Ellipsis
    if fixed and len(value) != len(args):
        raise _wrong(path, f"{len(args)} elements", value, source)
    inner = list(args) if fixed else [args[0] if args else Any] * len(value)
    items = [
        _convert(kind, item, f"{path}[{i}]", source)
        for i, (kind, item) in enumerate(zip(inner, value, strict=True))
    ]
    return origin(items)


def _check_path(key: str, schema: type, groups: Iterable[str]) -> None:
    """Raises unless the dotted key leads somewhere in the schema."""
    current: Any = schema
    for part in key.split("."):
        inner = _dataclass_in(current)
        if inner is None:
            if _is_mapping(current):
                return
            raise unknown_key(key, {*known_paths(schema), *groups})
        hints = typing.get_type_hints(inner)
        if part not in hints:
            raise unknown_key(key, {*known_paths(schema), *groups})
        current = hints[part]


def _dataclass_in(hint: Any) -> type | None:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    for arg in typing.get_args(hint) if union else ():
        if isinstance(arg, type) and dataclasses.is_dataclass(arg):
            return arg
    return None


def _is_mapping(hint: Any) -> bool:
    return hint in (dict, Any) or typing.get_origin(hint) is dict


def _required(field: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return list(value) if isinstance(value, list) else value


def _parse_yaml(text: str, source: str) -> Any:
    # The commonest words of a command line need no YAML package: the base install has none.
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"[-+]?(0|[1-9]\d*)", text):
        return int(text)
    import yaml

    try:
        return yaml.load(text, Loader=_loader())  # noqa: S506 - a subclass of SafeLoader
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: not valid YAML: {reason}") from error


_WORDS = {"true": True, "false": False, "null": None}
_LOADER: Any = None


def _loader() -> Any:
    """SafeLoader that also reads ``1e-4`` as a number, which YAML 1.1 takes for text."""
    global _LOADER
    if _LOADER is None:
        import yaml

        class Loader(yaml.SafeLoader):
            pass

        Loader.add_implicit_resolver(
            "tag:yaml.org,2002:float",
            re.compile(r"[-+]?(\d[\d_]*)(\.[\d_]*)?[eE][-+]?\d+$"),
            list("-+0123456789"),
        )
        _LOADER = Loader
    return _LOADER


def _unquote(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return str(text)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _from(source: str) -> str:
    return f" in {source}" if source else ""


def _wrong(path: str, expected: str, value: Any, source: str) -> ConfigError:
    found = f"{str(value)!r}" if isinstance(value, str) else f"{value!r}"
    return ConfigError(
        f"{path}{_from(source)}: expected {expected}, got {found} ({type_name(type(value))})"
    )
