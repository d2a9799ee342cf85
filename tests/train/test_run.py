"""A run directory: one trainer at a time, whichever it is, and at once the next after a kill."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from embodied.core.errors import DataError
from embodied.core.files import LOCK, held_directory
from embodied.train import checkpoint, imitation, reinforcement
from tests.train import test_reinforcement
from tests.train.test_imitation import dataset, make_config  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys, time
from pathlib import Path
from embodied.core.files import held_directory
with held_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["imitation", "reinforcement"])
def trainer(request, dataset):  # noqa: F811
    """A trainer and what it trains, of which a checkpoint is half."""
    if request.param == "imitation":
        return imitation.train, make_config(dataset, steps=2, checkpoint_every=1)
    return reinforcement.train, test_reinforcement.make_config(steps=2, checkpoint_every=1)


def test_a_second_trainer_is_refused_amid_a_checkpoint(trainer, tmp_path, monkeypatch):
    train, config = trainer
    run, write, met = tmp_path / "run", checkpoint.write_policy, []

    def meanwhile(directory, *args):
        monkeypatch.undo()
        write(directory, *args)
        with pytest.raises(DataError, match=r"another process is writing to .*run; wait for it"):
            train(config, run, resume=True)
        met.append(directory)

    monkeypatch.setattr(checkpoint, "write_policy", meanwhile)
    final = train(config, run)
    assert met and final.name == "00000002"
    assert [path.name for path in checkpoint.checkpoints(run)] == ["00000001", "00000002"]


def test_a_killed_trainers_run_is_free_at_once(dataset, tmp_path):  # noqa: F811
    run, config = tmp_path / "run", make_config(dataset, steps=1, checkpoint_every=1)
    words = [sys.executable, "-c", HOLD, str(run)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(DataError, match="another process"):
            imitation.train(config, run)
        assert (run / LOCK).exists()  # not taken back by who was refused
        process.send_signal(signal.SIGKILL)
    imitation.train(config, run)
    imitation.train(config, run, resume=True)


def test_what_a_failed_block_leaves_empty_is_taken_back(tmp_path):
    def fail(held, below):
        with held_directory(held, below):
            assert (held / below).is_dir()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "a" / "b", "c")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write"):
        fail(tmp_path / "file", "c")
