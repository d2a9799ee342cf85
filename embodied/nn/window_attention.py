"""Causal self-attention over the last few ticks, with positions told by age.

Two equal forms. `attend` reads a window that lies ready and never projects it: the projections
move to the query's side, so that a tick costs little however long the window is. `band` reads
every tick of a segment at once and projects each stored vector once.

Shape letters: B rows, T ticks, A past ticks of a window, W = A + 1 with the present, D width,
H heads, E width of a head, N blocks of S ticks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.attention import QK_INITS, SHARPNESS, masked_score
from embodied.nn.position import sinusoid

BLOCK = 32
"""Least ticks of a block of `band`. A block of S reads S + A keys, of which W count for each
tick: longer blocks waste more, shorter ones copy keys more often (measured for W of 32 to 256)."""


def scaled_init(linear: nn.Linear) -> None:
    """Draws weights of variance 2 / inputs from a normal cut at two deviations; no bias.

    Source: HCAM's released code (variance scaling of 2.0; 0.8796 is what the cut leaves).
    """
    spread = math.sqrt(2 / linear.in_features) / 0.87962566
    nn.init.trunc_normal_(linear.weight, std=spread, a=-2 * spread, b=2 * spread)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def check_heads(width: int, heads: int, qk_init: str) -> None:
    """Refuses heads that do not divide the width, and unknown starts of queries and keys."""
    if width < 1:
        raise ConfigError(f"memory width must be >= 1, got {width}")
    if heads < 1 or width % heads:
        raise ConfigError(
            f"memory.heads must divide the width {width}, got {heads}; "
            f"take one of {[h for h in range(1, width + 1) if width % h == 0][:8]}"
        )
    if qk_init not in QK_INITS:
        raise unknown_name("memory.qk_init", qk_init, QK_INITS)


class WindowAttention(nn.Module):
    """Attention of each tick over itself and the ticks before it, behind a norm.

    score(t, j) = ((q_t . k_j) + (q_t + v) . R p(t - j)) / sqrt(E), with q and k from
    LayerNorm(x), p the sinusoid of the age in ticks. No weight depends on the window.

    Args:
      width: D.
      heads: H; divides D.
      window: W that is usual; others cost a little more.
      qk_init: ``"equal"`` starts the query and key maps as the same multiple of the identity,
        so that what is alike is found from the first step; ``"independent"`` is published.

    Source: Transformer-XL (arXiv 1901.02860), equation of section 3.3; norm in front as in
    GTrXL (arXiv 1910.06764). The content bias u is the bias of the query map.
    """

    codes: Tensor

    def __init__(
        self, width: int, heads: int, window: int = 1, qk_init: str = "independent"
    ) -> None:
        super().__init__()
        check_heads(width, heads, qk_init)
        self.register_buffer("codes", age_codes(window, width), persistent=False)
        self.heads, self.head_width = heads, width // heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.position = nn.Linear(width, width, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(heads, self.head_width))
        self.out = nn.Linear(width, width)
        for linear in (self.query, self.key, self.value, self.position, self.out):
            scaled_init(linear)
        if qk_init == "equal":
            start_equal(self.query, self.key, self.head_width)

    def attend(self, tokens: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Reads windows that lie ready.

        Args:
          tokens: [B, W, D]; the oldest first, the present last.
          live: [B, W] bool; ticks of this episode.

        Returns:
          [B, D], and the weights [B, H, W].
        """
        B, W = tokens.shape[:2]
        H, E = self.heads, self.head_width
        normed = self.norm(tokens)
        q_BHE = self.query(normed[:, -1]).view(B, H, E)
        moved_BHD = move_query(q_BHE, self.key.weight)
        content = torch.bmm(moved_BHD.to(normed.dtype), normed.transpose(1, 2))
        place_HEW = self._ages(W, tokens).permute(1, 2, 0)
        place = torch.bmm((q_BHE + self.position_bias).transpose(0, 1), place_HEW)
        scores = (content + place.transpose(0, 1)) / math.sqrt(E)
        scores = scores.masked_fill(~live[:, None], masked_score(scores.dtype))
        weights = torch.softmax(scores, dim=-1)
        mixed_BHD = torch.bmm(weights.to(normed.dtype), normed)
        return self.out(move_value(mixed_BHD, self.value.weight)), weights

    def band(self, ticks: Tensor, past: Tensor, stored: Tensor | None, age: Tensor) -> Tensor:
        """Reads at every tick of a segment.

        Args:
          ticks: [B, T, D]; the present of each tick.
          past: [B, A, D]; what the window held before the segment, the oldest first.
          stored: [B, T, D]; what was stored of each tick. None: the ticks themselves.
          age: int64 [B, T]; how many ticks of the same episode came before.

        Returns:
          [B, T, D].
        """
        B, T, D = ticks.shape
        H, E, A = self.heads, self.head_width, past.shape[1]
        S = min(T, max(BLOCK, (A + 1) // 4))
        N = -(-T // S)
        normed = self.norm(ticks)
        kept = normed if stored is None else self.norm(stored)
        pool = F.pad(torch.cat([self.norm(past), kept], dim=1), (0, 0, 0, N * S - T))
        q = self._blocks(F.pad(self.query(normed), (0, 0, 0, N * S - T)), N, S)
        keys, values = (
            m(pool).view(B, A + N * S, H, E).unfold(1, S + A, S).permute(0, 2, 1, 3, 4)
            for m in (self.key, self.value)
        )  # [B, H, N, E, S + A]
        scores = torch.matmul(q, keys)
        ages = F.pad(age, (0, N * S - T)).view(B, 1, N, S, 1)
        place = torch.matmul(q + self.position_bias[:, None, None], self._place_keys(A + 1, ticks))
        live = torch.arange(A, -1, -1, device=age.device) <= ages
        place = place.masked_fill(~live, masked_score(place.dtype))
        if stored is not None:  # the present itself is fresh, and may have a gradient
            fresh_k, fresh_v = (
                self._blocks(F.pad(m(normed) - m(kept), (0, 0, 0, N * S - T)), N, S)
                for m in (self.key, self.value)
            )
            place = torch.cat([place[..., :-1], place[..., -1:] + (q * fresh_k).sum(-1, True)], -1)
        weights = torch.softmax((scores + self._skew(place)) / math.sqrt(E), dim=-1)
        mixed = torch.matmul(weights.to(values.dtype), values.transpose(-1, -2))
        if stored is not None:
            mixed = mixed + weights.diagonal(A, -2, -1)[..., None] * fresh_v
        merged = mixed.permute(0, 2, 3, 1, 4).reshape(B, N * S, D)[:, :T]
        result: Tensor = self.out(merged)
        return result

    def _ages(self, window: int, like: Tensor) -> Tensor:
        """Returns R p(age) [W, H, E] for ages W - 1 to 0."""
        known = len(self.codes)
        codes = (
            self.codes[known - window :]
            if window <= known
            else age_codes(window, like.shape[-1], like.device).to(self.codes.dtype)
        )
        code = self.position(codes)
        return code.view(window, self.heads, self.head_width)

    def _place_keys(self, window: int, like: Tensor) -> Tensor:
        return self._ages(window, like).permute(1, 2, 0)[:, None]  # [H, 1, E, W]

    def _blocks(self, ticks: Tensor, n: int, size: int) -> Tensor:
        """Splits [B, N * S, D] into heads and blocks [B, H, N, S, E]."""
        B = ticks.shape[0]
        return ticks.view(B, n, size, self.heads, self.head_width).permute(0, 3, 1, 2, 4)

    @staticmethod
    def _skew(place: Tensor) -> Tensor:
        """Moves row i of [..., S, W] right by i, as [..., S, S + W - 1]; the rest is masked."""
        S, W = place.shape[-2:]
        flat = F.pad(place, (0, S), value=masked_score(place.dtype)).flatten(-2)
        return flat[..., : S * (S + W - 1)].unflatten(-1, (S, S + W - 1))


def age_codes(window: int, width: int, device: torch.device | None = None) -> Tensor:
    """Returns sinusoids [W, D] of the ages W - 1 to 0."""
    return sinusoid(torch.arange(window - 1, -1, -1, device=device), width)


def start_equal(query: nn.Linear, key: nn.Linear, head_width: int) -> None:
    """Starts a query and a key map as the same multiple of the identity.

    Equal vectors of unit scale then score `SHARPNESS` in each head.
    """
    size = math.sqrt(SHARPNESS / math.sqrt(head_width))
    for linear in (query, key):
        linear.weight.data.copy_(torch.eye(linear.in_features) * size)


def move_query(query: Tensor, key_weight: Tensor) -> Tensor:
    """Moves a key map to the query's side: q . (Wk m) = (q Wk) . m.

    Args:
      query: [B, H, E].
      key_weight: [H * E, D].

    Returns:
      [B, H, D].
    """
    weight_HED = key_weight.view(*query.shape[1:], -1).to(query.dtype)
    return torch.bmm(query.transpose(0, 1), weight_HED).transpose(0, 1)


def move_value(mixed: Tensor, value_weight: Tensor) -> Tensor:
    """Applies a value map behind the attention: sum a (Wv m) = Wv (sum a m).

    Args:
      mixed: [B, H, D].
      value_weight: [H * E, D].

    Returns:
      [B, H * E].
    """
    B, H, D = mixed.shape
    weight_HDE = value_weight.view(H, -1, D).transpose(1, 2).to(mixed.dtype)
    return torch.bmm(mixed.transpose(0, 1), weight_HDE).transpose(0, 1).reshape(B, -1)
