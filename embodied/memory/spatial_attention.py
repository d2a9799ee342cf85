"""Memory attention: a map of tokens reads the maps of earlier steps, with axial rotary positions.

Source: SAM 2 (arXiv 2408.00714), section 4 and appendix, as used by SAM2Act+ (arXiv 2501.18564).

Shape letters: R rows (batch times streams), M stored frames, N tokens of a frame, G side of the
map (N = G * G, row-major), D width, C width of stored tokens, H heads, E width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.nn.attention import masked_score
from embodied.nn.precision import at_least_float32

THETA = 10_000.0
"""Ratio between the first frequency of an axis, 1 rad a token, and where the series would end."""


_FAST_RAD = 0.3
"""Channels that turn by as much from token to token tell neighbours apart."""


def axis_frequencies(width: int) -> Tensor:
    """Returns float32 [width // 4]: how far each channel pair of an axis turns a token, in rad."""
    quarter = width // 4
    frequency: Tensor = THETA ** (-torch.arange(quarter, dtype=torch.float32) / max(quarter, 1))
    return frequency


def grid_positions(side: int) -> Tensor:
    """Returns float32 [N, 2]: (column, row) of each token of a map, row-major."""
    index = torch.arange(side * side)
    return torch.stack([index % side, index // side], dim=-1).float()


def axial_rotary(positions: Tensor, width: int) -> Tensor:
    """Returns cosines and sines that turn pairs of channels by their token's place.

    The first half of the channels turns with the column, the second with the row; the two
    channels 2i and 2i + 1 are a pair. Where `width` is no multiple of 4, the last channels of it
    do not turn.

    Args:
      positions: [N, 2] (column, row), in tokens.
      width: E.

    Returns:
      float32 [2, N, E]: cosines, then sines.

    Source: RoFormer (arXiv 2104.09864) for each axis, as in SAM 2.
    """
    angle_rad = positions.float()[..., None] * axis_frequencies(width)
    angle_rad = angle_rad.flatten(1).repeat_interleave(2, dim=-1)
    angle_rad = F.pad(angle_rad, (0, width - angle_rad.shape[-1]))
    return torch.stack([angle_rad.cos(), angle_rad.sin()])


def rotate(tokens: Tensor, rotary: Tensor) -> Tensor:
    """Turns channel pairs of `tokens` [..., N, H, E] by `rotary` [2, N, E], in float32 at least."""
    cos, sin = rotary[0][:, None], rotary[1][:, None]
    wide = at_least_float32(tokens)
    even, odd = wide.unflatten(-1, (-1, 2)).unbind(dim=-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    return (wide * cos + turned * sin).to(tokens.dtype)


class RotaryAttention(nn.Module):
    """softmax(rot(Wq q + bq) rot(Wk k + bk)^T / sqrt(E)) (Wv v + bv), then an output projection.

    Args:
      width: D of queries and of the result.
      source: Width of keys and values.
      heads: H; divides D into an even number of channels, at least 4.
      dropout: On attention weights, in training only.
    """

    def __init__(self, width: int, source: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads) or width // heads < 4:
            raise ConfigError(
                f"memory.heads={heads} does not divide the width {width} into heads of an even "
                "number of channels, 4 at least, which rotary positions need"
            )
        self.heads, self.head_width, self.dropout = heads, width // heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        self.out = nn.Linear(width, width)

    @torch.no_grad()
    def start_near(self, locality: float) -> None:
        """Makes each place look at itself first, by equal biases of queries and keys.

        A channel of every fast pair gets the same bias in both, the others none; what turns alike
        adds up at the same place and cancels elsewhere. It is a start: biases are learnt further.

        Args:
          locality: Difference of scores between the same place and its neighbour along an axis.
        """
        frequency = axis_frequencies(self.head_width)
        fast = int((frequency >= _FAST_RAD).sum())
        lost = float((1 - frequency[:fast].cos()).sum())
        size = (locality * self.head_width**0.5 / lost) ** 0.5
        for layer in (self.query, self.key):
            heads = layer.bias.zero_().view(self.heads, self.head_width)
            axes = heads[:, : 4 * len(frequency)].unflatten(1, (2, len(frequency), 2))
            axes[:, :, :fast, 0] = size

    def forward(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: Tensor,
        live: Tensor | None = None,
        explain: list[Tensor] | None = None,
    ) -> Tensor:
        """Attends from one map to M maps, all with the same places.

        Args:
          query: [R, N, D].
          keys: [R, M, N, C].
          values: [R, M, N, C].
          rotary: [2, N, E] from `axial_rotary`; the same for the query and for every frame.
          live: bool [R, M], frames that may be read; None for all. Rows without any attend
            evenly to what is there.
          explain: Gets the weights [R, H, N, M, N] appended.

        Returns:
          [R, N, D].
        """
        R, M, N = keys.shape[:3]
        H, E = self.heads, self.head_width
        q = rotate(self.query(query).view(R, N, H, E), rotary).transpose(1, 2)
        k = rotate(self.key(keys).view(R, M, N, H, E), rotary)
        k = k.reshape(R, M * N, H, E).transpose(1, 2)
        v = self.value(values).view(R, M * N, H, E).transpose(1, 2)
        mask: Tensor | None = None
        if live is not None:
            score = torch.zeros_like(live, dtype=q.dtype)
            score = score.masked_fill(~live, masked_score(q.dtype))
            mask = score[..., None].expand(R, M, N).reshape(R, 1, 1, M * N)
        if explain is not None:
            scores = q @ k.transpose(-1, -2) / E**0.5
            scores = scores if mask is None else scores + mask
            explain.append(torch.softmax(scores, dim=-1).unflatten(-1, (M, N)))
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        result: Tensor = self.out(attended.transpose(1, 2).reshape(R, N, H * E))
        return result


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to memory, feed-forward; each residual with a norm in front.

    Args:
      width: D.
      source: C.
      heads: H.
      feedforward: Hidden channels of the feed-forward layer.
      dropout: On attention weights, residual branches and hidden channels, in training only.
    """

    def __init__(
        self, width: int, source: int, heads: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = RotaryAttention(width, width, heads, dropout)
        self.cross_attention = RotaryAttention(width, source, heads, dropout)
        self.widen = nn.Linear(width, feedforward)
        self.narrow = nn.Linear(feedforward, width)
        self.norm_self = nn.LayerNorm(width)
        self.norm_cross = nn.LayerNorm(width)
        self.norm_feedforward = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tensor,
        keys: Tensor,
        values: Tensor,
        rotary: Tensor,
        live: Tensor,
        explain: list[Tensor] | None = None,
    ) -> Tensor:
        """Returns [R, N, D]; see `RotaryAttention.forward` for the arguments."""
        seen = self.norm_self(tokens)
        frame = seen[:, None]
        tokens = tokens + self.drop(self.self_attention(seen, frame, frame, rotary))
        found = self.cross_attention(self.norm_cross(tokens), keys, values, rotary, live, explain)
        tokens = tokens + self.drop(found)
        hidden = self.drop(F.relu(self.widen(self.norm_feedforward(tokens))))
        result: Tensor = tokens + self.drop(self.narrow(hidden))
        return result


class MemoryAttention(nn.Module):
    """Layers over one map of tokens and M stored ones, with a norm at the end.

    Args:
      side: G.
      width: D.
      source: C.
      layers: Number of `MemoryAttentionLayer`.
      heads: H.
      feedforward: Hidden channels of the feed-forward layers.
      dropout: In training only.
      position_scale: Weight of the present's positional code in what goes in.
      locality: How much more, at the start, a place reads of itself in memory than of its
        neighbours, in scores; see `RotaryAttention.start_near`.
    """

    rotary: Tensor

    def __init__(
        self,
        side: int,
        width: int,
        source: int,
        layers: int,
        heads: int,
        feedforward: int,
        dropout: float,
        position_scale: float,
        locality: float = 0.0,
    ) -> None:
        super().__init__()
        self.position_scale = position_scale
        built = [
            MemoryAttentionLayer(width, source, heads, feedforward, dropout) for _ in range(layers)
        ]
        if locality:
            for layer in built:
                layer.cross_attention.start_near(locality)
        self.layers = nn.ModuleList(built)
        self.norm = nn.LayerNorm(width)
        rotary = axial_rotary(grid_positions(side), width // heads)
        self.register_buffer("rotary", rotary, persistent=False)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        keys: Tensor,
        values: Tensor,
        live: Tensor,
        explain: list[Tensor] | None = None,
    ) -> Tensor:
        """Reads memory.

        Args:
          query: [R, N, D].
          position: Positional code of the query's tokens, broadcastable to [R, N, D].
          keys: [R, M, N, C] stored tokens with their codes.
          values: [R, M, N, C] stored tokens.
          live: bool [R, M]; frames that may be read. Rows without any give finite tokens that
            mean nothing.
          explain: Gets each layer's weights on memory [R, H, N, M, N] appended.

        Returns:
          [R, N, D].
        """
        tokens = query + self.position_scale * position
        for layer in self.layers:
            tokens = layer(tokens, keys, values, self.rotary, live, explain)
        result: Tensor = self.norm(tokens)
        return result
