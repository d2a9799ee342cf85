"""The wheel holds what it should and works away from the clone."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import embodied

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked by pip into a directory of its own, dependencies from this one."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(target), str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "embodied.cli", *words],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {"embodied", "policies", "sims"} <= tops
    assert not {"tests", "scripts", "configs", "results"} & tops
    assert "embodied/py.typed" in names
    assert "embodied/known_good.txt" in names
    assert {"embodied/report/style.css", "embodied/report/page.js"} <= names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"embodied/configs/{path.relative_to(ROOT / 'configs')}" in names
    for path in (ROOT / "sims").rglob("*"):
        if path.suffix in (".stl", ".json", ".xml"):
            assert str(path.relative_to(ROOT)) in names
    licences = [name for name in names if ".dist-info/licenses/" in name]
    assert {Path(name).name for name in licences} >= {"LICENSE", "NOTICE"}


def test_the_installed_wheel_lists(installed: Path) -> None:
    code = "import embodied, policies, sims; print(embodied.__file__, policies.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert where.count(str(installed)) == 2, "the clone was tested instead of the wheel"
    done = run(installed, "list")
    assert done.returncode == 0, done.stderr
    for word in ("remember_color", "memory_vla", "perceptual_cognitive", "small"):
        assert word in done.stdout


def test_the_installed_wheel_composes_its_own_configs(installed: Path) -> None:
    done = run(installed, "train", "--help")
    assert done.returncode == 0, done.stderr
    assert "preset=" in done.stdout
    done = run(installed, "train", "task=remember_color", "preset=smal")
    assert done.returncode == 2
    assert "did you mean 'small'" in done.stderr


def test_the_console_command_exists() -> None:
    assert PROJECT["scripts"] == {"embodied": "embodied.cli:main"}
    script = Path(sys.executable).parent / "embodied"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"embodied-memory {embodied.__version__}"


def test_bounds() -> None:
    """The bounds that keep the simulator working and known holes closed."""
    base = PROJECT["dependencies"]
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"learn", "sim", "vlm", "export", "serve", "all", "dev"}
    assert {line.split(">")[0] for line in base} == {"numpy", "msgpack"}
    assert "torch>=2.10" in extras["learn"]
    assert "hydra-core>=1.3.7,<1.4" in extras["learn"]
    assert {"numpy>=1.26,<2", "mujoco>=3.3.7,<3.10", "robosuite==1.5.2"} <= set(extras["sim"])
    everything = " ".join(line for lines in extras.values() for line in lines)
    for forbidden in ("torchvision", "timm", "lerobot"):
        assert forbidden not in everything


def test_a_missing_package_is_sent_to_an_extra_that_brings_it() -> None:
    from embodied.extras import EXTRA_OF

    names = {"hydra": "hydra-core", "yaml": "pyyaml", "PIL": "pillow"}
    extras = PROJECT["optional-dependencies"]
    for module, extra in EXTRA_OF.items():
        name = names.get(module, module)
        assert any(line.startswith(name) for line in extras[extra]), (module, extra)


def test_known_good_versions_satisfy_the_bounds() -> None:
    from packaging.requirements import Requirement

    from embodied.doctor import known_good

    good = {name.lower(): version for name, version in known_good().items()}
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in map(Requirement, lines):
        version = good.get(requirement.name.lower())
        if version is not None:
            assert version in requirement.specifier, requirement
