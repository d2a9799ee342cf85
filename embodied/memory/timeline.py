"""The history of a bank over a segment, worked out at once, and all its reads in one attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from embodied.memory.base import where_rows
from embodied.memory.slots import Slots, store

if TYPE_CHECKING:
    from embodied.memory.perceptual_cognitive import StreamBank


def unroll_reads(
    bank: StreamBank,
    queries: Tensor,
    stored: Tensor,
    time_s: Tensor,
    slots: Slots,
    reset: Tensor,
    valid: Tensor,
    use: Tensor,
) -> tuple[Tensor, Slots]:
    """Loop form."""
    values = []
    for t in range(time_s.shape[1]):
        value, _ = bank.read(queries[:, t], slots, reset[:, t])
        values.append(where_rows(use[:, t], value, queries[:, t]))
        slots = store(slots, stored[:, t], time_s[:, t], bank.rule, reset[:, t], valid[:, t])
    return torch.stack(values, dim=1), slots
