"""Digits that a computation keeps, whatever its inputs have."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Returns a float tensor in float32, or as it is if it has more digits."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
