"""The demo: stages that are kept, honest findings, and one small run of all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from embodied import demo
from embodied.cli import main
from embodied.config import save_yaml
from embodied.core.errors import ConfigError, EmbodiedError


def results(**changes: Any) -> dict[str, Any]:
    main_row = {
        "role": "policy", "intervene": "none", "n": 150, "successes": 149, "success": 149 / 150,
        "low": 0.963, "high": 0.999, "ceiling": 1 / 3, "commit_rate": 1.0,
    }  # fmt: skip
    twin = {
        **main_row, "role": "twin", "successes": 50, "success": 1 / 3, "low": 0.263, "high": 0.412,
    }  # fmt: skip
    swap = {**main_row, "intervene": "swapped", "swapped": 150, "followed": 148}
    swap["swap_followed"] = 148 / 150
    rows = [main_row, twin, swap]
    for key, value in changes.items():
        index, _, field = key.partition("_")
        rows[("main", "twin", "swap").index(index)][field] = value
    return {"rows": rows}


def test_findings_are_shown() -> None:
    assert [shown for _, shown in demo.findings(results())] == [True] * 4


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({"main_success": 0.94}, 0),
        ({"twin_low": 0.34}, 1),
        ({"twin_high": 0.32}, 1),
        ({"main_low": 0.40}, 1),
        ({"twin_commit_rate": 0.94}, 2),
        ({"swap_swap_followed": 0.89}, 3),
        ({"swap_swap_followed": None}, 3),
    ],
)
def test_findings_say_what_is_not_shown(changes: dict[str, Any], failing: int) -> None:
    shown = [shown for _, shown in demo.findings(results(**changes))]
    assert shown == [i != failing for i in range(4)]


def test_another_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is no demo"):
        demo.demo(demo.DemoConfig(out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_of_other_settings_is_left_alone(tmp_path: Path) -> None:
    save_yaml(tmp_path / demo.CONFIG_FILE, demo.DemoConfig(out="elsewhere", seed=7))
    with pytest.raises(ConfigError, match="holds a demo of other settings"):
        demo.demo(demo.DemoConfig(out=str(tmp_path)))


def test_an_unfit_machine_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = demo.doctor.Check("disk", demo.doctor.FAIL, "0.1 GiB free", "make room")
    monkeypatch.setattr(demo.doctor, "examine", lambda quick: [broken])
    with pytest.raises(EmbodiedError, match="not fit"):
        demo.demo(demo.DemoConfig(out=str(tmp_path / "demo")))
    assert "disk: 0.1 GiB free. make room" in capsys.readouterr().out


def test_pretrained_needs_the_shipped_claims(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from embodied.claims import index

    monkeypatch.setattr(index, "results_root", lambda: tmp_path)
    with pytest.raises(EmbodiedError, match="come with a clone"):
        demo.demo(demo.DemoConfig(out=str(tmp_path / "demo"), pretrained=True))
    assert not (tmp_path / "demo").exists()


def test_a_failed_training_is_named_and_stops_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(EmbodiedError, match=r"training (memory|twin) failed: .*nowhere"):
        demo.train_side_by_side(demo.DemoConfig(preset="smoke"), tmp_path / "nowhere", tmp_path)


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.slow
def test_a_small_demo_runs_whole_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["demo", "preset=smoke", "demonstrations=4", "episodes=2", "workers=0"]
    assert main(words) == 0
    out = capsys.readouterr().out
    for file in ("expert.mp4", "evaluation/report.html", "evaluation/results.json"):
        assert (tmp_path / "demo" / file).stat().st_size > 0, file
    assert list((tmp_path / "demo" / "evaluation" / "videos").glob("*.mp4"))
    assert "NOT shown" in out
    assert out.rstrip().splitlines()[-2:] == ["made  demo/", "next  embodied play put_block_back"]
    assert main(words) == 0
    assert capsys.readouterr().out.count("kept from before") == 4
