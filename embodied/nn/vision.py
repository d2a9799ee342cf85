"""Image trunks that keep spatial tokens.

Shape letters: B images, H W pixels, G tokens along a side, N = G*G tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError
from embodied.nn.position import FourierFeatures


class SalientColor(nn.Module):
    """Which colour stands out from a camera's mean image in each patch, and where.

    Where the colour is, in the picture, is answered beside its code: of two things that nearly
    touch, each keeps its own colour at its own place.

    Args:
      image_size: Height and width in pixels.
      grid: G, patches along a side; divides `image_size`.
      colors: Channels of the colour code.
    """

    SALIENCE, CLEAR = 16.0, 0.5
    """Weight of a pixel: e to the power of SALIENCE times how far its colour is from the mean
    image, summed over the channels (0..1 each). Beyond CLEAR further off counts no more: else
    black fingers would hide every pale thing near them."""
    OVERLAP = 0.25
    """Part of a patch by which its window reaches over each of its borders: enough for a
    small thing there to be seen whole, too little to hold two things."""
    ALIKE = 0.2
    """Colours (RGB, 0..1 each) nearer than this are alike."""

    def __init__(self, image_size: int, grid: int, colors: int) -> None:
        super().__init__()
        self.grid, self.stride = grid, image_size // grid
        self.color = FourierFeatures(3, colors, self.ALIKE)
        self.register_buffer("mean_image", torch.full((3, image_size, image_size), 0.5))
        pixels = token_pixels(image_size, 1).T.reshape(1, 2, image_size, image_size)
        self.register_buffer("pixels", pixels, persistent=False)

    def set_mean_image(self, mean_image_f32: Tensor) -> None:
        """Sets the mean image, float [3, H, W] in 0..1."""
        self.mean_image.copy_(mean_image_f32)

    def forward(self, image_u8: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the colour code [B, N, colors] of uint8 [B, H, W, 3], and pixels [B, N, 2].

        Rows of the grid come first; pixels are (u, v) from the upper left corner.
        """
        image, difference = self._difference(image_u8)
        colors, pixels = self._stand_out(image, difference)
        return self.color(colors), pixels

    def _difference(self, image_u8: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the picture [B, 3, H, W] in 0..1, and what differs from the mean image."""
        image = image_u8.permute(0, 3, 1, 2).to(self.mean_image.dtype) / 255.0
        return image, image - self.mean_image

    def _stand_out(self, image: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Returns colour [B, N, 3] and pixel [B, N, 2] of what stands out in each patch.

        Both are means under one weight, so they are of the same thing; where nothing stands
        out, the pixel is the middle of the patch. As the soft arg-max of Deep Spatial
        Autoencoders (Finn et al. 2016), in windows.
        """
        distance = difference.abs().sum(dim=1, keepdim=True)
        weight = torch.exp(self.SALIENCE * distance.clamp(max=self.CLEAR))
        both = torch.cat([image, self.pixels.expand(len(image), -1, -1, -1)], dim=1)
        over = int(self.OVERLAP * self.stride)
        window = {"kernel_size": self.stride + 2 * over, "stride": self.stride, "padding": over}
        mean = F.avg_pool2d(both * weight, **window) / F.avg_pool2d(weight, **window)
        color, pixel = mean.flatten(2).transpose(1, 2).split((3, 2), dim=-1)
        return color, pixel


class ConvTrunk(SalientColor):
    """A small convolutional stem: what has which shape, and which colour, in each 8x8 patch.

    Normalisation subtracts a per-pixel mean image of the training data, so that what is
    the same in every frame (table, robot base) is zero from the start. Tokens carry no
    position code: equal things at different places give equal tokens, which is what lets
    a token of the present find its like in memory. The last channels are a code of the colour
    that stands out from the mean image, apart from the shapes: learning to find things must
    not blur which of them is red.

    Args:
      image_size: Height and width in pixels; a multiple of 8.
      shapes: Channels of the convolutional stem's output, at unit scale; a multiple of 8.
      colors: Channels of the colour code.
      channels: Channels after the first and the second convolution.
      blocks: Residual blocks at token resolution.
    """

    STRIDE = 8

    def __init__(
        self,
        image_size: int,
        shapes: int,
        colors: int,
        channels: tuple[int, int] = (32, 64),
        blocks: int = 1,
    ) -> None:
        if image_size % self.STRIDE:
            raise ConfigError(
                f"the conv trunk needs an image_size that {self.STRIDE} divides, got {image_size}"
            )
        super().__init__(image_size, image_size // self.STRIDE, colors)
        self.tokens = self.grid**2
        first, second = channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            nn.GroupNorm(8, second),
            nn.ReLU(),
            nn.Conv2d(second, shapes, 3, stride=2, padding=1),
            nn.GroupNorm(8, shapes),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList([_ResidualBlock(shapes) for _ in range(blocks)])
        self.norm = nn.LayerNorm(shapes)

    def forward(self, image_u8: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes images.

        Args:
          image_u8: uint8 [B, H, W, 3].

        Returns:
          Tokens [B, N, D], rows of the grid first, and float [B, N, 2] where in the picture
          what stands out in each is: (u, v) in pixels from the upper left corner.
        """
        image, difference = self._difference(image_u8)
        colors, pixels = self._stand_out(image, difference)
        # 4: differences from the mean image are small; this brings objects to unit scale.
        x = self.stem((difference * 4.0).contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            x = block(x)
        shape = self.norm(x.flatten(2).transpose(1, 2))
        return torch.cat([shape, self.color(colors).to(shape.dtype)], dim=-1), pixels


class _ResidualBlock(nn.Module):
    """Pre-norm 3x3 convolution followed by a 1x1, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.spatial = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.spatial(self.norm(x))))


def token_pixels(grid: int, patch: int) -> Tensor:
    """Returns pixel coordinates (u, v) of the centres of `grid` x `grid` patches, [N, 2].

    Rows of the grid come first; a patch is `patch` pixels wide.
    """
    centre = (torch.arange(grid) + 0.5) * patch
    v, u = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack([u, v], dim=-1).reshape(-1, 2)


FAR_M = 1.5
"""Where a ray ends that meets the plane further off, or never."""


def meet_plane(
    pixels: Tensor, intrinsics_B33: Tensor, cam_to_world_B44: Tensor, plane_z_m: Tensor
) -> Tensor:
    """Returns where the rays through pixels meet a horizontal plane.

    Args:
      pixels: [N, 2] or [B, N, 2]: (u, v), from the image's upper left corner.
      intrinsics_B33: Camera matrices in pixels.
      cam_to_world_B44: Camera poses; x right, y down, z forward, metres.
      plane_z_m: The plane's height, a scalar.

    Returns:
      float [B, N, 3] metres; at most `FAR_M` from the camera.
    """
    # Padded rows hold zeros: they must stay finite.
    focal = intrinsics_B33.diagonal(dim1=-2, dim2=-1)[:, None, :2].clamp(min=1.0)
    rays = (pixels - intrinsics_B33[:, None, :2, 2]) / focal
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    # In autocast's narrow floats places a metre off would move by millimetres.
    with torch.autocast(rays.device.type, enabled=False):
        rays = nn.functional.normalize(rays, dim=-1) @ cam_to_world_B44[:, :3, :3].transpose(1, 2)
    origin = cam_to_world_B44[:, None, :3, 3]
    down = rays[..., 2:].clamp(max=-1e-3)
    length = ((plane_z_m - origin[..., 2:]) / down).clamp(0.0, FAR_M)
    return origin + length * rays
