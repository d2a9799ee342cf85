"""Errors a user can act on.

Every error says what was expected, what was found, where it came from and what to do.
The command line prints the message alone and exits with :attr:`EmbodiedError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EmbodiedError(Exception):
    """Base of all errors caused by input, files or the environment rather than by a bug."""

    exit_code = 2


class ConfigError(EmbodiedError):
    """An unknown name or key, a wrong type, or a value out of range."""


class SpecMismatch(EmbodiedError):
    """Two stages disagree about observations, actions, rates or names; shows both sides."""


class DataError(EmbodiedError):
    """A dataset file that is truncated, edited, foreign, or made by another configuration."""


class CheckpointError(EmbodiedError):
    """A checkpoint or bundle that cannot be loaded as it is."""


class SimulatorError(EmbodiedError):
    """The simulator, its renderer or one of its worker processes failed."""


class ActionError(EmbodiedError):
    """An action of the wrong shape, with NaN, or outside [-1, 1]."""


class MissingExtra(EmbodiedError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'embodied-memory[{extra}]'"
        )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """Returns the error for a `name` that is not among `known`, with the nearest match.

    Args:
      kind: What the name should be, for example ``"task"``.
      name: What the user gave.
      known: All valid names.
    """
    options = sorted(known)
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.4)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else "."
    return ConfigError(f"unknown {kind} {name!r}{hint} Known: {', '.join(options) or '(none)'}")
