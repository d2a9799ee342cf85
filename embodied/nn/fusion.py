"""Fuses what is seen now with what memory returned."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from embodied.core.errors import unknown_name

MODES = ("gate", "add")
DIRECTIONS = ("present", "memory")


class GateFusion(nn.Module):
    """Elementwise gate between the present x and the memory value H of the same shape.

    ``mode="gate"``: g = sigmoid(W [x; H] + b), and g weighs x (``direction="present"``, the
    published code) or H (``direction="memory"``, the paper's equation 8). ``mode="add"``:
    the mean of both, without parameters. Where H equals x the result equals x up to rounding.

    Args:
      width: D.
      mode: ``"gate"`` or ``"add"``.
      direction: What g weighs; see above.

    Source: MemoryVLA (arXiv 2508.19236), its released code, initialised with N(0, 1e-3).
    """

    def __init__(self, width: int, mode: str = "gate", direction: str = "present") -> None:
        super().__init__()
        if mode not in MODES:
            raise unknown_name("fusion mode", mode, MODES)
        if direction not in DIRECTIONS:
            raise unknown_name("gate direction", direction, DIRECTIONS)
        self.mode, self.direction = mode, direction
        self.linear = nn.Linear(2 * width, width) if mode == "gate" else None
        if self.linear is not None:
            nn.init.normal_(self.linear.weight, std=1e-3)
            nn.init.normal_(self.linear.bias, std=1e-3)

    def gate(self, present: Tensor, memory: Tensor) -> Tensor:
        """Returns the weight on the present, [..., D] in 0..1, whatever the direction."""
        if self.linear is None:
            return torch.full_like(present, 0.5)
        g = torch.sigmoid(self.linear(torch.cat([present, memory], dim=-1)))
        return g if self.direction == "present" else 1 - g

    def forward(self, present: Tensor, memory: Tensor) -> Tensor:
        """Fuses two tensors [..., D]."""
        if self.linear is None:
            return 0.5 * (present + memory)
        # lerp in this form returns the present exactly where both are equal.
        return present + (1 - self.gate(present, memory)) * (memory - present)
