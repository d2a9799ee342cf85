"""Where the weights of pretrained models come from.

They are read from safetensors alone, and no code that comes with them is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from embodied.core.errors import CheckpointError, ConfigError, DataError, unknown_name
from embodied.core.files import read_json
from embodied.extras import named_extras

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt")
"""What is fetched of a repository: no pickled weights and no code."""
READ = ("config.json", "*.safetensors*", "tokenizer*", "vocab*", "merges.txt", "*_tokens*.json")
"""What an encoder's outputs depend on; the rest of a folder is about other uses."""
WHOLE_BYTES = 200 * 2**20
SAMPLES, SAMPLE_BYTES = 256, 2**16
"""Of a file above WHOLE_BYTES the header and this many evenly spread samples are hashed."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def how_to_fetch(example: str) -> str:
    """Returns what to type for weights that are not here."""
    return (
        "Fetch it with: hf download ID --revision SHA --local-dir DIR (ID for example "
        f"{example}, SHA the commit's 40 hex digits); then set policy.config.encoder.weights=DIR"
    )


def find_weights(weights: str, revision: str, example: str) -> Path:
    """Returns the folder of a model: a local one, or that of a commit of the hub.

    Args:
      weights: Path of a folder, or ``owner/name`` on the hub.
      revision: The commit of a hub's repository; empty for a folder.
      example: A repository to name in messages.

    Raises:
      MissingExtra: If a hub's repository is asked for and transformers is not installed.
      ConfigError: For a hub id without a commit, or a folder with one.
      CheckpointError: If there is no such folder, or the repository can't be had.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        if revision:
            raise ConfigError(
                f"encoder.revision={revision} is for ids of the hub, and encoder.weights="
                f"{weights} is a folder: leave encoder.revision empty"
            )
        return folder
    if not HUB_ID.fullmatch(weights):
        raise CheckpointError(
            f"encoder.weights={weights}: there is no such folder. {how_to_fetch(example)}"
        )
    if not COMMIT.fullmatch(revision):
        raise ConfigError(
            f"encoder.weights={weights} is no folder here, and as an id of the hub it needs "
            f"encoder.revision, the 40 hex digits of a commit; got {revision!r}. "
            f"{how_to_fetch(weights)}"
        )
    with named_extras():
        import transformers  # noqa: F401 - brings the hub's client, so it is the one to name
        from huggingface_hub import snapshot_download
    try:
        return Path(snapshot_download(weights, revision=revision, allow_patterns=list(FETCHED)))
    # The client's errors come from four unrelated families: HTTP, files, values, its own.
    except Exception as error:
        raise CheckpointError(
            f"encoder.weights={weights} at encoder.revision={revision} is neither in the hub's "
            f"cache nor to be had from the hub ({type(error).__name__}: {error}). "
            f"{how_to_fetch(weights)} and leave encoder.revision empty"
        ) from error


def read_model_type(folder: Path, known: Sequence[str], encoder: str) -> dict[str, Any]:
    """Returns a folder's config.json after a look at what kind of model it is.

    Raises:
      CheckpointError: If it can't be read, or is not of one of the types `known`, or there are
        no safetensors.
    """
    try:
        config = read_json(folder / "config.json")
    except DataError as error:
        raise CheckpointError(f"encoder.weights={folder} holds no model: {error}") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in known:
        raise CheckpointError(
            f"{folder / 'config.json'}: expected model_type {' or '.join(known)} for the encoder "
            f"{encoder}, found {found!r}. Set encoder.weights to another folder, or take the "
            "encoder of that model"
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"encoder.weights={folder} holds no *.safetensors, found: "
            f"{', '.join(sorted(p.name for p in folder.iterdir()))}. Pickled weights are never "
            "opened; take a repository that has safetensors"
        )
    return config


def load_config(folder: Path) -> Any:
    """Returns the configuration that a folder's config.json describes.

    Raises:
      MissingExtra: If transformers is not installed.
      CheckpointError: If its values can't be used.
    """
    with named_extras():
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, OSError, ValueError, TypeError, KeyError) as error:
        kind = read_json(folder / "config.json")["model_type"]
        raise CheckpointError(
            f"{folder / 'config.json'} doesn't describe a {kind} that transformers knows: {error}"
        ) from error


def fingerprint(folder: Path) -> str:
    """Returns the sha256 over the files that an encoder's outputs depend on, as hex digits.

    Large files are sampled: their headers alone are equal in all fine-tunings of a model.
    """
    digest = hashlib.sha256()
    found = {path for pattern in READ for path in folder.glob(pattern)}
    for path in sorted(path for path in found if any(path.match(kind) for kind in FETCHED)):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            header = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(header, WHOLE_BYTES)))
            for index in range(SAMPLES):
                file.seek((size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def random_config(model_type: str, overrides: dict[str, Any]) -> Any:
    """Returns the configuration of a model type with some values replaced.

    Raises:
      MissingExtra: If transformers is not installed.
      ConfigError: For an unknown key or a value of the wrong type.
    """
    with named_extras():
        from huggingface_hub.errors import StrictDataclassError
        from transformers import AutoConfig
    defaults = AutoConfig.for_model(model_type).to_dict()
    try:
        for key, value in overrides.items():
            _refuse_unknown(f"key of encoder.model ({model_type})", key, defaults)
            if isinstance(value, dict) and "model_type" not in value:
                for name in value:
                    _refuse_unknown(f"key of encoder.model.{key}", name, defaults[key])
        return AutoConfig.for_model(model_type, **overrides)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"encoder.model doesn't make a {model_type}: {error}") from error


def _refuse_unknown(kind: str, key: str, known: dict[str, Any]) -> None:
    if key not in known:
        raise unknown_name(kind, key, [name for name in known if not name.startswith("_")])


def attention(config: Any) -> str | dict[str, str]:
    """Returns how a model attends: fused where it can, never what a config.json names."""
    text = config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None) is None:
        return "sdpa"
    # Gemma 2 squashes its scores, which fused attention can't.
    return {"": "sdpa", "vision_config": "sdpa", "text_config": "eager"}


def random_model(config: Any, dtype: str) -> Any:
    """Returns the bare model of a configuration, without a head, with random weights.

    Raises:
      ConfigError: If the configuration's values don't go together.
    """
    from transformers import AutoModel

    try:
        return AutoModel.from_config(
            config, dtype=DTYPES[dtype], attn_implementation=attention(config)
        )
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise ConfigError(f"encoder.model doesn't make a model: {error}") from error


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Leaves the weights of models of transformers unset, since they are about to be loaded."""
    from transformers.initialization import no_init_weights

    with no_init_weights():
        yield


def load_model(folder: Path, config: Any, dtype: str) -> Any:
    """Returns the bare model of a folder, without a head.

    Raises:
      CheckpointError: If the weights can't be read, are of other shapes, or some are missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel

    try:
        with _quiet():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=attention(config),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"encoder.weights={folder} can't be loaded: {error}") from error
    if report["missing_keys"]:
        # transformers fills them with random numbers and warns; that would look like a model.
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"encoder.weights={folder} lacks {len(missing)} tensors of a {config.model_type}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}. Fetch it again, whole"
        )
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from reporting the head that is left out as unexpected."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
