"""The log: one line a row, a resumed run's as an uninterrupted one's, a picture beside it."""

import pytest

from embodied.train import logger
from embodied.train.logger import MetricsLogger, cpu_seconds, read_metrics


def test_a_resumed_log_forgets_what_came_after(tmp_path):
    log = MetricsLogger(tmp_path, 0)
    for step in range(5):
        log.log(step, {"loss": 1.0 / (step + 1), "broken": float("nan")})
    log.close()
    log = MetricsLogger(tmp_path, 3)
    log.log(3, {"loss": 9.0})
    log.close()
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["loss"] == 9.0 and rows[0]["broken"] is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_same(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    test_a_resumed_log_forgets_what_came_after(tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(e.step, round(e.value, 3)) for e in events.Scalars("loss")] == [
        (0, 1.0), (1, 0.5), (2, 0.333), (3, 9.0),
    ]  # fmt: skip


def test_cpu_seconds_go_on_in_a_process_that_carries_on(tmp_path, monkeypatch):
    """Also where it has taken longer, by its first row, than the one before by its last."""
    for start, spent in ((0, 30.0), (2, 35.0)):
        monkeypatch.setattr(logger.time, "process_time", lambda spent=spent: spent)
        log = MetricsLogger(tmp_path, start)
        for step in (start, start + 1, start + 2):
            log.log(step, {"cpu_s": log.cpu_s()})
        log.close()
    assert cpu_seconds(read_metrics(tmp_path)) == 65.0
    assert cpu_seconds([{"cpu_s": s} for s in (30.0, 60.0, 10.0, 30.0)]) == 90.0  # counted anew
    assert cpu_seconds([{"loss": 1.0}]) is None
