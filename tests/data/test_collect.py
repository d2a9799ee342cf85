"""Collecting: same data for any workers and interruptions, honest refusals."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from embodied.core.errors import ConfigError, DataError, SimulatorError
from embodied.core.files import held_directory
from embodied.core.rng import VALIDATION_SEED_START
from embodied.core.task import EnvConfig
from embodied.data.manifest import load_manifest
from embodied.data.reader import EpisodeStore
from embodied.data.show import summarize
from tests.data import fake_env
from tests.data.conftest import collect_fake

ROOT = Path(__file__).parents[2]


def shard_bytes(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.glob("*.h5"))}


def test_manifest_says_what_is_stored(original):
    manifest = load_manifest(original)
    assert manifest.complete
    assert manifest.failed == {7: "wrong_choice"}
    assert manifest.stored == 11
    assert sorted(s for shard in manifest.shards.values() for s in shard.seeds) == [
        s for s in range(12) if s != 7
    ]
    assert sum(manifest.cue_counts.values()) == 11
    assert not (original / "unfinished").exists()


def test_collecting_again_does_nothing(dataset):
    before = shard_bytes(dataset), (dataset / "dataset.json").read_bytes()
    result = collect_fake(dataset, env_factory=print)  # which makes no environment
    assert result.new == 0 and result.stored == 11
    assert (shard_bytes(dataset), (dataset / "dataset.json").read_bytes()) == before


def test_extending_equals_collecting_at_once(dataset, tmp_path):
    extended = collect_fake(dataset, 40)
    whole = collect_fake(tmp_path / "whole", 40)
    assert extended.content_sha256 == whole.content_sha256
    assert shard_bytes(dataset) == shard_bytes(tmp_path / "whole")
    assert extended.failed == whole.failed and extended.new == 25


def test_workers_do_not_change_the_data(original, tmp_path, capfd):
    result = collect_fake(tmp_path / "two", num_workers=2)
    assert shard_bytes(tmp_path / "two") == shard_bytes(original)
    assert result.failed == {7: "wrong_choice"}
    many = len(os.sched_getaffinity(0)) + 1
    collect_fake(tmp_path / "two", num_workers=many, episodes=13)
    assert f"warning: {many} workers on" in capfd.readouterr().err


def test_kill_and_resume_equals_uninterrupted(tmp_path):
    """SIGKILL at several moments, one of them after a shard was made."""
    out, episodes = tmp_path / "killed", 36
    command = [sys.executable, "-m", "tests.data.collect_script", str(out), str(episodes)]
    for decided in (3, 12, 33):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and _decided(out) < decided:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the workers notice and end
        with EpisodeStore(out, allow_unfinished=True) as store:
            for i in range(len(store)):
                store.read(i, verify=True)
            assert len(store) + len(store.manifest.failed) >= decided - 4
        assert summarize(out).episodes == len(store)
        if not load_manifest(out).complete:
            with pytest.raises(DataError, match="unfinished"):
                EpisodeStore(out)
    collect_fake(out, episodes)
    collect_fake(tmp_path / "whole", episodes)
    assert shard_bytes(out) == shard_bytes(tmp_path / "whole")
    assert load_manifest(out) == load_manifest(tmp_path / "whole")


def _decided(out: Path) -> int:
    loose = len(list((out / "unfinished").glob("episode_*.h5")))
    return loose + 32 * len(list(out.glob("shard-*.h5")))


def test_kill_between_shard_and_manifest_is_recovered(original, dataset):
    manifest = (dataset / "dataset.json").read_text()
    name = sorted(shard_bytes(dataset))[0]
    broken = load_manifest(dataset)
    broken.shards.clear()
    broken.complete = False
    from embodied.data.manifest import save_manifest

    save_manifest(dataset, broken)
    (dataset / ".tmp-shard-00000.h5-1").write_bytes(b"half")
    assert collect_fake(dataset).new == 0
    assert (dataset / "dataset.json").read_text() == manifest
    assert not (dataset / ".tmp-shard-00000.h5-1").exists()
    (dataset / name).unlink()
    assert collect_fake(dataset).new == 11  # a lost shard is made again, to the byte
    assert shard_bytes(dataset) == shard_bytes(original)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"config": EnvConfig(image_size=24)}, "env.image_size: 24 against 16"),
        ({"config": EnvConfig(image_size=16, control="osc")}, "env.control: 'osc' against 'fast'"),
        ({"clean": 0.5}, "clean: 0.5 against"),
        ({"noise": 0.5}, "noise: 0.5 against 1.0"),
        ({"seed_start": 3}, "seed_start: 3 against 0"),
        ({"episodes": 5}, "episodes: 5 against 12"),
        ({"label_horizon": 8}, "label_horizon: 8 against 16"),
        ({"observe_period_s": 0.2}, "observe_period_s: 0.2 against 0.4"),
    ],
)
def test_other_settings_are_refused_showing_both_sides(dataset, change, shown):
    before = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match="other settings") as error:
        collect_fake(dataset, **change)
    assert shown in str(error.value)
    assert before == {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}


def test_files_of_other_seeds_are_refused_without_a_manifest_too(dataset):
    (dataset / "dataset.json").unlink()
    before = shard_bytes(dataset)
    with pytest.raises(
        DataError, match=r"12 seeds that are not asked for \(0\.\.11, against 20\.\.31"
    ):
        collect_fake(dataset, seed_start=20)
    shutil.move(dataset / "shard-00000.h5", dataset / "unfinished.h5")
    (dataset / "unfinished").mkdir(exist_ok=True)
    shutil.move(dataset / "unfinished.h5", dataset / "unfinished" / "episode_000000000.h5")
    with pytest.raises(
        DataError, match=r"2 seeds that are not asked for \(10\.\.11, against 0\.\.9"
    ):
        collect_fake(dataset, episodes=10)
    shutil.move(dataset / "unfinished" / "episode_000000000.h5", dataset / "shard-00000.h5")
    assert not (dataset / "dataset.json").exists() and shard_bytes(dataset) == before
    assert collect_fake(dataset).new == 0  # the seeds that it was made of


def test_another_simulator_model_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(fake_env.FakeEnv, "mjcf_sha256", "0" * 64)
    with pytest.raises(DataError, match="mjcf_sha256"):
        collect_fake(dataset, 13)


def test_foreign_directories_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="is no dataset"):
        collect_fake(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        collect_fake(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_resume_refuses_what_exists(dataset):
    with pytest.raises(DataError, match="exists already"):
        collect_fake(dataset, resume=False)


def test_two_writers_are_refused(dataset):
    with held_directory(dataset), pytest.raises(DataError, match="another process"):
        collect_fake(dataset, 20)


def test_a_dead_worker_names_its_seed_and_loses_nothing(tmp_path):
    with pytest.raises(SimulatorError, match="died on seed 5"):
        collect_fake(tmp_path / "d", num_workers=1, env_factory=fake_env.make_deadly)
    result = collect_fake(tmp_path / "d")
    assert result.new == 11 - 5  # seeds 0..4 were kept


def test_a_full_disk_stops_clearly_and_loses_nothing(tmp_path, monkeypatch):
    import errno

    from embodied.core import files

    real, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DataError, match="no space left"):
        collect_fake(tmp_path / "d")
    monkeypatch.undo()
    kept = len(list((tmp_path / "d" / "unfinished").glob("*.h5")))
    assert kept == 5 and not list((tmp_path / "d").rglob(".tmp-*"))
    assert collect_fake(tmp_path / "d").new == 11 - kept


@pytest.mark.parametrize(
    "options",
    [
        {"episodes": 0},
        {"seed_start": -1},
        {"seed_start": VALIDATION_SEED_START - 3},
        {"noise": float("nan")},
        {"clean": 1.5},
        {"clean": float("nan")},
        {"clean": 0.5, "noise": 0.0},
        {"label_horizon": 0},
        {"observe_on": "sometimes"},
        {"observe_period_s": 0.03},
        {"num_workers": -1},
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        collect_fake(tmp_path / "d", **options)


def test_a_level_no_expert_solves_is_an_error(tmp_path):
    with pytest.raises(DataError, match="failed on all 1 seeds"):
        collect_fake(tmp_path / "d", 1, seed_start=7)
