"""Where a result came from: machine, versions, commit, checkpoint, and the expert beside it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from embodied import registry
from embodied.core.files import sha256
from embodied.core.task import EnvConfig
from embodied.evaluate.remote import RemotePolicy
from embodied.serve.bundle import MANIFEST
from embodied.serve.client import is_uri
from embodied.train.checkpoint import MODEL_FILE, LoadedPolicy


def cpu_model() -> str:
    """Returns the processor's name; another one may round the last bit differently."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def machine(device: str) -> dict[str, Any]:
    """Returns what the numbers were computed on."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "cpu": cpu_model(),
        "gpu": gpu,
        "device": device,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }


def commit() -> str | None:
    """Returns the git commit of a clone, ``+changes`` appended if files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def describe(loaded: LoadedPolicy) -> dict[str, Any]:
    """Returns the identity of a loaded checkpoint, or of a server by what it says."""
    meta, policy = loaded.meta, loaded.policy
    if isinstance(policy, RemotePolicy):
        told = ("source", "sha256", "clock", "package_version")
        server = {key: str(policy.said[key]) for key in told if key in policy.said}
        where = {"path": policy.uri, "sha256": server.get("sha256", "unknown"), "server": server}
    else:
        where = {"path": shown(loaded.path), "sha256": sha256(weights_file(loaded.path))}
    return {
        **where,
        "policy": meta.policy,
        "config": meta.config,
        "memory": str(meta.config.get("memory", "")),
        "tasks": meta.tasks,
        "level": meta.level,
        "train": meta.train,
        "parameters": policy.parameter_count(),
        "package_version": meta.package_version,
        "privileged": privileged(loaded),
    }


def weights_file(path: Path) -> Path:
    """Returns the file that fixes what a checkpoint, or a bundle by its hashes, does."""
    bundle = path / MANIFEST
    return bundle if bundle.exists() else path / MODEL_FILE


def shown_source(source: str) -> str:
    """Returns a source as results show it: a path by `shown`, a server by its address."""
    return source if is_uri(source) else shown(Path(source))


def shown(path: Path) -> str:
    """Returns a path as results show it: relative, so that no machine's folders are published."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        inside_run = path.parent.name == "checkpoints"
        return str(Path(*path.parts[-3 if inside_run else -1 :]))


def privileged(loaded: LoadedPolicy) -> bool:
    """Whether training used a label that the demonstrations' observations don't hold."""
    return float(loaded.meta.config.get("cue_loss") or 0.0) > 0.0


def expert_success(
    task: str, level: str, env: EnvConfig, overrides: dict[str, Any]
) -> float | None:
    """Returns the privileged expert's measured success, or None where it was never measured.

    The certificate holds for a level's own knobs and one controller; with overridden knobs
    there is no measured expert.
    """
    if overrides:
        return None
    return registry.expert_success(task, level, env.control)


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
