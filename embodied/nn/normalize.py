"""Normalisation as a sub-module: statistics are buffers and travel with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActionNormalizer(nn.Module):
    """Maps actions to [-1, 1] by per-dimension quantiles, and back.

    Source: MemoryVLA section 2.5 of its code: 1 % and 99 % quantiles, clipped; dimensions where
    the two meet (never used) are passed through, as one of commands -1 and 1 (a gripper) is.

    Args:
      size: A, elements of an action.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("low", -torch.ones(size))
        self.register_buffer("high", torch.ones(size))

    def set_statistics(self, low: Tensor, high: Tensor) -> None:
        """Sets the quantiles; a range under 1e-3 passes its dimension through."""
        narrow = (high - low) < 1e-3
        self.low.copy_(torch.where(narrow, -torch.ones_like(low), low))
        self.high.copy_(torch.where(narrow, torch.ones_like(high), high))

    def normalize(self, action: Tensor) -> Tensor:
        """Physical to normalised, clipped to [-1, 1]; last axis A."""
        return (2 * (action - self.low) / (self.high - self.low) - 1).clamp(-1, 1)

    def denormalize(self, action: Tensor) -> Tensor:
        """Normalised, clipped to [-1, 1], to physical; last axis A."""
        return (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low) + self.low


class VectorNormalizer(nn.Module):
    """Subtracts a mean and divides by a standard deviation; identity until set.

    Args:
      size: Elements of the vector.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Sets the statistics; a deviation under 1e-3 is taken as 1."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std < 1e-3, torch.ones_like(std), std))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
