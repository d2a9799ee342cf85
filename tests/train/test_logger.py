"""The log: one line a row, a resumed run's as an uninterrupted one's, a picture beside it."""

import pytest

from embodied.train.logger import MetricsLogger, read_metrics


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
