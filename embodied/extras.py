"""Which extra brings which package, so that a missing one is named with its pip line."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

from embodied.core.errors import MissingExtra

EXTRA_OF = {
    "torch": "learn",
    "safetensors": "learn",
    "hydra": "learn",
    "omegaconf": "learn",
    "yaml": "learn",
    "h5py": "learn",
    "tqdm": "learn",
    "PIL": "learn",
    "av": "learn",
    "tensorboard": "learn",
    "gymnasium": "sim",
    "mujoco": "sim",
    "robosuite": "sim",
    "transformers": "vlm",
    "peft": "vlm",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "serve",
    "tokenizers": "serve",
    "websockets": "serve",
}
"""Top-level module -> extra of ``pip install 'embodied-memory[EXTRA]'``."""


def importable(module: str) -> bool:
    """Returns whether a module is installed, without importing it (only its parents)."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@contextlib.contextmanager
def named_extras() -> Iterator[None]:
    """Turns the import error of an optional package into `MissingExtra`."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A package that is there but fails inside is a broken install, not a missing extra.
        if package not in EXTRA_OF or importable(package):
            raise
        raise MissingExtra(package, EXTRA_OF[package]) from error
