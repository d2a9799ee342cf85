"""Instructions as tokens of a language model.

Shape letters: B rows, L text tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from embodied.core.errors import CheckpointError, ConfigError, SpecMismatch
from embodied.extras import named_extras

QUESTION = "How should the robot move now to {instruction}?"
"""What the language model is asked, in lower case: one question for every model.

Source: MemoryVLA (arXiv 2508.19236) section 3.1 asks in the manner of OpenVLA; words of our own.
"""


class Tokenizer(Protocol):
    """What is used of a tokenizer of `transformers`."""

    bos_token_id: int | None
    eos_token_id: int | None

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Returns the tokens of a text."""


class ByteTokenizer:
    """A token for each UTF-8 byte: language models with random weights have no vocabulary."""

    SIZE = 259
    """Tokens: padding, beginning, end, and 256 bytes."""
    OFFSET = 3
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Returns the bytes as tokens, after the beginning if asked for special tokens."""
        tokens = [self.OFFSET + byte for byte in text.encode()]
        return [1, *tokens] if add_special_tokens else tokens


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer that lies beside a model's weights; runs no code of the folder.

    Raises:
      MissingExtra: If transformers is not installed.
      CheckpointError: If the folder holds no tokenizer that can be read.
    """
    with named_extras():
        from transformers import AutoTokenizer
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise CheckpointError(
            f"encoder.weights={folder}: its tokenizer can't be read ({error}). Expected are "
            "tokenizer.json and tokenizer_config.json beside the weights; fetch the model whole"
        ) from error
    return tokenizer


class Prompts:
    """Turns a batch of instructions into right-padded tokens of a question.

    Args:
      tokenizer: Of the language model.
      limit: L, to which every row is padded, so that shapes never depend on what is said.
      enclosed: Begin with the tokenizer's beginning and finish with its end. Otherwise rows
        have the special tokens that the tokenizer itself adds.
    """

    KEPT = 4096
    """Instructions whose tokens are kept."""

    def __init__(self, tokenizer: Tokenizer, limit: int, enclosed: bool) -> None:
        self.tokenizer, self.limit, self.enclosed = tokenizer, limit, enclosed
        if enclosed and (tokenizer.bos_token_id is None or tokenizer.eos_token_id is None):
            raise CheckpointError(
                "the tokenizer in encoder.weights names no bos_token or no eos_token; the "
                "language model begins and ends its sequence with them"
            )
        self._known: dict[bytes, list[int]] = {}

    def __call__(self, instruction_u8: Tensor) -> tuple[Tensor, Tensor]:
        """Tokenises on the host, so a batch on a device costs one wait for that device.

        Args:
          instruction_u8: [B, 160] zero-padded UTF-8 bytes.

        Returns:
          Tokens, int64 [B, L], 0 where there are none, and how many there are, int64 [B]; both
          on the device of `instruction_u8`.

        Raises:
          SpecMismatch: If an instruction is not UTF-8.
          ConfigError: If a question takes more than L tokens, or in an export.
        """
        if torch.compiler.is_exporting():
            raise ConfigError(
                "this policy reads its instruction through a tokenizer, which runs in Python and "
                "can't be part of a graph: vision-language encoders are not exported yet. Serve "
                "the checkpoint itself (`embodied serve RUN`), or export a policy whose trunk is "
                "conv, entities, tiny or pretrained_conv"
            )
        rows = [self._tokens(row.tobytes().rstrip(b"\0")) for row in instruction_u8.cpu().numpy()]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.tensor([row + [0] * (self.limit - len(row)) for row in rows])
        device = instruction_u8.device
        return tokens.to(device, non_blocking=True), lengths.to(device, non_blocking=True)

    def _tokens(self, instruction: bytes) -> list[int]:
        if instruction not in self._known:
            if len(self._known) >= self.KEPT:
                del self._known[next(iter(self._known))]
            self._known[instruction] = self._tokenise(instruction)
        return self._known[instruction]

    def _tokenise(self, instruction: bytes) -> list[int]:
        try:
            text = instruction.decode(errors="strict")
        except UnicodeDecodeError as error:
            raise SpecMismatch(
                f"instruction_u8 is not UTF-8: {instruction!r} ({error.reason} at byte "
                f"{error.start}); expected are zero-padded UTF-8 bytes, cut between characters"
            ) from error
        question = QUESTION.format(instruction=text.lower())
        tokens = self.tokenizer.encode(question, add_special_tokens=not self.enclosed)
        if self.enclosed:
            first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
            tokens = [first, *tokens, last]  # type: ignore[list-item]
        if len(tokens) > self.limit:
            raise ConfigError(
                f"the instruction {text!r} takes {len(tokens)} tokens with its question, more "
                f"than encoder.text_tokens={self.limit}. Instructions are never cut: set "
                f"policy.config.encoder.text_tokens={len(tokens)} or more"
            )
        return tokens
