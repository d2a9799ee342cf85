"""How an instruction becomes the tokens that a language model reads.

The rule is plain data, so that it travels in a bundle beside the tokenizer's own file. Whoever
applies it brings a function that turns text into tokens: a policy that of `transformers`, a
controller that of `tokenizers`.

Shape letters: B rows, L tokens of the longest prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.specs import ArraySpec
from embodied.core.text import INSTRUCTION

PROMPT_TOKENS, PROMPT_LENGTH = "prompt_tokens", "prompt_length"
"""Observation keys that stand in a graph for the instruction: tokens, and how many they are."""
SLOT = "{instruction}"
PADDING = {"padding_side": "right", "padding_token": 0}
"""How every prompt is brought to L tokens; which token it is does not matter, it is masked."""

Encode = Callable[[str, bool], list[int]]
"""(text, whether to add the special tokens that the tokenizer itself adds) -> tokens."""


@dataclasses.dataclass(frozen=True)
class PromptRule:
    """From an instruction to tokens.

    Attributes:
      template: The text that is tokenised, with `SLOT` where the instruction goes.
      length: L, to which every prompt is padded, so that shapes never depend on what is said.
      lower_case: The instruction is put in lower case.
      special_tokens: The tokenizer adds its own special tokens.
      before: Tokens that are put before it.
      after: Tokens that are put behind it.
    """

    template: str
    length: int
    lower_case: bool = True
    special_tokens: bool = True
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            object.__setattr__(self, name, tuple(int(token) for token in getattr(self, name)))
        if SLOT not in self.template or int(self.length) < 1:
            raise ValueError(
                f"a prompt needs {SLOT} in its template and a length >= 1, got "
                f"{self.template!r} and {self.length}"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the rule as plain data, with the padding that all rules share."""
        return {**dataclasses.asdict(self), **PADDING}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PromptRule:
        """Reads what `to_json` wrote.

        Raises:
          ValueError, TypeError, KeyError: For a field that is missing, unknown or out of range.
        """
        rest = dict(data)
        padding = {name: rest.pop(name) for name in PADDING}
        if padding != PADDING:
            raise ValueError(f"prompts are padded with {PADDING}, got {padding}")
        return cls(**rest)

    def inputs(self, observations: Mapping[str, ArraySpec]) -> dict[str, ArraySpec]:
        """Returns what a graph reads: observations with tokens in place of the instruction."""
        rest = {key: spec for key, spec in observations.items() if key != INSTRUCTION}
        tokens = ArraySpec((self.length,), "int64")
        return {**rest, PROMPT_TOKENS: tokens, PROMPT_LENGTH: ArraySpec((), "int64")}

    def tokens(self, instruction: bytes, encode: Encode) -> list[int]:
        """Returns the tokens of one instruction, without padding.

        Args:
          instruction: UTF-8.
          encode: The tokenizer's.

        Raises:
          SpecMismatch: If it is not UTF-8.
          ConfigError: If it takes more than L tokens.
        """
        try:
            text = instruction.decode(errors="strict")
        except UnicodeDecodeError as error:
            raise SpecMismatch(
                f"{INSTRUCTION} is not UTF-8: {instruction!r} ({error.reason} at byte "
                f"{error.start}); expected are zero-padded UTF-8 bytes, cut between characters"
            ) from error
        said = text.lower() if self.lower_case else text
        inner = encode(self.template.replace(SLOT, said), self.special_tokens)
        tokens = [*self.before, *inner, *self.after]
        if len(tokens) > self.length:
            raise ConfigError(
                f"the instruction {text!r} takes {len(tokens)} tokens with its question, more "
                f"than encoder.text_tokens={self.length}. Instructions are never cut: give a "
                f"shorter one, or set policy.config.encoder.text_tokens={len(tokens)} or more "
                "where the policy is made"
            )
        return tokens


class PromptReader:
    """Turns rows of instructions into rows of tokens; what was said before is remembered.

    Args:
      rule: How.
      encode: The tokenizer's.
    """

    KEPT = 4096
    """Instructions whose tokens are kept."""

    def __init__(self, rule: PromptRule, encode: Encode) -> None:
        self.rule, self._encode = rule, encode
        self._known: dict[bytes, list[int]] = {}

    def __call__(self, instruction_u8: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokenises.

        Args:
          instruction_u8: [B, 160] zero-padded UTF-8 bytes.

        Returns:
          Tokens, int64 [B, L], 0 where there are none, and how many there are, int64 [B].

        Raises:
          SpecMismatch: If an instruction is not UTF-8.
          ConfigError: If one takes more than L tokens.
        """
        rows = [self._tokens(row.tobytes().rstrip(b"\0")) for row in instruction_u8]
        tokens = np.full((len(rows), self.rule.length), PADDING["padding_token"], np.int64)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        return tokens, np.array([len(row) for row in rows], np.int64)

    def _tokens(self, instruction: bytes) -> list[int]:
        if instruction not in self._known:
            if len(self._known) >= self.KEPT:
                del self._known[next(iter(self._known))]
            self._known[instruction] = self.rule.tokens(instruction, self._encode)
        return self._known[instruction]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """How a policy's instruction becomes tokens.

    Attributes:
      rule: The rule.
      tokenizer_json: Returns the tokenizer as text of the `tokenizers` library, which is data.
    """

    rule: PromptRule
    tokenizer_json: Callable[[], str]
