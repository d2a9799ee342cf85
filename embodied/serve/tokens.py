"""The tokenizer of a bundle, for policies whose language model reads tokens."""

from __future__ import annotations

from pathlib import Path

from embodied.core.errors import CheckpointError, MissingExtra
from embodied.core.prompt import PromptReader, PromptRule


def read_tokenizer(file: Path, rule: PromptRule) -> PromptReader:
    """Returns what turns instructions into the tokens that a bundle's graphs read.

    Args:
      file: The tokenizer's.
      rule: From the manifest.

    Raises:
      MissingExtra: If `tokenizers` is not installed; only bundles with a tokenizer need it.
      CheckpointError: If the file holds no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise MissingExtra("tokenizers", "serve") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises the base class itself
        raise CheckpointError(f"{file} is no tokenizer: {error}; export again") from error
    # The rule pads, and refuses what is too long.
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(text: str, special: bool) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    return PromptReader(rule, encode)
