"""Where tensors live: one name chosen by the user, checked before anything is loaded."""

from __future__ import annotations

import torch

from embodied.core.errors import ConfigError, unknown_name

KINDS = ("cpu", "cuda")


def torch_device(name: str) -> torch.device:
    """Returns the device called `name`: ``"cpu"``, ``"cuda"`` or ``"cuda:<index>"``.

    Raises:
      ConfigError: For another name, or a device that torch can't use here.
    """
    kind, colon, index = name.partition(":")
    if kind not in KINDS or (colon and not index.isdigit()):
        raise unknown_name("device", name, KINDS)
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= int(index or 0):
            raise ConfigError(
                f"device={name}: torch {torch.__version__} can use {count} CUDA devices here; "
                "choose device=cpu, or see what `embodied doctor` says of the GPU"
            )
    return torch.device(name)
