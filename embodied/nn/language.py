"""The instruction encoder of policies without a language model: bytes in, a vector out.

No tokenizer: working on UTF-8 bytes keeps the text path inside the exported graph, so that a robot
controller needs no vocabulary file and no torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.nn.rows import looks_at_data


class ByteInstructionEncoder(nn.Module):
    """Encodes zero-padded UTF-8 bytes with strided convolutions and max pooling.

    Args:
      width: Size of the output vector.
      channels: Channels of the byte embedding and the convolutions.
    """

    def __init__(self, width: int, channels: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, channels, padding_idx=0)
        # Window 8, stride 4: words of the instruction overlap at least one window well.
        self.local = nn.Conv1d(channels, channels, 8, stride=4)
        self.wide = nn.Conv1d(channels, channels, 5, stride=2, padding=2)
        self.project = nn.Linear(2 * channels, width)

    def forward(self, instruction_u8: Tensor) -> Tensor:
        """Maps uint8 [B, 160] to [B, width]."""
        if torch.is_grad_enabled() and looks_at_data(instruction_u8):
            # Learning sees an episode's words again at each of its ticks.
            different, row = instruction_u8.unique(dim=0, return_inverse=True)
            return self._encode(different)[row]
        return self._encode(instruction_u8)

    def _encode(self, instruction_u8: Tensor) -> Tensor:
        x = self.embed(instruction_u8.long()).transpose(1, 2)
        local = nn.functional.gelu(self.local(x))
        wide = nn.functional.gelu(self.wide(local))
        encoded: Tensor = self.project(torch.cat([local.amax(dim=-1), wide.amax(dim=-1)], dim=-1))
        return encoded
