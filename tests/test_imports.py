"""Who may import whom, and what a bare install must do without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("embodied", "policies", "sims")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))

_BLOCK = """
import importlib.abc, sys
allowed = {allowed!r}
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition('.')[0]
        if top in {heavy!r} and top not in allowed:
            raise ModuleNotFoundError(f'No module named {{top!r}}', name=top)
sys.meta_path.insert(0, Block())
"""
HEAVY = (
    "torch", "safetensors", "hydra", "omegaconf", "yaml", "gymnasium", "h5py", "mujoco",
    "robosuite", "tqdm", "PIL", "av", "tensorboard", "transformers", "diffusers", "scipy",
    "matplotlib", "numba", "cv2",
)  # fmt: skip


def python(code: str, *, allowed: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that has the base install and `allowed` alone."""
    block = _BLOCK.format(allowed=set(allowed), heavy=set(HEAVY))
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, cwd=ROOT
    )


def test_import_directions_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize(
    "code",
    [
        "import embodied; print(embodied.__version__)",
        "import embodied.core.specs, embodied.core.ticks, embodied.core.rng, embodied.core.task",
        "import embodied.config, embodied.registry, embodied.evaluate.executors",
        "from embodied import registry; print(registry.task_names(), registry.policy_names())",
        "from embodied.cli import main; raise SystemExit(main(['--help']))",
        "from embodied.cli import main; raise SystemExit(main(['list', 'tasks']))",
        "from embodied.cli import main; raise SystemExit(main(['doctor', '--quick']))",
    ],
)
def test_the_base_install_suffices(code: str) -> None:
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("['train', 'task=remember_color']", "yaml", "learn"),
        ("['collect', 'task=remember_color']", "yaml", "learn"),
        ("['play', 'remember_color']", "gymnasium", "sim"),
    ],
)
def test_a_missing_extra_is_named_with_its_pip_line(words: str, package: str, extra: str) -> None:
    allowed = ("torch", "safetensors") if extra == "sim" else ()
    done = python(
        f"from embodied.cli import main; raise SystemExit(main({words}))", allowed=allowed
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"pip install 'embodied-memory[{extra}]'" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_sims_load_no_simulator_before_an_env_is_made() -> None:
    done = python("import sims; print(sorted(sims.task_infos()))", allowed=("gymnasium",))
    assert done.returncode == 0, done.stderr[-2000:]


FORBIDDEN = {
    r"^\s*(import|from) (pickle|dill|cloudpickle|marshal|shelve)\b": "pickle runs code",
    r"\btorch\.load\(": "checkpoints are safetensors",
    r"(?<![\w.])(eval|exec)\(": "no code from text",
    r"trust_remote_code\s*=\s*True": "no remote code",
    r"allow_pickle\s*=\s*True": "pickle runs code",
    r"_target_": "names select table rows; configs never name code",
    r"yaml\.(unsafe_load|full_load)": "safe loader only",
}


@pytest.mark.parametrize("pattern", FORBIDDEN, ids=list(FORBIDDEN.values()))
def test_nothing_executes_what_it_loads(pattern: str) -> None:
    # One pinned file, compared with its hash and read by the loader that runs no code.
    pinned = 'torch.load(source, map_location="cpu", weights_only=True)'
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
        and not line.lstrip().startswith(("#", '"'))
        and not (path.name == "efficientnet.py" and pinned in line)
    ]
    assert not found
