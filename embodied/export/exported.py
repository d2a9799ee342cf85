"""A bundle under the policy contract, so that it is evaluated and played as a checkpoint is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from embodied.core.errors import CheckpointError, ConfigError
from embodied.core.policy import Policy
from embodied.core.specs import check_values
from embodied.core.types import Action, Observation, State, Working
from embodied.serve.bundle import MANIFEST, WORK, Bundle, read_bundle
from embodied.serve.runtime import Runtime
from embodied.train import checkpoint
from embodied.train.checkpoint import LoadedPolicy, PolicyMeta


class ExportedPolicy(Policy):
    """Runs a bundle's graphs; nothing of the policy's own code takes part.

    Args:
      bundle: What `read_bundle` gave.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.bundle, self.spec, self.act_steps = bundle, bundle.spec, bundle.act_steps
        self._runtimes: dict[int, Runtime] = {}

    def initial_state(self, batch: int, capacity: int | None = None) -> State:
        if capacity is not None:
            raise ConfigError(
                f"capacity={capacity}: a bundle's memory has the size it was exported with; "
                "evaluate the checkpoint instead"
            )
        initial = self._runtime(batch).initial(batch)
        return {name: torch.from_numpy(array) for name, array in initial.items()}

    def observe(
        self, obs: Observation, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Working, State]:
        work, after = self._runtime(len(reset)).tick(
            {key: _array(value) for key, value in obs.items()},
            _array(time_s),
            {name: _array(value) for name, value in state.items()},
            _array(reset),
        )
        features = {name.removeprefix(WORK): torch.from_numpy(a) for name, a in work.items()}
        return Working(features), {name: torch.from_numpy(a) for name, a in after.items()}

    def act(self, working: Working, noise: Tensor) -> Action:
        work = {WORK + name: _array(value) for name, value in working.features.items()}
        chunk = self._runtime(len(noise)).answer(work, _array(noise))
        return Action(torch.from_numpy(chunk))

    def check(self, obs: Observation, source: str) -> None:
        arrays = {key: _array(value) for key, value in obs.items()}
        check_values(self.spec.observations, arrays, source)

    def parameter_count(self) -> int:
        return int(self.bundle.manifest.get("parameters", 0))

    def _runtime(self, batch: int) -> Runtime:
        if batch not in self._runtimes:
            threads = torch.get_num_threads()
            self._runtimes[batch] = Runtime(self.bundle, batch, threads)
        return self._runtimes[batch]


def load(path: str | Path, device: str = "cpu") -> LoadedPolicy:
    """Loads a run, a checkpoint, a claim or a bundle.

    Args:
      path: Where it is, or a claim's id.
      device: Where the policy shall live; a bundle runs on the CPU alone.

    Raises:
      CheckpointError: For anything but a complete, matching checkpoint or bundle.
    """
    path = Path(path)
    if not (path / MANIFEST).exists():
        return checkpoint.load(path, device)
    if device != "cpu":
        raise ConfigError(f"device={device}: bundles run on the CPU; leave it out")
    bundle = read_bundle(path)
    try:
        meta = PolicyMeta(**bundle.checkpoint)
    except TypeError as error:
        raise CheckpointError(
            f"{path / MANIFEST}: 'checkpoint' is no description of a policy ({error}); export again"
        ) from error
    return LoadedPolicy(ExportedPolicy(bundle).eval(), meta, path)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array
