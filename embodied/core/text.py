"""Instructions as observations: UTF-8 bytes of a fixed length."""

from __future__ import annotations

import numpy as np

from embodied.core.errors import ConfigError

INSTRUCTION = "instruction_u8"
"""The observation key."""

INSTRUCTION_BYTES = 160


def encode_instruction(text: str) -> np.ndarray:
    """Returns `text` as UTF-8 bytes, zero padded to uint8 [160].

    Raises:
      ConfigError: If it is longer than 160 bytes.
    """
    data = text.encode()
    if len(data) > INSTRUCTION_BYTES:
        raise ConfigError(
            f"an instruction has at most {INSTRUCTION_BYTES} bytes, got {len(data)}: {text!r}"
        )
    return np.frombuffer(data.ljust(INSTRUCTION_BYTES, b"\0"), np.uint8).copy()


def decode_instruction(data: np.ndarray) -> str:
    """Returns the text that `encode_instruction` made uint8 [160] of."""
    return data.tobytes().rstrip(b"\0").decode(errors="replace")
