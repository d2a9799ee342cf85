"""What of a pretrained model learns, and what of it goes into a policy's checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from embodied.core.errors import CheckpointError
from embodied.extras import named_extras

ADAPTER = ".lora_"
"""In the name of each tensor of a low-rank adapter, and of no other."""


class Pretrained(nn.Module):
    """A model that keeps out of a policy's checkpoint what can be loaded from its source.

    Args:
      model: With the weights it starts from, and its adapters where they shall learn.
      learn: ``"full"``, ``"lora"`` or ``"frozen"``.
      source: The sha256 of the files its weights came from; empty for random weights.
    """

    model: Any
    source: torch.Tensor
    MODEL, SOURCE = "model.", "source"

    def __init__(self, model: nn.Module, learn: str, source: str) -> None:
        super().__init__()
        self.model = model
        self.learn = learn
        # A policy is saved often and copied around: gigabytes that never change would be in
        # every checkpoint and every claim. What is saved instead is which ones they were.
        # Random weights are nowhere else, so they are saved, and so is what learns whole.
        self.sourced = bool(source) and learn != "full"
        if self.sourced:
            sha256 = torch.frombuffer(bytearray.fromhex(source), dtype=torch.uint8).clone()
            self.register_buffer(self.SOURCE, sha256)
        if learn != "full":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(learn == "lora" and ADAPTER in name)
        self._prefix = ""
        self.register_load_state_dict_post_hook(_forgive_sourced)
        self.train()

    def train(self, mode: bool = True) -> Pretrained:
        """Sets the mode; a frozen model stays in evaluation."""
        super().train(mode and self.learn != "frozen")
        return self

    def gradients(self) -> contextlib.AbstractContextManager[Any]:
        """Returns a context in which a frozen model records nothing for gradients."""
        return torch.no_grad() if self.learn == "frozen" else contextlib.nullcontext()

    def state_dict(
        self, *args: Any, destination: Any = None, prefix: str = "", **kwargs: Any
    ) -> Any:
        """Returns what can't be loaded from the model's source."""
        state = super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)
        for name in [name for name in state if self.at_source(name, prefix)]:
            del state[name]
        return state

    def at_source(self, name: str, prefix: str) -> bool:
        """Returns whether a tensor of a state can be loaded from the source of this model."""
        return self.sourced and name.startswith(prefix + self.MODEL) and ADAPTER not in name

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._prefix = prefix
        given = state_dict.get(prefix + self.SOURCE)
        if self.sourced and given is not None:
            theirs, ours = (bytes(x.tolist()).hex() for x in (given, self.source))
            if theirs != ours:
                raise CheckpointError(
                    f"this policy was trained on pretrained weights of sha256 {theirs}, and "
                    f"encoder.weights has those of sha256 {ours}: set encoder.weights (and "
                    "encoder.revision) to the weights it was trained on"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


def _forgive_sourced(module: nn.Module, incompatible: Any) -> None:
    """Takes tensors that `Pretrained` does not save off the list of missing ones."""
    assert isinstance(module, Pretrained)
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not module.at_source(name, module._prefix)]


def add_adapters(
    model: nn.Module, suffixes: Sequence[str], rank: int, alpha: float, dropout: float
) -> None:
    """Adds low-rank adapters in place to the layers whose names end so.

    Their weights are float32 whatever the model's are: bfloat16 would lose small updates.

    Source: LoRA (arXiv 2106.09685).

    Raises:
      MissingExtra: If peft is not installed.
    """
    with named_extras():
        from peft import LoraConfig, inject_adapter_in_model
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(suffixes), bias="none"
    )
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if ADAPTER in name:
            parameter.data = parameter.data.float()


def checkpoint_activations(model: nn.Module) -> None:
    """Lets each layer of a model, or of its parts, be computed again in the backward pass."""
    from transformers import PreTrainedModel

    parts = [model] if isinstance(model, PreTrainedModel) else list(model.children())
    for part in parts:
        if isinstance(part, PreTrainedModel):
            part.activation_checkpointing_enable({"use_reentrant": False})
