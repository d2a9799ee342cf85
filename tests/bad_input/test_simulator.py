"""No GL, answers that are no actions, dying workers and too many of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import pytest

from embodied.cli import main
from tests.bad_input.damage import EVALUATE, TASK, error_line, refused


@pytest.mark.render
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MUJOCO_GL": "nonsense"}, "expected egl or osmesa. Unset it"),
        (
            {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"},
            "Expected a working EGL or OSMesa; install one with: apt-get install",
        ),
        pytest.param(
            {"MUJOCO_GL": "", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"},
            "needs a working EGL or OSMesa; install one with: apt-get install",
            marks=pytest.mark.skipif(bool(find_library("OSMesa")), reason="OSMesa is there"),
        ),
    ],
    ids=["nonsense", "no driver", "no library"],
)
def test_no_gl(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    words = ["play", TASK, "episodes=1", "out=v.mp4"]
    # Whoever draws in this process names a platform there, which is not what is looked at here.
    inherited = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    done = subprocess.run(
        [sys.executable, "-m", "embodied.cli", *words],
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in error_line(done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def state_run(tmp_path: Path) -> Path:
    from tests.evaluate.checkpoints import untrained

    return untrained(tmp_path / "run", "none")


@pytest.mark.sim
def test_a_policy_that_answers_nan(state_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    file = state_run / "checkpoints" / "00000001" / "model.safetensors"
    weights = load_file(file)
    weights["condition.weight"].fill_(3e38)  # finite, and infinite minus infinite when used
    weights["action_norm.low"].fill_(-3e38)
    weights["action_norm.high"].fill_(3e38)
    save_file(weights, file)
    line = refused(capsys, "evaluate", str(state_run), *EVALUATE[2:])
    assert "the policy answered NaN or infinity in row(s) [0]" in line
    assert not (state_run / "eval").exists() or not list((state_run / "eval").iterdir())


@pytest.mark.sim
def test_a_policy_of_another_camera_set(
    state_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = state_run / "checkpoints" / "00000001" / "policy.json"
    data = json.loads(file.read_text())
    data["env"] |= {"observation": "rgb", "cameras": ["wrist"]}
    file.write_text(json.dumps(data))
    line = refused(capsys, "evaluate", str(state_run), *EVALUATE[2:])
    assert "entities: needed float32[32" in line and "offered keys: " in line
    assert "wrist_image_u8" in line


@pytest.mark.sim
def test_a_dead_worker_ends_the_evaluation(
    state_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sims.vector

    step, processes = sims.vector.MemoryBenchVectorEnv.step, []

    def deadly(self, *args, **kwargs):
        if not processes:
            processes.extend(self._pool._processes)
            processes[1].kill()
            processes[1].wait(timeout=10)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(sims.vector.MemoryBenchVectorEnv, "step", deadly)
    words = ["evaluate", str(state_run), "episodes=2", "batch=2", "workers=2", *EVALUATE[4:]]
    line = refused(capsys, *words)
    assert "simulator worker 1 died (exit code -9); its rows [1] played seeds [1441441]" in line
    assert all(process.poll() is not None for process in processes)
    assert not list((state_run / "eval").iterdir())


@pytest.mark.sim
def test_more_workers_than_cores_are_a_warning(
    state_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(state_run), *EVALUATE[2:], "workers=500"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert lines[0].startswith("embodied: warning: 500 simulator workers on ")


def test_more_collecting_workers_than_cores_are_a_warning(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["collect", f"task={TASK}", "image_size=16", "episodes=1", "out=new", "workers=500"]
    assert main(words) == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "warning:" in line]
    assert len(warned) == 1
    assert warned[0].startswith("embodied: warning: 500 workers on ")
