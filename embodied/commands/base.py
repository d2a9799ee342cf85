"""What every command shares: typed options from words, help from docstrings, last lines."""

from __future__ import annotations

import dataclasses
import importlib
import os
import shlex
import shutil
import textwrap
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from embodied.commands import VERBS
from embodied.config import (
    Raw,
    apply_overrides,
    field_docs,
    from_plain,
    parse_overrides,
    type_name,
    unknown_key,
)
from embodied.core.errors import ConfigError, unknown_name
from embodied.core.task import EnvConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Command:
    """A verb: how its words become options, and what runs.

    Attributes:
      run: Gets the filled options; returns an exit code or None for 0.
      options: Dataclass of the verb's keys; its ``Attributes:`` docstring is the help.
      positional: Option fields that may be given by position, in order.
      config: Name of the Hydra config that gives defaults and groups, or ``""``.
      examples: Command lines for the help, without the leading ``embodied``.
      check: Gets the filled options and the keys that were typed; refuses what doesn't go
        together.
      resumes: Whether the same command line carries on what was interrupted.
    """

    run: Callable[[Any], int | None]
    options: type
    positional: tuple[str, ...] = ()
    config: str = ""
    examples: tuple[str, ...] = ()
    check: Callable[[Any, Collection[str]], None] | None = None
    resumes: bool = False


def load(verb: str) -> Command:
    """Imports the command of a verb; refuses unknown verbs with the nearest match."""
    if verb not in VERBS:
        raise unknown_name("command", verb, VERBS)
    return importlib.import_module(f"embodied.commands.{verb}").COMMAND


def parse(command: Command, words: Sequence[str], verb: str) -> Any:
    """Turns the words after a verb into its options.

    A word is a position, ``key=value`` (dotted keys reach inner options), or ``--flag`` for
    a yes/no option.

    Raises:
      ConfigError: For an unknown key or flag, a missing or surplus position, a wrong type.
    """
    hints = typing.get_type_hints(command.options)
    positions: list[str] = []
    pairs: list[str] = []
    for word in words:
        if word.startswith("--"):
            pairs.append(_flag(word, hints, verb))
        elif "=" in word:
            pairs.append(word)
        else:
            positions.append(word)
    if len(positions) > len(command.positional):
        surplus = positions[len(command.positional)]
        raise ConfigError(
            f"embodied {verb}: unexpected word {surplus!r}; options are written key=value. "
            f"Usage: {usage(command, verb)}"
        )
    overrides = parse_overrides(pairs)
    for name, word in zip(command.positional, positions, strict=False):
        if name in overrides:
            raise ConfigError(f"{name} is given twice: {word!r} and {str(overrides[name])!r}")
        overrides[name] = Raw(word)
    data: dict[str, Any] = {}
    typed = tuple(overrides)
    groups: Collection[str] = ()
    if command.config:
        from embodied.commands.compose import compose, groups_of

        groups = groups_of(command.config)
        data, overrides = compose(command.config, overrides)
    data = apply_overrides(data, overrides, command.options, groups)
    for name in command.positional:
        if name not in data and _required(command, name):
            raise ConfigError(
                f"embodied {verb}: missing {name.upper()}. Usage: {usage(command, verb)}; "
                f"embodied {verb} --help explains each"
            )
    options = from_plain(command.options, data)
    if command.check is not None:
        command.check(options, typed)
    return options


def take(cls: type[T], options: Any) -> T:
    """Returns the part of a verb's options that are fields of another dataclass."""
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    return cls(**{name: getattr(options, name) for name in names})


def usage(command: Command, verb: str) -> str:
    """Returns the one-line usage of a verb."""
    places = [_place(command, name) for name in command.positional]
    return " ".join(["embodied", verb, *places, "[key=value ...]"])


def help_text(command: Command, verb: str) -> str:
    """Returns the help of a verb: usage, keys with type and default, groups, examples."""
    purpose = VERBS[verb][0].upper() + VERBS[verb][1:] + "."
    lines = [f"usage: {usage(command, verb)}", "", purpose, ""]
    groups: dict[str, list[str]] = {}
    if command.config:
        from embodied.commands.compose import groups_of

        groups = groups_of(command.config)
        lines.append("groups (each fills several keys):")
        lines += [f"  {name}={'|'.join(options)}" for name, options in groups.items()]
        lines.append("")
    lines.append("keys:")
    lines += _describe(command.options, "", skip=groups)
    if command.examples:
        lines += ["", "examples:", *(f"  embodied {line}" for line in command.examples)]
    return "\n".join(lines)


def finish(directory: str | os.PathLike[str] | None, next_command: str) -> None:
    """Prints the directory a command made and the next command to type."""
    if directory is not None:
        path = Path(directory)
        print(f"made  {_relative(path)}{'/' if path.is_dir() else ''}")
    print(f"next  {next_command}")


def training_keys(observation: str, observe_on: str) -> list[str]:
    """Returns the keys of `embodied train` for a policy that reads data observed like this."""
    if (observation, observe_on) == ("rgbd", "decision"):
        return ["policy=sam2act"]  # its preset names the observation
    if observation == "state":
        return ["preset=state"]
    return [] if observation == EnvConfig().observation else [f"observation={observation}"]


def command_line(*words: str | os.PathLike[str]) -> str:
    """Joins words to a line that a shell reads back, for `finish`."""
    return shlex.join(_relative(w) if isinstance(w, os.PathLike) else w for w in words)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns rows as aligned plain text columns; the last one wraps at the terminal's width."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    left = sum(widths[:-1]) + 2 * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(24, shutil.get_terminal_size((100, 24)).columns - left))
    lines = []
    for row in cells:
        start = "  ".join(c.ljust(w) for c, w in zip(row[:-1], widths, strict=False))
        for i, part in enumerate(textwrap.wrap(row[-1], widths[-1]) or [""]):
            lines.append(((start if i == 0 else " " * len(start)) + "  " + part).rstrip())
        if row is cells[0]:
            lines.append("  ".join("-" * width for width in widths))
    return "\n".join(lines)


def percent(fraction: float | None) -> str:
    """Returns a fraction as per cent, a dash for None."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _flag(word: str, hints: dict[str, Any], verb: str) -> str:
    name, equals, value = word[2:].partition("=")
    key = name.replace("-", "_")
    if equals:
        return f"{key}={value}"
    if key not in hints:
        raise unknown_key(key, hints, f"embodied {verb}")
    if hints[key] is not bool:
        raise ConfigError(
            f"embodied {verb}: {word} needs a value; write {key}=VALUE ({type_name(hints[key])})"
        )
    return f"{key}=true"


def _place(command: Command, name: str) -> str:
    return name.upper() if _required(command, name) else f"[{name.upper()}]"


def _required(command: Command, name: str) -> bool:
    fields = {f.name: f for f in dataclasses.fields(command.options)}
    missing = dataclasses.MISSING
    return fields[name].default is missing and fields[name].default_factory is missing


def _describe(schema: type, prefix: str, skip: Any = (), filled: Any = None) -> list[str]:
    """Returns key, default and text of each field; `filled` has the defaults of an inner one."""
    hints, docs, lines = typing.get_type_hints(schema), field_docs(schema), []
    for field in dataclasses.fields(schema):
        hint, key = hints[field.name], prefix + field.name
        value = _default(field) if filled is None else getattr(filled, field.name)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            if key not in skip:
                lines += _describe(hint, key + ".", filled=value)
            continue
        head = f"  {key}={_shown(field.name, value)}  ({type_name(hint)})"
        lines.append(head)
        if field.name in docs:
            text = docs[field.name].replace("``", "").replace("`", "")
            lines += textwrap.wrap(text, 88, initial_indent="      ", subsequent_indent="      ")
    return lines


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(name: str, value: Any) -> str:
    if value is dataclasses.MISSING:
        return name.upper()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(str, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _relative(path: str | os.PathLike[str]) -> str:
    """Shows paths below the working directory without it."""
    path = Path(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
