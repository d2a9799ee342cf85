"""Readouts: a few learned queries look at all tokens and report features and positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenReadout(nn.Module):
    """Attention pooling that also reports where it looked, beside a max pool.

    Each of Q queries (learned, shifted by a context vector) attends to all tokens and gives
    the expected value and the expected position; soft positions have finer resolution than
    the token grid. The max pool keeps what attention has not learnt to find yet.

    Args:
      width: D, token width.
      context: Width of the context vector.
      out: Width of the output vector.
      queries: Q.
      coordinates: P, size of a token position (2 in an image, 3 in the world).
    """

    def __init__(self, width: int, context: int, out: int, queries: int, coordinates: int) -> None:
        super().__init__()
        self.queries = queries
        self.query = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.shift = nn.Linear(context, queries * width)
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        size = queries * (width + coordinates) + width
        self.project = nn.Sequential(nn.Linear(size, 2 * out), nn.GELU(), nn.Linear(2 * out, out))

    def forward(
        self, tokens_BND: Tensor, positions_BNP: Tensor, context_BC: Tensor, mask_BN: Tensor
    ) -> Tensor:
        """Reads [B, N, D] tokens at [B, N, P] positions; False in `mask_BN` hides a token.

        Returns:
          [B, out].
        """
        batch, _, width = tokens_BND.shape
        tokens = self.norm(tokens_BND)
        query = self.query + self.shift(context_BC).view(batch, self.queries, width)
        logits = query @ self.key(tokens).transpose(1, 2) * width**-0.5
        # A finite bias, so that a row without tokens stays finite.
        logits = logits.masked_fill(~mask_BN[:, None], -1e4)
        weights = logits.softmax(dim=-1)
        seen = weights @ torch.cat([self.value(tokens), positions_BNP], dim=-1)
        strongest = tokens.masked_fill(~mask_BN[..., None], -1e4).amax(dim=1)
        return self.project(torch.cat([seen.flatten(1), strongest], dim=-1))
