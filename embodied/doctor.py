"""Looks at the machine and says what works, what doesn't, and the line to type.

Each check is independent and never raises: a broken part is a row, not the end. The picture is
drawn in a process of its own, because a GL backend is chosen once for each process and a
broken driver may take its process down.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from embodied.extras import EXTRA_OF, importable

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "FAIL"
KNOWN_GOOD = Path(__file__).parent / "known_good.txt"
GL_HINT = (
    "apt-get install -y libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri libglib2.0-0 "
    "(libosmesa6 instead of EGL)"
)
SUPPORTED_PYTHON = ((3, 11), (3, 12))
RENDER_TIMEOUT_S = 120
MIN_ROBOT_FRACTION = 0.02
"""Share of the front picture that the robot covers at least; about 0.05 at rest."""


@dataclasses.dataclass
class Check:
    """One row of the report.

    Attributes:
      name: What was looked at.
      status: ``"ok"``, ``"note"`` (fine, but know it), ``"warn"`` or ``"FAIL"``.
      found: What was found.
      advice: What to do; empty when there is nothing to do.
    """

    name: str
    status: str
    found: str
    advice: str = ""


def examine(quick: bool = False) -> list[Check]:
    """Runs all checks.

    Args:
      quick: Leave out the slow ones (rendering a frame, asking torch for a GPU).

    Returns:
      One row each, in reading order. The machine is fit unless a status is ``"FAIL"``.
    """
    checks = [_python(), *_packages(), _threads(), _shared_memory(), _disk(Path.cwd())]
    if not quick:
        checks += [_gpu(), _rendering()]
    return checks


def fit(checks: list[Check]) -> bool:
    """Returns whether no check failed."""
    return all(check.status != FAIL for check in checks)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] in SUPPORTED_PYTHON:
        return Check("python", OK, f"{version} ({sys.executable})")
    return Check(
        "python", WARN, version, "tested with 3.11; the simulator's numpy 1.26 ends at 3.12"
    )


def known_good() -> dict[str, str]:
    """Returns distribution name -> version known to work."""
    lines = KNOWN_GOOD.read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _packages() -> list[Check]:
    development = {"pytest", "hypothesis", "scipy", "ruff", "mypy", "import-linter", "diffusers"}
    found, missing, checks = [], {}, []
    for name, good in known_good().items():
        if name in development or name.startswith("pytest"):
            continue
        version = installed(name)
        if version is None:
            missing.setdefault(_extra_of(name), []).append(name)
        elif version.partition("+")[0] == good:
            found.append(f"{name} {version}")
        else:
            checks.append(Check(name, WARN, f"{version}; known to work: {good}", _bound(name)))
    if found:
        checks.insert(0, Check("packages", OK, ", ".join(found)))
    for extra, names in missing.items():
        install = f"pip install 'embodied-memory[{extra}]'" if extra else "reinstall the package"
        status = NOTE if extra else FAIL
        checks.append(
            Check(f"[{extra or 'base'}]", status, "missing: " + ", ".join(names), install)
        )
    checks += [check for check in map(_conflict, ("numpy", "mujoco")) if check]
    if installed("torchvision"):
        checks.append(
            Check(
                "torchvision",
                NOTE,
                "installed, not used here",
                "one that does not match torch breaks transformers: pip uninstall torchvision",
            )
        )
    return checks


def installed(distribution: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _conflict(name: str) -> Check | None:
    """Two bounds that pip forgets when a user upgrades by hand, and that break the simulator."""
    limits = {"numpy": (2, 0), "mujoco": (3, 10)}
    version = installed(name)
    if version is None or installed("robosuite") is None:
        return None
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < limits[name]:
        return None
    bound = ".".join(map(str, limits[name])).removesuffix(".0")
    return Check(name, FAIL, f"{version} breaks robosuite 1.5.2", f"pip install '{name}<{bound}'")


def _extra_of(distribution: str) -> str:
    modules = {"PyYAML": "yaml", "pillow": "PIL", "hydra-core": "hydra"}
    return EXTRA_OF.get(modules.get(distribution, distribution), "")


def _bound(name: str) -> str:
    requirements = importlib.metadata.requires("embodied-memory") or []
    for line in requirements:
        requirement = line.partition(";")[0].strip()
        if requirement.lower().startswith(name.lower()) and len(requirement) > len(name):
            return f"pyproject.toml allows {requirement}"
    return ""


def cores() -> int:
    """Returns the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads() -> Check:
    limits = {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ}
    shown = ", ".join(f"{name}={value}" for name, value in limits.items())
    return Check("threads", OK, f"{cores()} cores" + (f"; {shown}" if shown else ""))


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _shared_memory() -> Check:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Check("shared memory", WARN, "no /dev/shm", "vector environments need num_workers=0")
    free = shutil.disk_usage(path).free
    if free < 64 * 2**20:
        return Check(
            "shared memory",
            WARN,
            f"{free / 2**20:.0f} MiB free in /dev/shm",
            "give the container more, for example --shm-size=1g",
        )
    return Check("shared memory", OK, f"{free / 2**30:.1f} GiB free")


def _disk(directory: Path) -> Check:
    free_gib = shutil.disk_usage(directory).free / 2**30
    shown = f"{free_gib:.1f} GiB free at {directory}"
    if free_gib < 0.2:
        return Check("disk", FAIL, shown, "a dataset of 2,000 episodes takes about 1 GiB")
    if free_gib < 3:
        return Check("disk", WARN, shown, "a dataset of 2,000 episodes takes about 1 GiB")
    return Check("disk", OK, shown)


def _gpu() -> Check:
    if not importable("torch"):
        return Check("gpu", NOTE, "torch is not installed")
    code = (
        "import torch; n = torch.cuda.device_count(); "
        "print(', '.join(torch.cuda.get_device_name(i) for i in range(n)))"
    )
    done = _run([sys.executable, "-c", code])
    if done is None or done.returncode:
        return Check("gpu", FAIL, "torch does not import: " + _last_line(done), "reinstall torch")
    names = done.stdout.strip()
    if names:
        return Check("gpu", OK, names, "use it with device=cuda")
    return Check("gpu", NOTE, "none that torch can use; everything runs on the CPU")


def _rendering() -> Check:
    if not (importable("mujoco") and importable("robosuite")):
        return Check("rendering", NOTE, "no simulator", "pip install 'embodied-memory[sim]'")
    done = _run([sys.executable, "-m", "embodied.doctor"])
    try:
        result = json.loads(done.stdout.splitlines()[-1]) if done else {}
    except (json.JSONDecodeError, IndexError):
        result = {}
    if not result:
        return Check("rendering", FAIL, "no picture: " + _last_line(done), GL_HINT)
    shown = (
        f"{result['backend']} ({result['renderer']}), "
        f"{result['frames_per_s']:.0f} frames/s at {result['size']} px, "
        f"robot on {100 * result['robot_fraction']:.0f} % of the front picture"
    )
    if result["robot_fraction"] < MIN_ROBOT_FRACTION:
        return Check("rendering", FAIL, shown, "the robot is not in the picture; report this")
    if result["backend"] != "egl":
        return Check("rendering", WARN, shown, f"EGL does not work; {GL_HINT}")
    return Check("rendering", OK, shown)


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=RENDER_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _last_line(done: subprocess.CompletedProcess[str] | None) -> str:
    if done is None:
        return f"no answer within {RENDER_TIMEOUT_S} s"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _draw() -> None:
    """Draws one frame and prints what was seen as JSON; runs in a process of its own."""
    from embodied import registry

    check: Callable[[], dict[str, object]] = registry.neighbour("sims").check_rendering
    print(json.dumps(check()))


if __name__ == "__main__":
    _draw()
