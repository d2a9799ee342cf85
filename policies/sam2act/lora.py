"""Low-rank additions to queries and values of the Hiera encoder, whose qkv is one layer.

Keys are never touched, which adapters around the whole of a fused layer can't keep.

Shape letters: I width in, O width of each of query, key and value, C = min(I, O) columns of a
query or value that an addition covers, R rank.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError


class LoraQkv(nn.Module):
    """A fused qkv layer with low-rank additions to the first and the last C columns.

    Where a block keeps its width these are the whole query and the whole value. Where a stage
    begins, O is 2 I, and they are the first I columns of the query and the last I columns of the
    value. Additions start at zero and are not scaled.

    Args:
      base: Linear I -> 3 O, query, key, value; taken over and frozen.
      rank: R.

    Source: LoRA (arXiv 2106.09685), as SAM2Act (arXiv 2501.18564) has it.
    """

    # Names begin with what `embodied.nn.encoders.pretrained.ADAPTER` looks for.
    lora_a_q: nn.Parameter
    lora_b_q: nn.Parameter
    lora_a_v: nn.Parameter
    lora_b_v: nn.Parameter

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError(f"encoder.lora_rank must be >= 1, got {rank}")
        width_in, width = base.in_features, base.out_features // 3
        self.base = base.requires_grad_(False)
        self.covered = min(width_in, width)
        where = {"device": base.weight.device}
        for part in ("q", "v"):
            down = nn.Parameter(torch.empty(rank, width_in, **where))
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            self.register_parameter(f"lora_a_{part}", down)
            up = nn.Parameter(torch.zeros(self.covered, rank, **where))
            self.register_parameter(f"lora_b_{part}", up)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [..., I] to [..., 3 O]."""
        qkv, covered = self.base(x), self.covered
        query = F.linear(F.linear(x, self.lora_a_q), self.lora_b_q)
        value = F.linear(F.linear(x, self.lora_a_v), self.lora_b_v)
        parts = [
            qkv[..., :covered] + query,
            qkv[..., covered:-covered],
            qkv[..., -covered:] + value,
        ]
        return torch.cat(parts, dim=-1)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Returns one layer that computes the same."""
        weight = self.base.weight.clone()
        weight[: self.covered] += self.lora_b_q @ self.lora_a_q
        weight[-self.covered :] += self.lora_b_v @ self.lora_a_v
        bias = self.base.bias
        merged = nn.Linear(*reversed(weight.shape), bias=bias is not None, device=weight.device)
        merged.weight.copy_(weight)
        if bias is not None:
            merged.bias.copy_(bias)
        return merged


def add_lora(model: Any, rank: int) -> None:
    """Wraps qkv in each block of a ``Sam2VisionModel``, in place.

    Nothing but the additions requires gradients afterwards.

    Raises:
      ConfigError: If `rank` is less than 1.
    """
    model.requires_grad_(False)
    for block in model.backbone.blocks:
        block.attn.qkv = LoraQkv(block.attn.qkv, rank)


def merge_lora(model: Any) -> None:
    """Replaces what `add_lora` put in by plain layers that compute the same, in place."""
    for block in model.backbone.blocks:
        block.attn.qkv = block.attn.qkv.merge()
