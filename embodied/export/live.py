"""A checkpoint behind the methods of a runtime, so that a server takes either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from embodied.core.types import Working
from embodied.train.checkpoint import LoadedPolicy

Arrays = dict[str, np.ndarray]


class LiveEngine:
    """Runs the policy itself; any number of rows.

    Args:
      loaded: The policy.
    """

    def __init__(self, loaded: LoadedPolicy) -> None:
        self.policy = loaded.policy.eval()
        self.spec = self.policy.spec
        weight = next(self.policy.parameters(), torch.empty(0))
        self._device = weight.device

    @torch.inference_mode()
    def check(self, obs: Mapping[str, np.ndarray], source: str) -> None:
        """Raises SpecMismatch for observations [B, ...] that the policy can't begin with."""
        # Copies: arrays of a message are read-only, which tensors can't be.
        own = {key: np.array(value) for key, value in obs.items()}
        self.policy.check(self._tensors(own), source)

    def initial(self, batch: int) -> Arrays:
        """Returns empty memory of `batch` rows."""
        return self._arrays(self.policy.initial_state(batch))

    @torch.inference_mode()
    def tick(
        self, obs: Mapping[str, np.ndarray], time_s: Any, state: Mapping[str, Any], reset: Any
    ) -> tuple[Arrays, Arrays]:
        """See `embodied.serve.runtime.Runtime.tick`."""
        working, after = self.policy.observe(
            self._tensors(obs),
            self._tensor(np.asarray(time_s, np.float32)),
            self._tensors(state),
            self._tensor(np.asarray(reset, bool)),
        )
        return self._arrays(working.features), self._arrays(after)

    @torch.inference_mode()
    def answer(self, work: Mapping[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
        """See `embodied.serve.runtime.Runtime.answer`."""
        action = self.policy.act(Working(self._tensors(work)), self._tensor(noise))
        chunk: np.ndarray = action.chunk.float().cpu().numpy()
        return chunk

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        return {name: self._tensor(array) for name, array in arrays.items()}

    def _arrays(self, tensors: Mapping[str, torch.Tensor]) -> Arrays:
        return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
