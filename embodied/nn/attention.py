"""The retrieval block: present tokens attend to the stored tokens of earlier ticks.

Shape letters: B rows, Q query tokens, S stored slots, N tokens a slot, D width, H heads,
E width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name

MASKED = -1.0e9
"""Finite score of a token that must not be read. exp underflows to exactly 0 beside any real
score, and a row without any slot stays finite, which -inf would not (export, gradients)."""

QK_INITS = ("equal", "independent")

SHARPNESS = 10.0
"""Score between equal tokens of unit-scale channels at the start of ``qk_init="equal"``: a token
that looks the same outweighs a thousand that don't (e^10 is 22,000)."""


def masked_score(dtype: torch.dtype) -> float:
    """Returns `MASKED`, or what a narrower float can hold of it."""
    return max(MASKED, torch.finfo(dtype).min / 2)


class RetrievalBlock(nn.Module):
    """Cross-attention and a feed-forward layer, both residual with a norm behind.

    a = softmax((Wq q + bq)(Wk (m + te) + bk)^T / sqrt(E)) (Wv m + bv);
    u = LayerNorm(q + a); result = LayerNorm(u + FFN(u)), FFN = Linear, GELU, Linear.
    There is no output projection and no self-attention; the time code goes to keys only.

    Two equal forms: `forward` never projects the stored tokens (it moves the projections
    to the query's side, far fewer tokens), `project` and `attend` project every stored
    token once, for reading them at many ticks.

    Args:
      width: D.
      heads: H; divides D. The paper's code has 1, its successor 4.
      dropout: On attention weights and inside the feed-forward layer, in training only.
      ffn_ratio: Hidden size of the feed-forward layer over D.
      qk_init: ``"equal"`` starts Wq and Wk as the same multiple of the identity and Wv near
        the identity, so that from the first step each head retrieves what is alike in its
        own channels, and returns it; ``"independent"`` is published.
      projections: False fixes Wq, Wk and Wv to the identity, as the paper's equation has it.

    Source: MemoryVLA (arXiv 2508.19236), its released code.
    """

    def __init__(
        self,
        width: int,
        heads: int = 1,
        dropout: float = 0.0,
        ffn_ratio: int = 4,
        qk_init: str = "equal",
        projections: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ConfigError(f"heads must divide the width {width}, got {heads}")
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be within [0, 1), got {dropout}")
        if qk_init not in QK_INITS:
            raise unknown_name("qk_init", qk_init, QK_INITS)
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        self.scale = 1 / math.sqrt(self.head_width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.norm_attention = nn.LayerNorm(width)
        self.norm_ffn = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn_ratio * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(ffn_ratio * width, width),
        )
        if not projections:
            for linear in (self.query, self.key, self.value):
                nn.init.zeros_(linear.bias)
                nn.init.eye_(linear.weight)
                linear.requires_grad_(False)
        elif qk_init == "equal":
            eye = torch.eye(width)
            for linear in (self.query, self.key):
                nn.init.zeros_(linear.bias)
                linear.weight.data.copy_(eye * math.sqrt(SHARPNESS * self.scale))
            # Beside its own channels a head returns a mixture of all of them.
            self.value.weight.data.add_(eye)

    def forward(
        self,
        query: Tensor,
        slots: Tensor,
        time_code: Tensor | None,
        live: Tensor,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Reads slots as they are stored.

        Args:
          query: [B, Q, D].
          slots: [B, S, N, D].
          time_code: [B, S, D] added to keys, or None.
          live: [B, S, N] bool; tokens that may be read.
          bias: [B, S] added to the scores of each slot's tokens, or None.

        Returns:
          [B, Q, D], and the attention weights [B, H, Q, S, N].
        """
        B, Q, D = query.shape
        S, N = slots.shape[1:3]
        H, E = self.heads, self.head_width
        q_BQHE = self.query(query).view(B, Q, H, E)
        # (Wq q)(Wk m)^T = ((Wq q) Wk) m^T, so the stored tokens need no projection.
        moved_BHQD = torch.einsum("bqhe,hed->bhqd", q_BQHE, self.key.weight.view(H, E, D))
        bias_BHQ = torch.einsum("bqhe,he->bhq", q_BQHE, self.key.bias.view(H, E))
        tokens_BMD = slots.reshape(B, S * N, D)
        flat_BRD = moved_BHQD.reshape(B, H * Q, D)
        scores = torch.bmm(flat_BRD, tokens_BMD.transpose(1, 2)).view(B, H * Q, S, N)
        slot_score = bias_BHQ.reshape(B, H * Q, 1) * self.scale
        if time_code is not None:
            code_BDS = time_code.to(flat_BRD.dtype).transpose(1, 2)
            slot_score = slot_score + torch.bmm(flat_BRD, code_BDS) * self.scale
        if bias is not None:
            slot_score = slot_score + bias[:, None].to(slot_score.dtype)
        scores = scores * self.scale + slot_score.unsqueeze(-1)
        scores = scores.masked_fill(~live[:, None], masked_score(scores.dtype))
        weights = torch.softmax(scores.view(B, H * Q, S * N), dim=-1)
        used = F.dropout(weights, self.dropout, self.training)
        read_BHQD = torch.bmm(used.to(tokens_BMD.dtype), tokens_BMD).view(B, H, Q, D)
        value = torch.einsum("bhqd,hed->bqhe", read_BHQD, self.value.weight.view(H, E, D))
        # Weights sum to one, so the value's bias passes the attention unchanged.
        attended = value.reshape(B, Q, D) + self.value.bias
        return self.finish(query, attended), weights.view(B, H, Q, S, N)

    def project(self, slots: Tensor, time_code: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns keys and values, each [B, S, N, D], of stored tokens [B, S, N, D].

        Args:
          slots: Stored tokens.
          time_code: [B, S, D] added before the key projection, or None.
        """
        keys, values = self.key(slots), self.value(slots)
        if time_code is not None:
            moved = F.linear(time_code.to(slots.dtype), self.key.weight)
            keys = keys + moved.unsqueeze(2)
        return keys, values

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        """Reads projected tokens.

        Args:
          query: [B, Q, D].
          keys: [B, S, N, D] from `project`, or a part of it.
          values: [B, S, N, D] from `project`.
          bias: Added to scores, broadcastable to [B, H, Q, S*N]; `masked_score` where
            unreadable.

        Returns:
          [B, Q, D].
        """
        B, Q, D = query.shape
        H, E = self.heads, self.head_width
        attended = F.scaled_dot_product_attention(
            self.query(query).view(B, Q, H, E).transpose(1, 2),
            keys.reshape(B, -1, H, E).transpose(1, 2),
            values.reshape(B, -1, H, E).transpose(1, 2),
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.finish(query, attended.transpose(1, 2).reshape(B, Q, D))

    def finish(self, query: Tensor, attended: Tensor) -> Tensor:
        """Residual, norm, feed-forward, residual, norm."""
        u = self.norm_attention(query + attended)
        result: Tensor = self.norm_ffn(u + self.ffn(u))
        return result
