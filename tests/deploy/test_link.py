"""The line to a robot, its log, and a real-time run against a robot in another process."""

from __future__ import annotations

import socket
import struct
import threading
import time

import numpy as np
import pytest

from embodied.core.errors import DataError
from embodied.deploy.journal import Journal, read_journal, replay
from embodied.deploy.link import RobotLink, receive, send
from embodied.deploy.loop import ControlLoop, Worker
from embodied.deploy.robot import RobotConfig
from embodied.serve.runtime import Runtime


def message(episode: int, tick: int, gate: bool = False) -> dict:
    return {
        "episode": episode,
        "time_s": 0.05 * tick,
        "held": False,
        "gate": gate,
        "done": False,
        "outcome": "",
        "obs": {"x": np.array([tick], np.float32)},
    }


class Robot:
    """The far end of a line."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.port = self.listener.getsockname()[1]
        self.connection: socket.socket | None = None

    def accept(self) -> None:
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(5)


def until(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.fixture
def line():
    robot = Robot()
    link = RobotLink("127.0.0.1", robot.port)
    robot.accept()
    yield robot, link
    link.close()
    robot.listener.close()


def test_the_newest_frame_counts_and_no_gate_is_lost(line) -> None:
    robot, link = line
    assert link.latest() is None
    for tick in range(5):
        send(robot.connection, message(0, tick, gate=tick == 1))
    until(lambda: link._newest is not None and link._newest.time_s == pytest.approx(0.2))
    frame = link.latest()
    assert frame.obs["x"] == 4 and frame.gate  # that of tick 1
    assert not link.latest().gate
    send(robot.connection, message(0, 5, gate=True))
    until(lambda: link._newest.time_s == pytest.approx(0.25))
    assert link.latest().gate and not link.latest().gate  # one frame, looked at twice
    send(robot.connection, message(0, 6, gate=True))
    send(robot.connection, message(1, 0))
    until(lambda: link._newest.episode == 1)
    assert not link.latest().gate  # of an episode that is over


def test_actions_and_stops_go_the_other_way(line) -> None:
    robot, link = line
    until(lambda: link._connection is not None)
    assert link.send(np.arange(7)) and link.send(None)
    assert receive(robot.connection)["action"].tolist() == list(range(7))
    assert receive(robot.connection) == {"stop": True}


def test_a_line_that_is_cut_is_joined_again(line) -> None:
    robot, link = line
    send(robot.connection, message(0, 0))
    until(lambda: link.latest() is not None)
    robot.connection.close()
    until(lambda: link._connection is None)
    assert not link.send(np.zeros(7))
    robot.accept()
    send(robot.connection, message(0, 9))
    until(lambda: link.latest().obs["x"] == 9)
    assert link.connections == 2


@pytest.mark.parametrize("data", [struct.pack("!I", 2**31), struct.pack("!I", 1) + b"\xc1"])
def test_what_is_no_frame_ends_the_line_and_not_the_loop(line, data) -> None:
    robot, link = line
    robot.connection.sendall(data)
    robot.accept()  # it has come again
    send(robot.connection, message(0, 1))
    until(lambda: link.latest() is not None)


# ---- the log --------------------------------------------------------------------------------


def test_a_log_replays_exactly_and_names_its_bundle(bundles, tmp_path) -> None:
    from tests.export.small import seen

    policy, path = bundles("memory_vla")
    runtime = Runtime.load(path)
    journal = Journal(tmp_path / "run.log", runtime)
    worker = Worker(runtime, journal.ask)
    rng = np.random.default_rng(0)
    for tick, obs in enumerate(seen(policy, 6)):
        noise = rng.standard_normal((1, *runtime.spec.noise_shape)).astype(np.float32)
        ask = make_ask(obs, tick, noise)
        worker.ask(ask)
        until(lambda: worker.answer() is not None)
        journal.tick({"tick": tick, "action": np.zeros(7, np.float32)})
    worker.close()
    journal.close()
    assert replay(tmp_path / "run.log", Runtime.load(path)) == (5, 0.0)
    kinds = [row["kind"] for row in read_journal(tmp_path / "run.log")]
    assert kinds == ["start"] + ["ask", "tick"] * 6
    whole = (tmp_path / "run.log").read_bytes()
    (tmp_path / "cut.log").write_bytes(whole[:-3])
    assert len(list(read_journal(tmp_path / "cut.log"))) == len(kinds) - 1
    (tmp_path / "bad.log").write_bytes(whole[:200] + b"\xff" * 200 + whole[400:])
    with pytest.raises(DataError, match="no log of a run, or damaged"):
        list(read_journal(tmp_path / "bad.log"))
    with pytest.raises(DataError, match="already"):
        Journal(tmp_path / "run.log", runtime)
    with pytest.raises(DataError, match="is of the bundle memory_vla"):
        replay(tmp_path / "run.log", Runtime.load(bundles("hcam")[1]))
    with pytest.raises(DataError, match="can't read"):
        list(read_journal(tmp_path / "none.log"))


def make_ask(obs, tick: int, noise):
    from embodied.deploy.loop import Ask

    return Ask(tick, 0, obs, 0.4 * tick, tick == 0, tick != 1, noise, tick)


def test_a_policy_that_fails_is_told(bundles) -> None:
    _, path = bundles("memory_vla")
    runtime = Runtime.load(path)
    worker = Worker(runtime)
    worker.ask(make_ask({}, 0, np.zeros((1, *runtime.spec.noise_shape), np.float32)))
    with pytest.raises(Exception, match="is missing"):
        until(lambda: worker.answer() is not None)
    worker.close()


# ---- a robot in real time -------------------------------------------------------------------


@pytest.mark.sim
def test_a_simulated_robot_in_real_time(bundles) -> None:
    """An untrained policy drives for two seconds: rates, memory ticks and limits are kept."""
    from embodied.core.task import EnvConfig
    from embodied.deploy.simulated import SimulatedConfig, SimulatedRobot

    _, path = bundles("memory_vla")
    runtime = Runtime.load(path)
    started, ports = threading.Event(), []

    def ready(port: int) -> None:
        ports.append(port)
        started.set()

    config = SimulatedConfig(env=EnvConfig(observation="state"), port=0, freeze_at_s=0.0)
    simulated = SimulatedRobot(config, ready)
    thread = threading.Thread(target=simulated.run, daemon=True)
    thread.start()
    assert started.wait(60)
    link = RobotLink("127.0.0.1", ports[0])
    until(lambda: link.latest() is not None, 20)
    specs = {key: vars(spec) for key, spec in runtime.spec.observations.items()}
    robot = RobotConfig(name="simulated", observations=specs, stale_s=1.0, watchdog_s=5.0)
    rows: list[dict] = []
    loop = ControlLoop(runtime, robot, link, journal=rows.append)
    loop.run(seconds=2.0)
    link.close()
    loop.worker.close()
    simulated.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert 20 <= loop.counters.ticks <= 41
    assert 2 <= loop.counters.observed <= 8  # some five of 0.4 s, and gates
    assert all(np.abs(row["action"]).max() <= 1 for row in rows)
    times = [row["time_s"] for row in rows if row["time_s"] >= 0]
    assert times == sorted(times) or len({row["episode"] for row in rows}) > 1
