"""What an image encoder is to a policy, and the options that all of them share.

Shape letters: B rows, C cameras, S side of the pictures in pixels, G tokens along a side,
N = G*G tokens a view, F width of a visual token, Z width of the cognitive token, L text tokens.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from embodied.core.errors import ConfigError, unknown_name
from embodied.core.prompt import Prompt

LEARN = ("full", "lora", "frozen")


@dataclasses.dataclass
class EncoderOptions:
    """Options of every encoder; each adds its own.

    Attributes:
      image_size: S, the side of the pictures that the encoder is given.
      resize: Pictures of cameras of another size are resized to it (bilinear, antialiased).
        Without it another size is refused.
      learn: ``"full"`` (all weights), ``"lora"`` (low-rank additions alone) or ``"frozen"``.
    """

    image_size: int = 64
    resize: bool = False
    learn: str = "full"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ConfigError(f"encoder.image_size must be >= 1, got {self.image_size}")
        if self.learn not in LEARN:
            raise unknown_name("encoder.learn", self.learn, LEARN)


class Encoder(nn.Module, abc.ABC):
    """Turns the pictures of all cameras, and an instruction if it reads, into tokens.

    Attributes:
      grid: G.
      width: F.
      cognitive: Z; 0 for an encoder that does not read instructions.
      weights_sha: Hash of the files that its weights came from; empty for others.
    """

    options_class: ClassVar[type[EncoderOptions]] = EncoderOptions
    grid: int
    width: int
    cognitive: int = 0
    weights_sha: str = ""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options

    @property
    def tokens(self) -> int:
        """N, tokens of a view."""
        return self.grid**2

    @abc.abstractmethod
    def forward(self, images_f32: Tensor, instruction_u8: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encodes one tick of each row.

        Args:
          images_f32: [B, C, 3, S, S] in 0..1.
          instruction_u8: [B, 160] zero-padded UTF-8 bytes.

        Returns:
          Visual tokens [B, C, N, F], rows of the grid first, and the cognitive token [B, Z]
          or None.
        """

    def prompt(self) -> Prompt | None:
        """Returns how the instruction becomes tokens; None for one that reads its bytes."""
        return None

    def encode(
        self, images_f32: Tensor, tokens_BL: Tensor, lengths_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, of an encoder that has a `prompt`, for an instruction in tokens.

        Args:
          images_f32: [B, C, 3, S, S] in 0..1.
          tokens_BL: Tokens, int64, padded at the end.
          lengths_B: How many of them there are, int64.
        """
        raise TypeError(f"{type(self).__name__} reads no tokens")


def module_digest(module: nn.Module) -> str:
    """Returns the sha256 of all parameters and buffers of a module, names and bits."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
