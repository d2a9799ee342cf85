"""Bundles: a directory with graphs, a manifest that describes them, and nothing that is code.

``manifest.json`` names every file with its hash, so a changed byte anywhere is found before
anything is loaded.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from embodied.core.errors import CheckpointError
from embodied.core.files import sha256
from embodied.core.prompt import PromptRule
from embodied.core.specs import ArraySpec, PolicySpec

SCHEMA_VERSION = 1
MANIFEST, INITIAL, GOLDEN, PARITY = "manifest.json", "initial.npz", "golden.npz", "parity.json"
TOKENIZER = "tokenizer.json"
"""The tokenizer of a policy that reads tokens: data of the `tokenizers` library."""
OBS, STATE, NEXT, WORK = "obs.", "state.", "next.", "work."
"""Beginnings of the names of a graph's inputs and outputs: observation keys, memory before and
after a tick, and what observing hands to acting."""
TIME, RESET, CARRIED, STEP, CARRY, CHUNK = "time_s", "reset", "carried", "step", "carry", "chunk"
ONNX, PT2 = "onnx", "pt2"
"""Formats of a graph. ONNX is data. A .pt2 archive is unpickled by who loads it, so nothing here
ever loads one; it is for controllers that embed torch."""
FORMATS = {"onnx": (ONNX,), "pt2": (PT2,), "both": (ONNX, PT2)}
"""What ``format=`` may say -> what is written."""

_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""What numpy and zipfile raise for a file that is damaged or of another kind."""

_REQUIRED = ("schema_version", "spec", "graphs", "files", "act_steps", "executor", "checkpoint")


@dataclasses.dataclass(frozen=True)
class Graph:
    """One graph for one batch size.

    Attributes:
      files: Format -> path inside the bundle.
      inputs: Name -> shape and dtype, the batch axis included, in the order of a program's
        flattened arguments. An ONNX graph has those of them that it needs.
      outputs: The same of what comes out, in order.
    """

    files: dict[str, str]
    inputs: dict[str, ArraySpec]
    outputs: dict[str, ArraySpec]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and unchanged.

    Attributes:
      path: Its directory.
      spec: What the policy reads, remembers and answers.
      graphs: Batch size -> ``"observe"`` and ``"act"``.
      act_steps: How often the act graph runs for one answer.
      executor: Options of the executor that turns answers into control actions.
      checkpoint: What was exported: policy, configuration, training, tasks, environment.
      prompt: How the instruction becomes the tokens that the graphs read; None where they read
        the instruction itself.
      manifest: All of ``manifest.json``.
    """

    path: Path
    spec: PolicySpec
    graphs: dict[int, dict[str, Graph]]
    act_steps: int
    executor: dict[str, Any]
    checkpoint: dict[str, Any]
    prompt: PromptRule | None
    manifest: dict[str, Any]

    def graph_observations(self) -> dict[str, ArraySpec]:
        """Returns what the graphs read of an observation: key -> shape without the batch axis."""
        seen = self.spec.observations
        return seen if self.prompt is None else self.prompt.inputs(seen)

    def initial(self) -> dict[str, np.ndarray]:
        """Returns empty memory of one row: state name -> [1, ...]."""
        return read_arrays(self.path / INITIAL)


def read_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Reads a bundle's manifest and checks its files.

    Args:
      path: Bundle directory.
      verify: Compare the hash of every file; False looks at names and sizes alone.

    Raises:
      CheckpointError: For anything but a complete, unchanged bundle of this schema; it names
        the file and what to do.
    """
    path = Path(path)
    manifest = _manifest(path)
    try:
        check_files(path, manifest["files"], verify)
        spec = PolicySpec.from_json(manifest["spec"])
        graphs = {
            int(batch): {name: _graph(entry) for name, entry in parts.items()}
            for batch, parts in manifest["graphs"].items()
        }
        bundle = Bundle(
            path,
            spec,
            graphs,
            int(manifest["act_steps"]),
            dict(manifest["executor"]),
            dict(manifest["checkpoint"]),
            None if manifest.get("prompt") is None else PromptRule.from_json(manifest["prompt"]),
            manifest,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path / MANIFEST} does not describe a policy ({error!r}); it was edited: export again"
        ) from error
    if bundle.prompt is not None and TOKENIZER not in manifest["files"]:
        raise CheckpointError(
            f"{path / MANIFEST}: 'prompt' asks for {TOKENIZER}, which has no hash; export again"
        )
    _check_graphs(bundle)
    return bundle


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(
            f"no bundle at {path}: expected {MANIFEST} in it. Make one with: embodied export RUN"
        )
    try:
        manifest = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be read as JSON: {error}; copy the bundle again, or export again"
        ) from error
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise CheckpointError(f"{file} is no manifest: it has no schema_version; export again")
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise CheckpointError(
            f"{file}: schema version {manifest['schema_version']!r}, and this package reads "
            f"{SCHEMA_VERSION}; export again with this package, or install the one that wrote it "
            f"({manifest.get('package_version', 'unknown')})"
        )
    missing = [name for name in _REQUIRED if name not in manifest]
    if missing:
        raise CheckpointError(f"{file} lacks {', '.join(missing)}; it was edited: export again")
    return manifest


def check_files(path: Path, files: Mapping[str, Any], verify: bool = True) -> None:
    """Refuses a bundle with a missing, changed, additional or escaping file.

    Raises:
      CheckpointError: Naming the file.
    """
    for name, entry in files.items():
        pure = PurePosixPath(name)
        if (
            pure.is_absolute()
            or ".." in pure.parts
            or "\\" in name
            or not re.fullmatch(r"[\w.\-/]+", name)
        ):
            raise CheckpointError(
                f"{path / MANIFEST} names {name!r}, which is no plain path inside the bundle; "
                "this bundle is not to be trusted"
            )
        file = path / name
        # Where the bundle lies may be reached through links; what lies in it may not.
        if any((path / part).is_symlink() for part in (pure, *pure.parents[:-1])):
            raise CheckpointError(f"{file} is a link; a bundle holds its files itself")
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; copy the bundle again, or export again")
        if file.stat().st_size != entry["bytes"] or (verify and sha256(file) != entry["sha256"]):
            raise CheckpointError(
                f"{file} is not the file that was exported (its hash or size differs); copy the "
                "bundle again, or export again"
            )
    there = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() or p.is_symlink()}
    strangers = sorted(there - files.keys() - {MANIFEST})
    if strangers:
        raise CheckpointError(
            f"{path} holds {', '.join(strangers[:3])}, which its manifest does not name; remove "
            "what does not belong there"
        )


def _graph(entry: Mapping[str, Any]) -> Graph:
    sides = (
        {name: ArraySpec(**spec) for name, spec in entry[side].items()}
        for side in ("inputs", "outputs")
    )
    files = {str(kind): str(file) for kind, file in entry["files"].items()}
    return Graph(files, *sides)


def _check_graphs(bundle: Bundle) -> None:
    """Refuses graphs that lack a file, a half of a state pair, an observation or an answer."""
    for batch, parts in bundle.graphs.items():
        if parts.keys() != {"observe", "act"}:
            raise CheckpointError(
                f"{bundle.path / MANIFEST}: batch {batch} needs the graphs observe and act, got "
                f"{', '.join(sorted(parts))}; export again"
            )
        observe, act = parts["observe"], parts["act"]
        named = {file for graph in parts.values() for file in graph.files.values()}
        if strange := sorted(named - bundle.manifest["files"].keys()):
            raise CheckpointError(
                f"{bundle.path / MANIFEST}: {', '.join(strange)} of a graph has no hash; export "
                "again"
            )
        needed = {TIME, RESET, *(OBS + key for key in bundle.graph_observations())}
        needed |= {STATE + name for name in bundle.spec.state}
        made = {NEXT + name for name in bundle.spec.state}
        work = {name for name in observe.outputs if name.startswith(WORK)}
        for what, names, there in (
            ("inputs of observe", needed, observe.inputs.keys()),
            ("outputs of observe", made, observe.outputs.keys()),
            ("inputs of act", work | {CARRIED, STEP}, act.inputs.keys()),
            ("outputs of act", {CARRY, CHUNK}, act.outputs.keys()),
        ):
            missing = sorted(names - there)
            if missing:
                raise CheckpointError(
                    f"{bundle.path / MANIFEST}: the {what} lack {', '.join(missing)} (a state has "
                    "to go in and to come out); export again"
                )


def read_arrays(file: Path, advice: str = "export again") -> dict[str, np.ndarray]:
    """Reads an ``.npz`` of plain arrays.

    Args:
      file: Its path.
      advice: What to do about a file that can't be read, for the message.

    Raises:
      CheckpointError: For anything else, object arrays among them.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _UNREADABLE as error:
        raise CheckpointError(f"{file} holds no plain arrays: {error}; {advice}") from error
