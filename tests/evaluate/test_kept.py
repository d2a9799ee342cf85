"""What an evaluation refuses before its first episode, and that it loses none of those after."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from embodied.core.errors import ConfigError, DataError, SpecMismatch
from embodied.core.files import read_json, write_json
from embodied.core.rng import EVAL_SEED_START
from embodied.core.specs import ArraySpec
from embodied.evaluate import api
from embodied.evaluate.results import EpisodeResult, read_episodes
from tests.evaluate.checkpoints import untrained

pytestmark = pytest.mark.sim


class QuickRun:
    """Stands in for `runner.run`: episodes without simulating, and how many; may break."""

    def __init__(self) -> None:
        self.calls = 0
        self.broken_at: int | None = None
        self.error: BaseException = OSError(errno.EIO, "the simulator's own")

    def __call__(self, policy, vector, seeds, *, task, level, intervene, **_):
        self.calls += 1
        if self.calls == self.broken_at:
            raise self.error
        return [
            EpisodeResult(
                task, level, seed, seed % 3, True, True, "a", "", 9, 1.0, 0.0, 3, 8, 0, intervene,
                train_seed=7,
            )
            for seed in seeds
        ]  # fmt: skip


@pytest.fixture
def quick(monkeypatch) -> QuickRun:
    run = QuickRun()
    monkeypatch.setattr(api, "run", run)
    return run


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("checkpoints")
    return {memory: untrained(base / memory, memory) for memory in ("gru", "none")}


def evaluate(source: Path, **options) -> Path:
    given = {"episodes": 2, "batch": 2, "videos": 0, "progress": False, **options}
    return api.evaluate(source, **given)


def hidden(out: Path) -> list[Path]:
    return [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.")]


def test_a_default_name_that_is_taken_meanwhile(checkpoints, quick, monkeypatch) -> None:
    """The second of two evaluations to finish takes the next name."""
    first = evaluate(checkpoints["gru"])
    theirs = first.with_name(f"{first.name}-2")
    write = api.report.write

    def slow_write(*args):
        theirs.mkdir()
        (theirs / "results.json").write_text("{}")
        write(*args)

    monkeypatch.setattr(api.report, "write", slow_write)
    second = evaluate(checkpoints["gru"])
    assert second == first.with_name(f"{first.name}-3")
    assert len(read_episodes(second / "episodes.jsonl")) == 2
    assert (theirs / "results.json").read_text() == "{}"
    assert not list(first.parent.glob(".*"))


def test_a_given_name_that_is_taken_meanwhile(checkpoints, quick, monkeypatch, tmp_path) -> None:
    out = tmp_path / "eval"
    write = api.report.write

    def slow_write(*args):
        out.mkdir()
        (out / "mine").touch()
        write(*args)

    monkeypatch.setattr(api.report, "write", slow_write)
    with pytest.raises(ConfigError, match="already exists") as refused:
        evaluate(checkpoints["gru"], out=str(out))
    (kept,) = hidden(out)
    assert refused.value.__notes__ == [f"the episodes that were finished are kept in {kept}"]
    assert len(read_episodes(kept / "episodes.jsonl")) == 2 and (kept / "report.md").exists()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_finished_episodes_outlive_a_late_error(checkpoints, quick, tmp_path, error) -> None:
    out, quick.broken_at, quick.error = tmp_path / "eval", 3, error
    with pytest.raises(type(error)) as raised:
        evaluate(checkpoints["gru"], out=str(out), intervene=["none", "swapped", "erased"])
    (kept,) = hidden(out)
    assert str(kept) in raised.value.__notes__[0] and not out.exists()
    rows = read_episodes(kept / "episodes.jsonl")
    assert [row.intervene for row in rows] == ["none"] * 2 + ["swapped"] * 2


def test_pictures_that_cant_be_written_lose_no_episode(
    checkpoints, quick, tmp_path, monkeypatch
) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(api, "_pictures", full)
    out = tmp_path / "eval"
    with pytest.raises(DataError, match=r"cannot write .*: No space left on device"):
        evaluate(checkpoints["gru"], out=str(out), videos=1)
    (kept,) = hidden(out)
    assert len(read_episodes(kept / "episodes.jsonl")) == 2


def test_an_error_of_the_system_is_told_as_it_is(checkpoints, quick, tmp_path) -> None:
    """It isn't one of writing results; without an episode nothing stays."""
    quick.broken_at = 1
    with pytest.raises(OSError, match="the simulator's own"):
        evaluate(checkpoints["gru"], out=str(tmp_path / "eval"))
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_where_episodes_are_kept(
    checkpoints, quick, tmp_path, capsys
) -> None:
    from embodied.cli import main

    out, quick.broken_at, quick.error = tmp_path / "eval", 2, KeyboardInterrupt()
    words = ["episodes=2", "batch=2", "videos=0", "progress=false", "intervene=none,erased"]
    assert main(["evaluate", str(checkpoints["gru"]), *words, f"out={out}"]) == 130
    (kept,) = hidden(out)
    line = capsys.readouterr().err.strip()
    assert line == f"embodied: interrupted; the episodes that were finished are kept in {kept}"


def test_a_name_that_leads_nowhere_is_taken(checkpoints, tmp_path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="already exists"):
        evaluate(checkpoints["gru"], out=str(tmp_path / "out"))


# ---- twins ------------------------------------------------------------------------------


def refused_at_once(quick: QuickRun, checkpoints, twin: Path | str, error, match: str) -> None:
    """Evaluating beside `twin` is refused before any episode."""
    with pytest.raises(error, match=match):
        evaluate(checkpoints["gru"], twin=str(twin))
    assert quick.calls == 0


def test_a_twin_with_a_memory_is_none(checkpoints, quick, tmp_path) -> None:
    match = "has memory=gru; a twin has memory=none"
    refused_at_once(quick, checkpoints, checkpoints["gru"], ConfigError, match)
    stored = evaluate(checkpoints["gru"], out=str(tmp_path / "eval"))
    quick.calls = 0
    refused_at_once(quick, checkpoints, stored, ConfigError, match)


def test_a_twin_that_does_not_fit_is_refused_at_once(checkpoints, quick, tmp_path) -> None:
    seen = untrained(tmp_path / "seen", "none", data_seeds=[0, EVAL_SEED_START + 1])
    refused_at_once(quick, checkpoints, seen, ConfigError, "overlap the seeds")
    also = {"stove": ArraySpec((3,), "float32")}
    other = untrained(tmp_path / "other", "none", also=also, proprio=["stove"])
    refused_at_once(quick, checkpoints, other, SpecMismatch, r"stove: needed .* not offered")


@pytest.fixture
def stored(checkpoints, quick, tmp_path) -> Path:
    """A results directory of the twin's."""
    out = evaluate(checkpoints["none"], out=str(tmp_path / "twin"))
    quick.calls = 0
    return out


def test_a_stored_twin_of_the_same_setting(checkpoints, quick, stored) -> None:
    out = evaluate(checkpoints["gru"], twin=str(stored))
    row = read_json(out / "results.json")["rows"][0]
    assert row["twin"]["paired_n"] == 2
    assert len(read_episodes(out / "twin_episodes.jsonl")) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("knobs", {"K": 9}),
        ("control", "robosuite"),
        ("visuals", "full"),
        ("observation", "rgb"),
        ("cameras", ["front", "wrist"]),
        ("image_size", 128),
    ],
)
def test_a_stored_twin_of_another_setting(checkpoints, quick, stored, field, value) -> None:
    results = read_json(stored / "results.json")
    results["rows"][0][field] = value
    write_json(stored / "results.json", results)
    match = rf"another setting than the policy: {field} .* against "
    refused_at_once(quick, checkpoints, stored, ConfigError, match)


def test_a_stored_twin_without_the_task_or_the_seeds(checkpoints, quick, stored) -> None:
    with pytest.raises(ConfigError, match=r"has 2 episodes of remember_color, none of a seed"):
        evaluate(checkpoints["gru"], twin=str(stored), seed_start=EVAL_SEED_START + 2)
    for file in (stored / "results.json", stored / "episodes.jsonl"):
        file.write_text(file.read_text().replace('"level": "easy"', '"level": "hard"'))
    refused_at_once(quick, checkpoints, stored, ConfigError, "no episodes of remember_color easy")


def test_a_stored_twin_that_lost_an_episode(checkpoints, quick, stored) -> None:
    file = stored / "episodes.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    match = "holds 1 episodes of remember_color easy none, results.json tells of 2"
    refused_at_once(quick, checkpoints, stored, DataError, match)
