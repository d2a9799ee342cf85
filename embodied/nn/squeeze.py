"""Channel compression of an encoder's visual tokens: their number stays, channels shrink.

A 1x1 convolution over a token map is a linear map over tokens. Shape letters: B pictures,
N tokens, C channels in, D channels out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Narrow first, then gate: the form of MemoryVLA's first code.

    Source: MemoryVLA (arXiv 2508.19236) section 3.2 as in its released code: 1x1
    convolution, ReLU, squeeze-and-excitation gate (reduction 16), 1x1 convolution; no
    residual, no norm.

    Args:
      width_in: Channels of the raw tokens.
      width_out: D, channels of the compressed tokens; twice as many are used inside.
      reduction: Squeeze ratio of the gate.
    """

    def __init__(self, width_in: int, width_out: int, reduction: int = 16) -> None:
        super().__init__()
        middle = 2 * width_out
        self.expand = nn.Linear(width_in, middle, bias=False)
        self.squeeze = nn.Linear(middle, middle // reduction)
        self.excite = nn.Linear(middle // reduction, middle)
        self.project = nn.Linear(middle, width_out, bias=False)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Maps [B, N, C] to [B, N, D]."""
        z = torch.relu(self.expand(tokens_BNC))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(z.mean(dim=1, keepdim=True)))))
        return self.project(z * gate)


class WideSqueezeExcite(nn.Module):
    """Gate on the full width first, then narrow: the form of the successor's code.

    Source: MemoryVLA+ (second code base): squeeze-and-excitation gate on C (reduction 16),
    1x1 convolution to C/2, ReLU, 1x1 convolution to D; all with biases.

    Args:
      width_in: C, channels of the raw tokens.
      width_out: D.
      reduction: Squeeze ratio of the gate.
    """

    def __init__(self, width_in: int, width_out: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width_in, max(1, width_in // reduction))
        self.excite = nn.Linear(max(1, width_in // reduction), width_in)
        self.narrow = nn.Linear(width_in, width_in // 2)
        self.project = nn.Linear(width_in // 2, width_out)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        """Maps [B, N, C] to [B, N, D]."""
        squeezed = torch.relu(self.squeeze(tokens_BNC.mean(dim=1, keepdim=True)))
        gate = torch.sigmoid(self.excite(squeezed))
        return self.project(torch.relu(self.narrow(tokens_BNC * gate)))
