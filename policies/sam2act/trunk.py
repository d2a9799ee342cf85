"""The trunk of a branch: what is seen, felt and told becomes features of each view's patches.

Shape letters: B rows, V views, P = B*V pictures, S view side in pixels, G token grid side,
N = G*G tokens a view, L language tokens, E their width, D width of a token and of the result,
H width of the layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from policies.sam2act.upsample import SLOPE

GROUPS = 4
"""Of every group norm. Source: RVT (arXiv 2306.14896)."""


@dataclasses.dataclass
class TrunkOptions:
    """Sizes of a `Trunk`. Published: 512 wide, 4 + 4 layers of 8 heads of 64, dropout 0.1.

    Attributes:
      width: D. Published: 128.
      encoder_width: Of D, the channels that come from the encoder.
      patch_width: Of D, the channels that come from the patches of the view; the rest comes from
        proprioception.
      hidden: H.
      within: Layers in which a view attends to itself alone.
      joint: Layers behind them, in which views and language attend to each other.
      heads: Attention heads.
      head_width: Width of a head.
      ffn_ratio: Hidden size of the feed-forward layers over H.
      dropout: On attention weights, in training only.
    """

    width: int = 128
    encoder_width: int = 48
    patch_width: int = 48
    hidden: int = 128
    within: int = 2
    joint: int = 2
    heads: int = 4
    head_width: int = 32
    ffn_ratio: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("hidden", "within", "joint", "heads", "head_width", "ffn_ratio"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trunk.{name} must be >= 1, got {getattr(self, name)}")
        proprio = self.width - self.encoder_width - self.patch_width
        for name, size in (
            ("width", self.width),
            ("patch_width", self.patch_width),
            ("width - trunk.encoder_width - trunk.patch_width (proprioception's)", proprio),
        ):
            # Of a group of one number, a norm leaves nothing.
            if size < 2 * GROUPS or size % GROUPS:
                raise ConfigError(
                    f"trunk.{name} must be a multiple of {GROUPS} (group norm) from "
                    f"{2 * GROUPS} on, got {size}"
                )
        if self.encoder_width < 1:
            raise ConfigError(f"trunk.encoder_width must be >= 1, got {self.encoder_width}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"trunk.dropout must be within [0, 1), got {self.dropout}")


class Trunk(nn.Module):
    """Fuses patches, encoder, proprioception and language, and lets the views attend.

    There is no way around the layers: the result is what they give.

    Args:
      options: Sizes.
      views: V.
      channels: Of a view's picture.
      side: S.
      grid: G; divides `side`.
      encoder: Channels of the encoder's level of side G.
      proprio: Numbers of proprioception; >= 1.
      language: E.

    Attributes:
      position: [V, N, D], the learned code of each token of each view.

    Source: SAM2Act (arXiv 2501.18564), after RVT (arXiv 2306.14896).
    """

    def __init__(
        self,
        options: TrunkOptions,
        *,
        views: int,
        channels: int,
        side: int,
        grid: int,
        encoder: int,
        proprio: int,
        language: int,
    ) -> None:
        super().__init__()
        if side % grid:
            raise ConfigError(f"the token grid {grid} must divide the view side {side} px")
        if proprio < 1:
            raise ConfigError(f"a trunk needs >= 1 number of proprioception, got {proprio}")
        width, hidden, patch = options.width, options.hidden, side // grid
        felt = width - options.encoder_width - options.patch_width
        self.grid = grid
        self.from_encoder = nn.Conv2d(encoder, options.encoder_width, 1)
        self.from_patches = nn.Conv2d(channels, options.patch_width, patch, stride=patch)
        self.norm_patches = nn.GroupNorm(GROUPS, options.patch_width)
        self.from_proprio = nn.Sequential(nn.Linear(proprio, felt), nn.GroupNorm(GROUPS, felt))
        self.from_language = nn.Linear(language, width)
        self.norm_language = nn.GroupNorm(GROUPS, width)
        self.position = nn.Parameter(torch.randn(views, grid**2, width))
        self.widen = nn.Linear(width, hidden)
        self.within = nn.ModuleList(_Layer(options) for _ in range(options.within))
        self.joint = nn.ModuleList(_Layer(options) for _ in range(options.joint))
        self.narrow = nn.Linear(hidden, width)

    def forward(
        self, images: Tensor, levels: Mapping[int, Tensor], proprio: Tensor, language: Tensor
    ) -> Tensor:
        """Returns features.

        Args:
          images: [B, V, channels, S, S].
          levels: Side -> [P, C, side, side], the encoder's; the one of side G is read.
          proprio: [B, numbers].
          language: [B, L, E].

        Returns:
          X [B, V, D, G, G].
        """
        B, V = images.shape[:2]
        tokens_PNH = self.widen(self._fuse(images, levels[self.grid], proprio))
        for layer in self.within:
            tokens_PNH = layer(tokens_PNH)
        words = self.norm_language(self.from_language(language).flatten(0, 1))
        words = F.leaky_relu(words, SLOPE)
        words_BLH = self.widen(words.unflatten(0, (B, -1)))
        views_BMH = tokens_PNH.reshape(B, -1, words_BLH.shape[-1])
        tokens = torch.cat([words_BLH.to(views_BMH.dtype), views_BMH], dim=1)
        for layer in self.joint[:-1]:
            tokens = layer(tokens)
        # Nothing reads the language tokens behind the last layer.
        tokens = self.joint[-1](tokens, drop=language.shape[1])
        features = self.narrow(tokens).view(B, V, self.grid, self.grid, -1)
        return features.permute(0, 1, 4, 2, 3)

    def _fuse(self, images: Tensor, level: Tensor, proprio: Tensor) -> Tensor:
        """Returns the tokens [P, N, D] that go into the layers."""
        B, V = images.shape[:2]
        seen = F.leaky_relu(self.from_encoder(level), SLOPE)
        patches = self.norm_patches(self.from_patches(images.flatten(0, 1)))
        patches = F.leaky_relu(patches, SLOPE)
        felt = F.leaky_relu(self.from_proprio(proprio), SLOPE)
        felt_PND = felt[:, None, None].expand(B, V, self.grid**2, -1).flatten(0, 1)
        parts = [seen.flatten(2).transpose(1, 2), patches.flatten(2).transpose(1, 2), felt_PND]
        tokens = torch.cat([part.to(patches.dtype) for part in parts], dim=-1)
        return (tokens.unflatten(0, (B, V)) + self.position).flatten(0, 1)


class _Layer(nn.Module):
    """Pre-norm self-attention and a gated feed-forward layer, both residual."""

    def __init__(self, options: TrunkOptions) -> None:
        super().__init__()
        hidden, inner = options.hidden, options.heads * options.head_width
        self.heads, self.dropout = options.heads, options.dropout
        self.norm_attention, self.norm_ffn = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, inner, bias=False)
        self.key_value = nn.Linear(hidden, 2 * inner, bias=False)
        self.out = nn.Linear(inner, hidden)
        # Source: GEGLU (arXiv 2002.05202).
        self.ffn_in = nn.Linear(hidden, 2 * options.ffn_ratio * hidden)
        self.ffn_out = nn.Linear(options.ffn_ratio * hidden, hidden)

    def forward(self, x: Tensor, drop: int = 0) -> Tensor:
        """Maps [rows, tokens, H] to the same without the first `drop` tokens, which are read."""
        normed = self.norm_attention(x)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (
                self.query(normed[:, drop:]),
                *self.key_value(normed).chunk(2, dim=-1),
            )
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        x = x[:, drop:] + self.out(mixed.transpose(1, 2).flatten(2))
        hidden, gate = self.ffn_in(self.norm_ffn(x)).chunk(2, dim=-1)
        return x + self.ffn_out(hidden * F.gelu(gate))
