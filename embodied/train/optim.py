"""Optimiser, learning-rate schedule and averaged weights, all resumable bit for bit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from embodied.core.errors import CheckpointError
from embodied.train.checkpoint import on_host
from embodied.train.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Returns the learning rate at `step` of `steps`; a pure function, so resume is exact."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)


def make_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Returns AdamW over the trainable parameters, decaying matrices only."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    # On a device the default makes temporaries as large as all weights; the fused step makes none.
    fused = bool(parameters) and all(p.is_cuda for p in parameters)
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=fused or None)


class Ema:
    """Exponential moving average of floating-point weights and buffers.

    The decay warms up as (1 + step) / (10 + step), so that early averages forget the start.
    Without a decay nothing is kept: the module's own weights are the average.

    Attributes:
      weights: Name -> averaged tensor, of the shape and type that the module's state has; empty
        without a decay.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        if decay:
            self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average towards the module's weights after `step` updates."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    def of(self, module: nn.Module) -> dict[str, Tensor]:
        """Returns the averaged weights of the module; without a decay its own, not copied."""
        return self.weights if self.decay else module.state_dict()

    @contextlib.contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Gives the module the averaged weights inside the context, and then its own again."""
        if not self.decay:
            yield
            return
        own = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns the optimiser's state as flat tensors for safetensors, copied to the host."""
    flat = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            flat[f"{index}.{name}"] = torch.as_tensor(value)
    return on_host(flat)


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Loads what `optimizer_tensors` gave.

    Raises:
      CheckpointError: If a tensor belongs to no parameter of this optimiser.
    """
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    state = optimizer.state_dict()
    count = sum(len(group["params"]) for group in state["param_groups"])
    if any(index >= count for index in entries):
        raise CheckpointError(
            f"optimiser state of {max(entries) + 1} parameters does not fit {count}; "
            "the run was made by another configuration"
        )
    state["state"] = entries
    optimizer.load_state_dict(state)
