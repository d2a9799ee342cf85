"""The C++ example is built and replays bundles, where ONNX Runtime's headers are.

They are looked for in ``$ONNXRUNTIME_ROOT`` and where packages put them; the library may be that
of the Python package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from embodied.serve.bundle import GOLDEN, read_arrays

EXAMPLE = Path(__file__).parents[2] / "scripts" / "cpp"
HEADER = "onnxruntime_cxx_api.h"

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def _headers() -> Path | None:
    roots = [Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr")), Path("/usr"), Path("/usr/local")]
    places = [r / p for r in roots for p in ("include", "include/onnxruntime")]
    return next((place for place in places if (place / HEADER).exists()), None)


def _missing() -> str:
    tools = [name for name in ("cmake", "c++") if shutil.which(name) is None]
    if _headers() is None:
        tools.append(f"{HEADER} (set ONNXRUNTIME_ROOT to an unpacked release of ONNX Runtime)")
    return ", ".join(tools)


@pytest.fixture(scope="module")
def replay(tmp_path_factory) -> Path:
    """The built program."""
    if missing := _missing():
        pytest.skip(f"the C++ example needs {missing}")
    build = tmp_path_factory.mktemp("cpp")
    # The Python package has the library, without headers, under a name with its version.
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    (build / "libonnxruntime.so").symlink_to(library)
    (build / "libonnxruntime.so.1").symlink_to(library)
    options = [f"-DONNXRUNTIME_INCLUDE_DIR={_headers()}",
               f"-DONNXRUNTIME_LIBRARY={build / 'libonnxruntime.so'}"]  # fmt: skip
    for command in (["-S", EXAMPLE, "-B", build, *options], ["--build", build]):
        done = subprocess.run(["cmake", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "replay"


def run(replay: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [replay, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(bundles, tmp_path) -> Path:
    shutil.copytree(bundles("lstm")[1], tmp_path / "copy")
    return tmp_path / "copy"


def change(file: Path, name: str, by: float) -> None:
    arrays = read_arrays(file)
    np.savez(file, **{**arrays, name: (arrays[name] + by).astype(arrays[name].dtype)})


@pytest.mark.parametrize("name", ["hcam", "lstm", "memory_vla"])
def test_it_answers_as_the_checkpoint_did(replay, bundles, name) -> None:
    _, path = bundles(name)
    done = run(replay, path)
    ticks = len(read_arrays(path / GOLDEN)["time_s"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{ticks} ticks: actions within ")


@pytest.mark.parametrize("part", ["chunk", "state.hidden"])
def test_what_differs_is_told(replay, copy, part) -> None:
    arrays = read_arrays(copy / GOLDEN)
    name = part if part in arrays else next(n for n in arrays if n.startswith("state."))
    change(copy / GOLDEN, name, 1e-3)
    done = run(replay, copy)
    assert done.returncode == 1 and "differs from the checkpoint" in done.stderr
    assert run(replay, copy, 1e-2, 1e-2).returncode == 0


def test_memory_that_begins_otherwise_is_found_only_without_its_reset(replay, copy) -> None:
    """A reset clears memory, so what memory began with plays no part."""
    name = next(n for n in read_arrays(copy / "initial.npz"))
    change(copy / "initial.npz", name, 1.0)
    assert run(replay, copy).returncode == 0
    golden = read_arrays(copy / GOLDEN)
    np.savez(copy / GOLDEN, **{**golden, "reset": np.zeros_like(golden["reset"])})
    assert run(replay, copy).returncode == 1


def test_files_that_cannot_be_read_are_told(replay, copy, tmp_path) -> None:
    np.savez_compressed(copy / GOLDEN, **read_arrays(copy / GOLDEN))
    done = run(replay, copy)
    assert done.returncode == 2 and "its members are compressed" in done.stderr
    content = (copy / "initial.npz").read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        (copy / GOLDEN).write_bytes(content[:cut])
        assert run(replay, copy).returncode == 2
    np.savez(copy / GOLDEN, time_s=np.zeros((1, 1), np.float16))
    assert "has dtype <f2" in run(replay, copy).stderr
    assert run(replay, tmp_path / "nowhere").returncode == 2
    assert "usage" in run(replay).stderr
