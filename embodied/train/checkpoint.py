"""Checkpoints: ``policy.json`` + ``model.safetensors`` is the whole contract.

A checkpoint directory is written under a temporary name and renamed when complete, so that
one that exists is whole. ``train_state/`` beside it serves resuming only. No pickle.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from embodied.claims.index import CHECKPOINT, claim_checkpoint, read_index
from embodied.core.errors import CheckpointError
from embodied.core.policy import Policy
from embodied.core.specs import Interface
from embodied.device import torch_device

FORMAT_VERSION = 1
POLICY_FILE, MODEL_FILE, TRAIN_STATE = "policy.json", "model.safetensors", "train_state"


@dataclasses.dataclass
class PolicyMeta:
    """What ``policy.json`` holds beside the weights.

    Attributes:
      policy: Name in the policy table.
      policy_version: `Policy.version` of the code that the weights are of.
      config: The policy's configuration as plain data.
      interface: What the policy was built for.
      tasks: Task names it was trained on.
      level: Level it was trained on; of the first task, where they differ.
      env: The environment configuration of its data as plain data.
      train: How it was trained: training seed, steps, options; ``data_seeds``, the range that
        encloses the seeds of all data, that of the run it started from too; ``data_sha256``, the
        content of each dataset.
      package_version: Version that wrote it.
      format_version: Version of this file format.
      levels: Level of each task, where they differ; else empty.
    """

    policy: str
    policy_version: int
    config: dict[str, Any]
    interface: dict[str, Any]
    tasks: list[str]
    level: str
    env: dict[str, Any]
    train: dict[str, Any]
    package_version: str
    format_version: int = FORMAT_VERSION
    levels: list[str] = dataclasses.field(default_factory=list)

    def trained_on(self) -> list[tuple[str, str]]:
        """Returns the tasks with their levels, without repeats."""
        levels = self.levels or [self.level] * len(self.tasks)
        return list(dict.fromkeys(zip(self.tasks, levels, strict=True)))


@dataclasses.dataclass
class LoadedPolicy:
    """A policy ready to act, with its description and where it came from."""

    policy: Policy
    meta: PolicyMeta
    path: Path


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns contiguous copies in the host's memory.

    They are made one after another: a device that is nearly full has no room for a second copy.
    """
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}


def write_policy(directory: Path, meta: PolicyMeta, weights: dict[str, Tensor]) -> None:
    """Writes the two files of the contract into an existing directory."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(on_host(weights), directory / MODEL_FILE)
    (directory / POLICY_FILE).write_text(json.dumps(dataclasses.asdict(meta), indent=1) + "\n")


def write_checkpoint(
    run: Path,
    step: int,
    meta: PolicyMeta,
    weights: dict[str, Tensor],
    train_tensors: dict[str, dict[str, Tensor]],
    train_info: dict[str, Any],
    keep: int = 2,
) -> Path:
    """Writes ``checkpoints/<step>`` atomically and removes old train states.

    Args:
      run: Run directory.
      step: Updates done.
      meta: Content of ``policy.json``.
      weights: Weights to deploy (averaged, where averaging is on).
      train_tensors: File stem -> tensors needed to resume.
      train_info: Plain data needed to resume.
      keep: Newest checkpoints that stay; older ones are deleted.
    """
    parent = run / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(".writing-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary, final = parent / f".writing-{step:08d}", parent / f"{step:08d}"
    try:
        write_policy(temporary, meta, weights)
        state = temporary / TRAIN_STATE
        state.mkdir()
        for stem, tensors in train_tensors.items():
            save_file(tensors, state / f"{stem}.safetensors")
        (state / "state.json").write_text(json.dumps({"step": step, **train_info}) + "\n")
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        if final.exists():
            shutil.rmtree(final)
        os.replace(temporary, final)
    except (OSError, SafetensorError) as error:  # safetensors has its own class for a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"cannot write {final}: {error}; earlier checkpoints are intact. Free some space, "
            f"then carry on with: embodied train --resume out={run}"
        ) from error
    for old in checkpoints(run)[:-keep]:
        # Renamed first: a kill amid the deletion must not leave half a checkpoint by its name.
        gone = parent / f".writing-{old.name}-old"
        os.replace(old, gone)
        shutil.rmtree(gone)
    return final


def checkpoints(run: Path) -> list[Path]:
    """Returns the complete checkpoint directories of a run, oldest first."""
    found = (run / "checkpoints").glob("*")
    return sorted(p for p in found if re.fullmatch(r"\d{8}", p.name) and (p / POLICY_FILE).exists())


def resolve(path: str | Path) -> Path:
    """Finds the checkpoint directory behind a run, a checkpoint, or a claim's id."""
    path = Path(path)
    for directory in (path, path / CHECKPOINT):  # the second is a claim's
        if (directory / POLICY_FILE).exists():
            return directory
    found = checkpoints(path)
    if found:
        return found[-1]
    if not path.exists() and any(row["id"] == str(path) for row in read_index()):
        return claim_checkpoint(str(path))
    if (path / "config.yaml").exists():
        raise CheckpointError(
            f"{path} is a run without a checkpoint yet; carry it on with: "
            f"embodied train --resume out={path}"
        )
    claims = [row["id"] for row in read_index()]
    near = difflib.get_close_matches(str(path), claims, n=1, cutoff=0.8)
    meant = f"; did you mean the claim {near[0]!r}?" if near else "."
    raise CheckpointError(
        f"no checkpoint at {path}: expected {POLICY_FILE} in it, a run directory with "
        f"checkpoints/<step>/, or a claim of `embodied list claims`{meant} Train one with: "
        "embodied train task=remember_color"
    )


def read_meta(directory: Path) -> PolicyMeta:
    """Reads and checks ``policy.json``.

    Raises:
      CheckpointError: If it is not valid JSON, lacks a field, or is of a future version.
    """
    file = directory / POLICY_FILE
    try:
        data = json.loads(file.read_text())
        version = data["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"{file}: format version {version} is newer than {FORMAT_VERSION}, which this "
                "package reads; upgrade embodied-memory"
            )
        # Files from before this field are of a policy's first version.
        return PolicyMeta(**{"policy_version": 1, **data})
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is not a valid policy description: {error}") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Reads a safetensors file; names what is wrong with one that is not."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing; the checkpoint is incomplete") from None
    except (SafetensorError, OSError) as error:
        with file.open("rb") as start:  # of what may be larger than memory
            head = start.read(2)
        kind = (
            "a pickle or zip archive, which is never loaded"
            if head == b"PK" or head[:1] == b"\x80"
            else "not safetensors"
        )
        raise CheckpointError(
            f"{file} is {kind} ({error}); expected a safetensors file written by this package"
        ) from error


def refuse_weights(
    weights: dict[str, Tensor], expected: dict[str, Tensor], source: Path, shown: int = 4
) -> None:
    """Raises CheckpointError, naming the tensors, unless the weights are those expected."""
    problems = check_weights(weights, expected)
    if problems:
        more = f"; and {len(problems) - shown} more" if len(problems) > shown else ""
        raise CheckpointError(
            f"{source} does not hold the network of its {POLICY_FILE}: "
            f"{'; '.join(problems[:shown])}{more}. It was edited or written by another version: "
            "use the original files, or train again"
        )


def check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Returns a phrase for each missing, extra, misshapen or non-finite tensor."""
    problems = [f"missing {name}" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"unexpected {name}" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        found, want = tuple(weights[name].shape), tuple(expected[name].shape)
        if found != want:
            problems.append(f"{name}: shape {list(found)}, expected {list(want)}")
        elif weights[name].is_floating_point() and not bool(weights[name].isfinite().all()):
            problems.append(f"{name}: holds NaN or infinity")
    return problems


def refuse_version(meta: PolicyMeta, version: int) -> None:
    """Raises CheckpointError unless the checkpoint is of this version of its policy."""
    if meta.policy_version != version:
        raise CheckpointError(
            f"{POLICY_FILE}: written by version {meta.policy_version} of {meta.policy} (package "
            f"{meta.package_version}); here it is of version {version}, in which the same "
            "weights would act in another way. Use the package that wrote it, or train again"
        )


def build_policy(meta: PolicyMeta) -> Policy:
    """Builds the untrained policy that `meta` describes."""
    from embodied import registry
    from embodied.config import from_plain

    cls = registry.policy_class(meta.policy)
    former = cls.former.get(meta.policy_version)
    if former is None:
        refuse_version(meta, cls.version)
    plain = {**cls.stored_config(meta.config), **(former or {})}
    config = from_plain(
        registry.policy_config_class(meta.policy), plain, where="policy.json:config"
    )
    try:
        interface = Interface.from_json(meta.interface)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{POLICY_FILE}: 'interface' does not describe observations and action ({error!r}); "
            "it was edited: use the original file, or train again"
        ) from error
    return cls(config, interface)


def load(path: str | Path, device: str = "cpu") -> LoadedPolicy:
    """Loads a policy from a run directory (its newest checkpoint) or a checkpoint.

    Args:
      path: Run directory, checkpoint directory, or a claim's checkpoint folder.
      device: Where the policy shall live.

    Raises:
      CheckpointError: For anything but a complete, matching checkpoint.
    """
    where = torch_device(device)
    directory = resolve(path)
    meta = read_meta(directory)
    policy = build_policy(meta)
    expected = policy.state_dict()
    weights = read_weights(directory / MODEL_FILE)
    refuse_weights(weights, expected, directory / MODEL_FILE)
    weights = {k: v.to(expected[k].dtype) for k, v in weights.items()}
    policy.load_state_dict(weights)
    policy.eval().requires_grad_(False).to(where)
    return LoadedPolicy(policy, meta, directory)


def initialise_from(policy: Policy, path: str | Path) -> list[str]:
    """Copies every weight that fits by name and shape from another checkpoint.

    Returns:
      One line for each tensor that was not taken over, for the log.

    Raises:
      CheckpointError: If nothing fits, or if what never learns here would stay random.
      ConfigError: From `Policy.check_init`.
    """
    directory = resolve(path)
    meta = read_meta(directory)
    weights = read_weights(directory / MODEL_FILE)
    own = policy.state_dict()
    taken = {
        k: v.to(own[k].dtype) for k, v in weights.items() if k in own and v.shape == own[k].shape
    }
    if not taken:
        raise CheckpointError(
            f"init={path}: no tensor of it fits this policy; is it another policy?"
        )
    policy.check_init(meta.config)
    if policy.needs_init:
        frozen = {name for name, p in policy.named_parameters() if not p.requires_grad}
        lacking = sorted(name for name in frozen & own.keys() if name not in taken)
        if lacking:
            raise CheckpointError(
                f"init={path} holds no {lacking[0]} of shape {list(own[lacking[0]].shape)} "
                f"({len(lacking)} such tensors), which does not learn in this stage: train the "
                "stage before with the same policy.config, or set policy.config to its own"
            )
    policy.load_state_dict(taken, strict=False)
    skipped = [f"kept fresh: {name}" for name in own if name not in taken]
    if meta.policy_version != policy.version:
        skipped.append(f"weights of version {meta.policy_version}, this is {policy.version}")
    return skipped + [f"not used: {name}" for name in weights if name not in taken]


def read_train_state(directory: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Returns the plain data and the tensors that `write_checkpoint` stored for resuming."""
    state = directory / TRAIN_STATE
    try:
        info = json.loads((state / "state.json").read_text())
        int(info["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{state} cannot be resumed from ({error!r}); remove {directory}, so that the run "
            "carries on from the checkpoint before it, or start anew in another out="
        ) from error
    return info, {file.stem: read_weights(file) for file in sorted(state.glob("*.safetensors"))}
