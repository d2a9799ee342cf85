"""Which rows of a batch are worth computing, where values may say so, and means over some."""

from __future__ import annotations

import torch
from torch import Tensor


def looks_at_data(tensor: Tensor) -> bool:
    """Returns whether values may decide shapes: on a CPU, where that waits for nothing.

    Never in a program that is traced for export: its shapes must be fixed.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def chosen_rows(mask: Tensor, few: bool) -> Tensor:
    """Returns the int64 indices of the rows to compute.

    Args:
      mask: bool [R].
      few: Only rows where `mask` is True, but one at least; False takes all rows, which depends
        on no value and so waits for no device.
    """
    if few:
        found = mask.nonzero()[:, 0]
        return found if len(found) else torch.zeros(1, dtype=torch.int64, device=mask.device)
    return torch.arange(mask.shape[0], device=mask.device)


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of `value` where `mask` (of its shape) is True; 0 where that is nowhere."""
    weight = mask.to(value.dtype)
    return (value * weight).sum() / weight.sum().clamp(min=1.0)


def on_grid(tensor: Tensor, rows: Tensor, batch: int, ticks: int) -> Tensor:
    """Puts rows [R, ...] to their places `rows` [R] on a grid [batch, ticks, ...] of zeros."""
    full = tensor.new_zeros(batch * ticks, *tensor.shape[1:])
    return full.index_copy(0, rows, tensor).unflatten(0, (batch, ticks))
