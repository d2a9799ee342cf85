"""Instructions as tokens of a language model.

Shape letters: B rows, L text tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from embodied.core.errors import CheckpointError, ConfigError
from embodied.core.prompt import Prompt, PromptReader, PromptRule
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

    def to_json(self) -> str:
        """Returns a tokenizer of the `tokenizers` library that gives the same tokens."""
        with named_extras():
            from tokenizers import Tokenizer, models, processors
        names = ["<pad>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        words = {name: token for token, name in enumerate(names)}
        # No character is a word, so each falls back to its bytes.
        written = Tokenizer(models.BPE(vocab=words, merges=[], byte_fallback=True))
        written.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        text: str = written.to_str()
        return text


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

    def __init__(self, tokenizer: Tokenizer, limit: int, enclosed: bool) -> None:
        self.tokenizer = tokenizer
        first, last = tokenizer.bos_token_id, tokenizer.eos_token_id
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        if enclosed:
            if first is None or last is None:
                raise CheckpointError(
                    "the tokenizer in encoder.weights names no bos_token or no eos_token; the "
                    "language model begins and ends its sequence with them"
                )
            before, after = (first,), (last,)
        rule = PromptRule(QUESTION, limit, special_tokens=not enclosed, before=before, after=after)
        self.read = PromptReader(rule, self._encode)

    def __call__(self, instruction_u8: Tensor) -> tuple[Tensor, Tensor]:
        """Tokenises on the host, so a batch on a device costs one wait for that device.

        Args:
          instruction_u8: [B, 160] zero-padded UTF-8 bytes.

        Returns:
          Tokens, int64 [B, L], 0 where there are none, and how many there are, int64 [B]; both
          on the device of `instruction_u8`.

        Raises:
          SpecMismatch: If an instruction is not UTF-8.
          ConfigError: If a question takes more than L tokens.
        """
        device = instruction_u8.device
        tokens, lengths = (torch.from_numpy(a) for a in self.read(instruction_u8.cpu().numpy()))
        return tokens.to(device, non_blocking=True), lengths.to(device, non_blocking=True)

    def prompt(self) -> Prompt:
        """Returns the rule and the tokenizer as data."""
        return Prompt(self.read.rule, lambda: tokenizer_json(self.tokenizer))

    def _encode(self, text: str, special: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=special)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """Returns a tokenizer as text of the `tokenizers` library.

    Raises:
      ConfigError: If it is of a kind that this library does not have.
    """
    if isinstance(tokenizer, ByteTokenizer):
        return tokenizer.to_json()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"the tokenizer in encoder.weights ({type(tokenizer).__name__}) has no form in the "
            "library tokenizers, which is what a bundle's controller has. Put a tokenizer.json "
            "beside the weights, or serve the checkpoint itself: embodied serve RUN"
        )
    text: str = backend.to_str()
    return text
