"""A policy in training, with everything that a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embodied.core.errors import CheckpointError, ConfigError
from embodied.core.policy import Policy
from embodied.train import checkpoint
from embodied.train.config import TrainConfig
from embodied.train.optim import (
    Ema,
    learning_rate,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)

_NEEDED = {"weights", "optimizer", "random", "log"}


class Learner:
    """Weights, optimiser, averaged weights, random numbers, and metrics since the last log row.

    Args:
      policy: On its device.
      config: The run.
      device: Where the policy is.

    Attributes:
      noise: Draws what training draws, on the device.
    """

    def __init__(self, policy: Policy, config: TrainConfig, device: torch.device) -> None:
        self.policy, self.config, self.device = policy, config, device
        self.optimizer = make_optimizer(policy, config.optim)
        self.noise = torch.Generator(device=device).manual_seed(config.seed)
        self.ema = Ema(policy, config.optim.ema)
        self._log: dict[str, Tensor] = {}

    def initialise(self, source: str) -> list[str]:
        """Starts from the weights of a run, checkpoint or claim; returns what was taken."""
        taken = checkpoint.initialise_from(self.policy, source)
        self.ema = Ema(self.policy, self.config.optim.ema)
        return taken

    def rate(self, step: int) -> float:
        """Sets and returns the learning rate of a step."""
        rate = learning_rate(self.config.optim, step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def update(self, loss: Tensor) -> Tensor:
        """Makes one step of the optimiser; returns the norm of the gradient."""
        loss.backward()
        norm: Tensor = torch.nn.utils.clip_grad_norm_(
            self.policy.parameters(), self.config.optim.clip_norm
        )
        self.optimizer.step()
        # Now, so that the next forward pass has their memory.
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def note(self, metrics: Mapping[str, Tensor]) -> None:
        """Keeps scalars for the next log row, without waiting for the device."""
        for name, value in metrics.items():
            past = self._log.get(name, value.new_zeros(0))
            self._log[name] = torch.cat([past, value.detach()[None]])

    def averages(self, done: int) -> dict[str, float]:
        """Returns the means since the last call; waits for the device.

        Raises:
          ConfigError: If one of them is not finite.
        """
        values = {name: float(past.mean()) for name, past in self._log.items()}
        self._log = {}
        if not all(map(math.isfinite, values.values())):
            raise ConfigError(f"loss is not finite at step {done} ({values}); lower optim.lr")
        return values

    def save(
        self,
        run: Path,
        step: int,
        meta: checkpoint.PolicyMeta,
        more: Mapping[str, dict[str, Tensor]],
        info: Mapping[str, Any],
    ) -> Path:
        """Writes a checkpoint.

        Args:
          run: Run directory.
          step: Updates done.
          meta: Content of ``policy.json``.
          more: File stem -> tensors that the trainer needs beside the learner's.
          info: Plain data that it needs.

        Raises:
          ConfigError: If a weight is not finite; earlier checkpoints stay.
        """
        weights = checkpoint.on_host(self.policy.state_dict())
        wrong = checkpoint.check_weights(weights, weights)
        if wrong:
            raise ConfigError(
                f"weights are not finite after step {step} ({wrong[0]}), so no checkpoint was "
                "written; lower optim.lr"
            )
        random = {
            "noise": self.noise.get_state().clone(),
            "global": torch.get_rng_state().clone(),
        }
        if self.device.type == "cuda":  # dropout draws there
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        tensors = {
            "weights": weights,
            "optimizer": optimizer_tensors(self.optimizer),
            "log": self._log,
            "random": random,
            **more,
        }
        averaged = self.ema.of(self.policy)
        return checkpoint.write_checkpoint(run, step, meta, averaged, tensors, dict(info))

    def restore(self, directory: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """Carries on from a checkpoint; returns the trainer's own plain data and tensors.

        Raises:
          CheckpointError: If something is missing, broken, or of another policy.
        """
        checkpoint.refuse_version(checkpoint.read_meta(directory), self.policy.version)
        info, tensors = checkpoint.read_train_state(directory)
        place = directory / checkpoint.TRAIN_STATE
        missing = _NEEDED - tensors.keys()
        if missing:
            raise CheckpointError(
                f"{place} lacks {', '.join(sorted(missing))}.safetensors; remove {directory}, so "
                "that the run carries on from the checkpoint before it"
            )
        own = self.policy.state_dict()
        checkpoint.refuse_weights(tensors["weights"], own, place / "weights.safetensors")
        averaged = checkpoint.read_weights(directory / checkpoint.MODEL_FILE)
        checkpoint.refuse_weights(averaged, own, directory / checkpoint.MODEL_FILE)
        self.policy.load_state_dict(tensors["weights"])
        if self.ema.decay:
            self.ema.weights = self._here(averaged)
        restore_optimizer(self.optimizer, tensors["optimizer"])
        self.noise.set_state(tensors["random"]["noise"])
        torch.set_rng_state(tensors["random"]["global"])
        if self.device.type == "cuda" and "cuda" in tensors["random"]:  # not if begun on a CPU
            torch.cuda.set_rng_state(tensors["random"]["cuda"], self.device)
        self._log = self._here(tensors["log"])
        return info, {stem: found for stem, found in tensors.items() if stem not in _NEEDED}

    def _here(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}
