"""A vision-language encoder small enough to be trained whole on one CPU thread.

Shape letters: B rows, C cameras, S side of the pictures, G tokens along a side, N = G*G tokens
a view, L text tokens, F width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.core.text import INSTRUCTION_BYTES
from embodied.nn.encoders.base import Encoder, EncoderOptions


@dataclasses.dataclass
class TinyOptions(EncoderOptions):
    """Options of `TinyVisionLanguage`.

    Attributes:
      patch: Side of a patch in pixels; divides `image_size`.
      width: F, of both transformers.
      heads: Attention heads; divide `width`.
      vision_depth: Layers of the vision transformer.
      language_depth: Layers of the language model.
    """

    patch: int = 8
    width: int = 96
    heads: int = 4
    vision_depth: int = 3
    language_depth: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn == "lora":
            raise ConfigError("encoder.learn=lora is for pretrained models; tiny takes full")
        for name in ("patch", "width", "heads", "vision_depth", "language_depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} must be >= 1, got {getattr(self, name)}")
        if self.image_size % self.patch:
            raise ConfigError(
                f"encoder.patch={self.patch} must divide encoder.image_size={self.image_size}"
            )
        if self.width % self.heads:
            raise ConfigError(f"encoder.heads={self.heads} must divide encoder.width={self.width}")


class TinyVisionLanguage(Encoder):
    """A vision transformer, and a causal language model over its tokens and the instruction.

    The sequence is: visual tokens of every view, instruction, end. The cognitive token is the
    last layer's state at the end, the only place that has seen everything. The instruction is
    read as bytes, eight a token, so there is no vocabulary to ship.

    Source: the layout of MemoryVLA (arXiv 2508.19236) section 3.1 at a size of our own.
    """

    options_class = TinyOptions
    BYTES = 8
    """Bytes that each text token adds; it sees twice as many, so that words stay whole."""

    def __init__(self, options: TinyOptions) -> None:
        super().__init__(options)
        width, self.grid = options.width, options.image_size // options.patch
        self.width = self.cognitive = width
        self.patches = nn.Conv2d(3, width, options.patch, stride=options.patch)
        self.position = nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.vision = Transformer(width, options.heads, options.vision_depth, causal=False)
        self.bytes = nn.Embedding(256, width // 2, padding_idx=0)
        self.words = nn.Conv1d(
            width // 2, width, 2 * self.BYTES, stride=self.BYTES, padding=self.BYTES // 2
        )
        self.order = nn.Parameter(torch.randn(INSTRUCTION_BYTES // self.BYTES, width) * 0.02)
        self.end = nn.Parameter(torch.randn(width) * 0.02)
        self.language = Transformer(width, options.heads, options.language_depth, causal=True)
        if options.learn == "frozen":
            self.requires_grad_(False)

    def forward(self, images_f32: Tensor, instruction_u8: Tensor) -> tuple[Tensor, Tensor | None]:
        batch, cameras = images_f32.shape[:2]
        patches = self.patches(2 * images_f32.flatten(0, 1) - 1).flatten(2).transpose(1, 2)
        visual_BCNF = self.vision(patches + self.position).unflatten(0, (batch, cameras))
        letters = self.bytes(instruction_u8.long()).transpose(1, 2)
        text_BLF = self.words(letters).transpose(1, 2) + self.order
        end_B1F = self.end.expand(batch, 1, -1)
        sequence = torch.cat([visual_BCNF.flatten(1, 2), text_BLF, end_B1F], dim=1)
        read = self.language(sequence)
        return visual_BCNF, read[:, -1]


class Transformer(nn.Module):
    """Pre-norm self-attention and feed-forward layers, and a norm behind them.

    Args:
      width: F.
      heads: Attention heads.
      depth: Layers.
      causal: Whether a token sees the tokens before it alone.
    """

    def __init__(self, width: int, heads: int, depth: int, causal: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer(width, heads, causal) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, tokens, F] to the same."""
        for layer in self.layers:
            x = layer(x)
        result: Tensor = self.norm(x)
        return result


class _Layer(nn.Module):
    # Not nn.TransformerEncoderLayer: its fast path gives other bits without gradients than with.

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x)).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.ffn(self.norm_ffn(x))
