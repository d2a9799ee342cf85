"""Writes a bundle: graphs, manifest, golden sequence, and the proof that they agree."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from embodied import __version__
from embodied.config import to_plain
from embodied.core.errors import ConfigError, DataError, MissingExtra, unknown_name
from embodied.core.files import sha256, write_atomic, write_json
from embodied.core.policy import Policy
from embodied.core.prompt import PROMPT_LENGTH, PROMPT_TOKENS
from embodied.core.specs import DISCRETE, EE_DELTA_CHUNK, KEYFRAME
from embodied.core.text import INSTRUCTION
from embodied.evaluate.executors import ExecutorConfig, resolved
from embodied.export import onnx, parity, pt2
from embodied.export.program import in_float32, trace
from embodied.serve.bundle import (
    FORMATS,
    GOLDEN,
    INITIAL,
    MANIFEST,
    OBS,
    ONNX,
    PARITY,
    PT2,
    SCHEMA_VERSION,
    TOKENIZER,
    Graph,
    read_bundle,
)
from embodied.serve.runtime import Runtime
from embodied.serve.tokens import read_tokenizer
from embodied.train.checkpoint import LoadedPolicy, load

LAYOUT = {
    "_image_u8": "RGB, rows from the top, height x width x 3, uint8",
    "_depth_m": "along the camera's axis, metres, height x width",
    "_intrinsics": "camera matrix, pixels",
    "_cam_to_world": "pose of the camera in the world; x right, y down, z forward, metres",
    "_pos_world_m": "in the world, metres",
    "_quat_xyzw": "unit quaternion, scalar last",
    INSTRUCTION: "UTF-8, zeros behind the end",
}
"""Ending of an observation key -> how its numbers lie."""

ACTIONS = {
    EE_DELTA_CHUNK: "each action is of one control tick: displacement of the hand x, y, z (1 is "
    "5 cm) and rotation vector x, y, z (1 is 0.5 rad), both in world axes, then the gripper "
    "(-1 opens, +1 closes)",
    KEYFRAME: "where the hand goes next: position x, y, z in the world (metres), orientation as a "
    "quaternion x, y, z, w, gripper after arrival (-1 opens, +1 closes), 1 to go straight there",
    DISCRETE: "1 at the choice, 0 elsewhere",
}
"""Action kind -> what its numbers mean."""

PACKAGES = {ONNX: ("onnx", "onnxscript", "onnxruntime"), PT2: ()}
"""Format -> what writing and proving it needs beside torch."""
RUNTIMES: dict[str, type[Runtime]] = {ONNX: Runtime, PT2: pt2.WrittenPrograms}
"""Format -> what runs it for the proof."""


def export(
    source: str | Path,
    out: str | Path,
    batches: Sequence[int] = (1,),
    executor: ExecutorConfig | None = None,
    int8: bool = False,
    format: str = "onnx",
) -> Path:
    """Exports a policy.

    Args:
      source: Run, checkpoint or claim.
      out: Bundle directory to make.
      batches: Batch sizes to write graphs for; with 1 among them a runtime serves any batch.
      executor: How answers become control actions; by default as evaluated.
      int8: Stores weights in 8 bits. Such a bundle is another policy: how far it is off is told,
        and what it is worth, its evaluation tells.
      format: One of `FORMATS`.

    Returns:
      The bundle directory.

    Raises:
      ConfigError: If `out` exists, for a batch out of range or another format.
      CheckpointError: If the exported policy differs from the checkpoint.
    """
    out = Path(out)
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another out= or remove it")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise ConfigError(f"batches must be different sizes >= 1, got {list(batches)}")
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if int8 and PT2 in FORMATS[format]:
        raise ConfigError(
            f"int8=true stores the weights of ONNX graphs in 8 bits, and format={format} writes "
            ".pt2 programs too; use format=onnx"
        )
    for package in (p for kind in FORMATS[format] for p in PACKAGES[kind]):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise MissingExtra(package, "export") from None
    loaded = load(source)
    seen = parity.record(loaded)
    return write_bundle(loaded, seen, out, batches, executor, int8, format)


def write_bundle(
    loaded: LoadedPolicy,
    seen: list[dict[str, np.ndarray]],
    out: Path,
    batches: Sequence[int] = (1,),
    executor: ExecutorConfig | None = None,
    int8: bool = False,
    format: str = "onnx",
) -> Path:
    """Writes and proves a bundle of a loaded policy; see `export`.

    Args:
      loaded: The policy, on the CPU.
      seen: Observations [1, ...] of ticks, of which the golden sequence is made.
      out: Bundle directory to make.
      batches: Batch sizes.
      executor: How answers become control actions.
      int8: Stores weights in 8 bits.
      format: One of `FORMATS`.
    """
    policy = in_float32(loaded.policy.eval())
    prompt = policy.prompt()
    scratch = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        scratch.mkdir(parents=True)
        if prompt is not None:
            # First, since it may be refused, and graphs take minutes.
            write_atomic(scratch / TOKENIZER, prompt.tokenizer_json().encode())
        graphs = _write_graphs(policy, batches, scratch, int8, FORMATS[format])
        _save(scratch / INITIAL, {n: t.numpy() for n, t in policy.initial_state(1).items()})
        _save(scratch / GOLDEN, _golden(policy, seen, scratch))
        manifest = _manifest(loaded, graphs, executor or ExecutorConfig(), int8)
        # The proof reads the bundle as a controller will, so it needs a manifest of its own.
        _write_manifest(scratch, manifest)
        bundle, kind = read_bundle(scratch), policy.spec.action.kind
        report: dict[str, dict[str, Any]] = {name: {} for name in FORMATS[format]}
        for batch in batches:
            inputs = parity.sequence(policy.spec, seen, batch)
            expected = parity.golden(policy, inputs)
            for name, rows in report.items():
                found = parity.replay(RUNTIMES[name](bundle, batch), inputs)
                rows[str(batch)] = parity.compare(expected, found, kind, strict=not int8)
        write_json(scratch / PARITY, {"ticks": len(seen), "formats": report})
        _write_manifest(scratch, manifest)
        os.replace(scratch, out)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def _write_graphs(
    policy: Policy, batches: Sequence[int], directory: Path, int8: bool, formats: Sequence[str]
) -> dict[int, dict[str, Graph]]:
    """Writes ``observe-<batch>`` and ``act-<batch>`` in each format."""
    graphs: dict[int, dict[str, Graph]] = {batch: {} for batch in batches}
    for batch, parts in graphs.items():
        for part, program in trace(policy, batch).items():
            files = {name: f"{part}-{batch}.{name}" for name in formats}
            if PT2 in files:
                pt2.write(program, directory / files[PT2])
            if ONNX in files:
                onnx.write(program, directory / files[ONNX], {"act_steps": str(policy.act_steps)})
            if int8:
                onnx.quantize(directory / files[ONNX])
            parts[part] = program.graph(files)
    return graphs


def _golden(
    policy: Policy, seen: list[dict[str, np.ndarray]], directory: Path
) -> dict[str, np.ndarray]:
    """Returns what goes in at each tick of a sequence, and what the checkpoint answers."""
    inputs, prompt = parity.sequence(policy.spec, seen, 1), policy.prompt()
    fields = {OBS + key: value for key, value in inputs.obs.items()}
    if prompt is not None:
        # For controllers that can't tokenise, or compare their own tokenizer.
        read = read_tokenizer(directory / TOKENIZER, prompt.rule)
        tokens, length = read(inputs.obs[INSTRUCTION][:, 0])
        fields |= {OBS + PROMPT_TOKENS: tokens[:, None], OBS + PROMPT_LENGTH: length[:, None]}
    rest = {"time_s": inputs.time_s, "reset": inputs.reset, "noise": inputs.noise}
    return {**fields, **rest, **parity.golden(policy, inputs)}


def _manifest(
    loaded: LoadedPolicy,
    graphs: dict[int, dict[str, Graph]],
    executor: ExecutorConfig,
    int8: bool,
) -> dict[str, Any]:
    spec, meta, prompt = loaded.policy.spec, loaded.meta, loaded.policy.prompt()
    formats = {name for parts in graphs.values() for g in parts.values() for name in g.files}
    packages = ["numpy", "torch", *(p for name in sorted(formats) for p in PACKAGES[name])]
    packages += [] if prompt is None else ["tokenizers"]
    return {
        "schema_version": SCHEMA_VERSION,
        "package_version": __version__,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: metadata.version(name) for name in packages},
        "spec": spec.to_json(),
        "layout": {
            key: text
            for key in spec.observations
            for ending, text in LAYOUT.items()
            if key.endswith(ending)
        },
        "action_meaning": ACTIONS[spec.action.kind],
        "act_steps": loaded.policy.act_steps,
        "weights": "int8" if int8 else "float32",
        "parameters": loaded.policy.parameter_count(),
        "executor": to_plain(resolved(executor, spec)),
        "prompt": None if prompt is None else prompt.rule.to_json(),
        "graphs": {
            str(batch): {name: dataclasses.asdict(graph) for name, graph in parts.items()}
            for batch, parts in graphs.items()
        },
        "checkpoint": dataclasses.asdict(meta),
    }


def _write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    files = {
        file.name: {"sha256": sha256(file), "bytes": file.stat().st_size}
        for file in sorted(directory.iterdir())
        if file.name != MANIFEST
    }
    write_json(directory / MANIFEST, {**manifest, "files": files})


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    # Not compressed, so that a few lines of any language read it.
    np.savez(buffer, **arrays)
    write_atomic(file, buffer.getvalue())
