"""Playing: expert, keyboard and terminal pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embodied import play
from embodied.cli import main
from embodied.core.task import EnvConfig


def test_terminal_picture() -> None:
    frame = np.zeros((4, 4, 3), np.uint8)
    frame[:2] = (255, 0, 0)
    text = play.terminal_picture(frame, columns=4)
    lines = text.splitlines()
    assert len(lines) == 2
    assert lines[0].count("\u2580") == 4
    assert "38;2;255;0;0" in lines[0]
    assert "38;2;255;0;0" not in lines[1]


def test_the_keyboard_needs_a_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["play", "remember_color", "--keyboard"]) == 2
    assert "needs a terminal" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing task: embodied play TASK, or policy=RUN"),
        (["remember_colour"], "did you mean 'remember_color'?"),
        (["remember_color", "level=eazy"], "did you mean 'easy'?"),
        (["remember_color", "episodes=0"], "expected episodes >= 1"),
        (["remember_color", "policy=x", "--keyboard"], "name two players"),
        (["policy=nowhere"], "no checkpoint at nowhere"),
    ],
)
def test_bad_input(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["play", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.sim
@pytest.mark.render
def test_the_expert_is_filmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["play", "remember_color", "episodes=1", "cue=2", "size=64"]) == 0
    out = capsys.readouterr().out
    assert "cue 2:" in out
    assert "success" in out
    video = tmp_path / "plays" / "expert-remember_color-easy-0.mp4"
    assert video.stat().st_size > 1000


@pytest.mark.sim
@pytest.mark.render
def test_an_unknown_camera_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["play", "remember_color", "camera=frnt"]) == 2
    assert "did you mean 'front'?" in capsys.readouterr().err


@pytest.mark.sim
@pytest.mark.render
def test_keys_move_the_hand_and_the_video_is_kept(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def show(frame: np.ndarray, info: dict, hint: str) -> None:
        assert frame.shape == (64, 64, 3)
        seen.append((info["phase"], info["held"]))

    out = tmp_path / "play.mp4"
    played = play.play_keyboard(
        "remember_color", "easy", EnvConfig(), 0, out, iter("fa d"), show, size=64
    )
    assert played.outcomes[0][3] == "no choice: left early"
    assert {"cue", "gap", "execute"} == {phase for phase, _ in seen}
    free = [phase for phase, held in seen if not held]
    assert len(free) == 1 + 4 * play.TICKS_A_KEY
    assert out.exists()


def test_an_earlier_video_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        path = play.unused("expert", "remember_color", "easy", 0)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        names.append(path.name)
    stem = "expert-remember_color-easy-0"
    assert names == [f"{stem}.mp4", f"{stem}-2.mp4", f"{stem}-3.mp4"]
