"""The transformer of the diffusion action expert.

Source: MemoryVLA (arXiv 2508.19236) section 3.4, layout of its released code: one prefix
token (diffusion time + cognitive condition), K action tokens, pre-norm blocks of
self-attention (actions attend to the prefix), cross-attention to perceptual tokens, MLP.

Deviation: the released initialisation zeroes query and key weights of the cross-attention,
whose gradients are then zero for ever, so that it can only average (``perception="mean"``).
Here only its output projection starts at zero: neutral at the start, and alive.

Shape letters: B rows, K actions in a chunk, A action size, N perceptual tokens,
C condition width, P perceptual width, H hidden width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError, unknown_name
from embodied.nn.position import sinusoid

SIZES = {"S": (6, 384, 4), "B": (12, 768, 12), "L": (24, 1024, 16)}
"""Published sizes: depth, hidden, heads."""
PERCEPTIONS = ("live", "mean")


@dataclasses.dataclass
class DiTConfig:
    """Size of the expert; `DiTConfig.published` gives the published ones.

    Attributes:
      depth: Number of blocks.
      hidden: H.
      heads: Attention heads; must divide `hidden`.
      perception: How the cross-attention to perceptual tokens starts: ``"live"``, or
        ``"mean"``, as released: query and key weights zero, so that it averages for ever.
    """

    depth: int = 3
    hidden: int = 128
    heads: int = 4
    perception: str = "live"

    @classmethod
    def published(cls, size: str) -> DiTConfig:
        """Returns the published size ``"S"``, ``"B"`` or ``"L"``."""
        if size not in SIZES:
            raise unknown_name("size of the action expert", size, SIZES)
        return cls(*SIZES[size])

    def __post_init__(self) -> None:
        if self.perception not in PERCEPTIONS:
            raise unknown_name("perception", self.perception, PERCEPTIONS)
        if self.depth < 1 or self.heads < 1 or self.hidden < 1:
            raise ConfigError(
                f"depth, hidden and heads must be >= 1, got {self.depth}, {self.hidden} and "
                f"{self.heads}"
            )
        if self.hidden % self.heads:
            raise ConfigError(f"heads={self.heads} must divide hidden={self.hidden}")


class ActionDiT(nn.Module):
    """Predicts a field (noise or velocity) over an action chunk.

    Args:
      config: Depth and width.
      action_size: A.
      horizon: K.
      condition: C, width of the condition vector.
      perceptual: P, width of the perceptual tokens.
    """

    FREQUENCIES = 256

    def __init__(
        self, config: DiTConfig, action_size: int, horizon: int, condition: int, perceptual: int
    ) -> None:
        super().__init__()
        hidden = config.hidden
        self.embed_action = nn.Linear(action_size, hidden)
        self.embed_condition = nn.Linear(condition, hidden)
        self.embed_perceptual = nn.Linear(perceptual, hidden)
        self.embed_time = nn.Sequential(
            nn.Linear(self.FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )
        self.position = nn.Parameter(torch.randn(horizon + 1, hidden) * hidden**-0.5)
        self.blocks = nn.ModuleList([DiTBlock(hidden, config.heads) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.out = nn.Linear(hidden, action_size)
        self._initialise(config.perception)

    def _initialise(self, perception: str) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        embedders = [self.embed_action, self.embed_condition, self.embed_perceptual]
        for linear in [*embedders, self.embed_time[0], self.embed_time[2]]:
            nn.init.normal_(linear.weight, std=0.02)
        for block in self.blocks:
            if perception == "live":
                nn.init.zeros_(block.cross.out.weight)
            else:
                for linear in (block.cross.query, block.cross.key, block.cross.value):
                    nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.out.weight)

    def keys_values(self, perceptual_BNP: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Projects perceptual tokens once for all denoising steps: a (key, value) a block."""
        tokens_BNH = self.embed_perceptual(perceptual_BNP)
        return [block.cross.keys_values(tokens_BNH) for block in self.blocks]

    def forward(
        self,
        noisy_BKA: Tensor,
        time_B: Tensor,
        condition_BC: Tensor,
        keys_values: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Predicts the field at diffusion time `time_B` (in 0..100, any float).

        With S noise samples a row, B = R S with the samples of a row side by side: they share
        the row's keys and values, which are those of R rows.

        Returns:
          [B, K, A].
        """
        code = sinusoid(time_B, self.FREQUENCIES)
        time_BH = self.embed_time(code.to(self.embed_time[0].weight.dtype))
        prefix_B1H = (time_BH + self.embed_condition(condition_BC))[:, None]
        x = torch.cat([prefix_B1H, self.embed_action(noisy_BKA)], dim=1) + self.position
        for block, (key, value) in zip(self.blocks, keys_values, strict=True):
            x = block(x, key, value)
        return self.out(self.norm(x))[:, 1:]


class DiTBlock(nn.Module):
    """Self-attention, cross-attention to perceptual tokens, MLP; all pre-norm residual."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.norm_cross = nn.LayerNorm(hidden)
        self.norm_mlp = nn.LayerNorm(hidden, eps=1e-6, elementwise_affine=False)
        self.self_attention = _Attention(hidden, heads)
        self.cross = _Attention(hidden, heads)
        self.mlp = nn.Sequential(
            nn.Linear(hidden, 4 * hidden),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * hidden, hidden),
        )

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        y = self.norm_self(x)
        x = x + self.self_attention(y, *self.self_attention.keys_values(y))
        # All samples of a row are queries of one attention: keys and values are not repeated.
        rows = key.shape[0]
        query = self.norm_cross(x).reshape(rows, -1, x.shape[-1])
        x = x + self.cross(query, key, value).view_as(x)
        return x + self.mlp(self.norm_mlp(x))


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))
