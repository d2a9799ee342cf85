"""The line to a robot, its log, and a real-time run against a robot in another process."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time
import types
import zlib

import numpy as np
import pytest

from embodied.core.errors import DataError
from embodied.deploy import link as link_module
from embodied.deploy.drive import drive
from embodied.deploy.journal import BEGINNING, Journal, read_journal
from embodied.deploy.link import RobotLink, receive, send
from embodied.deploy.replay import replay
from embodied.deploy.robot import RobotConfig
from embodied.deploy.worker import Ask, Worker
from embodied.serve.bundle import MANIFEST
from embodied.serve.runtime import Runtime
from tests.deploy import fakes


def message(episode: int, tick: int, **fields) -> dict:
    return {
        "session": 1,
        "episode": episode,
        "phase": 0,
        "time_s": 0.05 * tick,
        "held": False,
        "done": False,
        "outcome": "",
        "obs": {"x": np.array([tick], np.float32)},
        **fields,
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


def test_the_newest_frame_counts_and_phases_are_numbered(line) -> None:
    robot, link = line
    assert link.latest() is None
    for tick in range(5):
        send(robot.connection, message(0, tick, phase=tick // 2, stamps={"x": 0.01}))
    until(lambda: link.latest() is not None and link.latest().time_s == pytest.approx(0.2))
    frame = link.latest()
    assert frame.obs["x"] == 4 and frame.phase == 2 and frame.stamps == {"x": 0.01}
    assert link.latest() is frame and not link.trouble


def test_a_line_that_is_silent_is_made_anew(line, monkeypatch) -> None:
    """Its other end may have gone without a word."""
    robot, link = line
    monkeypatch.setattr(link_module, "SILENT_S", 0.2)
    robot.connection.close()
    robot.accept()  # the new line has the short patience
    robot.accept()
    until(lambda: link.connections == 3)  # a line is accepted before its other end knows


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


def test_a_line_that_takes_no_more_is_cut_and_made_anew(line, monkeypatch) -> None:
    """Half an action may have gone, and a stop behind it would be read as its other half."""
    robot, link = line
    monkeypatch.setattr(link_module, "SILENT_S", 1.0)
    robot.connection.close()
    robot.accept()  # the new line has the short patience
    until(lambda: link.connections == 2 and link._connection is not None)
    told = threading.Event()

    def frames(connection=robot.connection) -> None:
        with contextlib.suppress(OSError):
            while not told.wait(0.05):  # all the while it tells frames, and reads nothing
                send(connection, message(0, 0))

    threading.Thread(target=frames, daemon=True).start()
    large = np.zeros(1 << 21)
    until(lambda: not link.send(large), 10.0)
    robot.accept()
    told.set()
    until(lambda: link.connections == 3 and link._connection is not None)
    assert link.send(None) and receive(robot.connection) == {"stop": True}


def test_a_line_can_be_ended_while_it_is_made(line, monkeypatch) -> None:
    robot, _ = line
    connect, free = socket.create_connection, threading.Event()

    def slow(*args, **options):
        free.wait(5)
        return connect(*args, **options)

    monkeypatch.setattr(link_module.socket, "create_connection", slow)
    link = RobotLink("127.0.0.1", robot.port)
    ended = threading.Thread(target=link.close)
    ended.start()
    until(link._ended.is_set)
    free.set()
    robot.accept()

    def tell() -> None:
        with contextlib.suppress(OSError):
            while not time.sleep(0.02):
                send(robot.connection, message(0, 0))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()  # frames go on, but not the line
    ended.join(5)
    thread.join(5)
    assert not thread.is_alive()
    assert not link._thread.is_alive()


def test_a_line_can_be_ended_while_it_is_cut(line) -> None:
    robot, _ = line

    class Fleeting(RobotLink):
        """Its other thread lets go of the connection right after somebody looked at it."""

        @property
        def _connection(self):
            found, self._there = self._there, None
            return found

        @_connection.setter
        def _connection(self, value) -> None:
            self._there = value

    link = Fleeting("127.0.0.1", robot.port)
    robot.accept()
    until(lambda: link._there is not None)
    link.close()
    assert not link._thread.is_alive()


def packed(**fields) -> bytes:
    return framed({k: v for k, v in message(0, 0, **fields).items() if v is not None})


def framed(found) -> bytes:
    data = link_module.pack(found)
    return struct.pack("!I", len(data)) + data


@pytest.mark.parametrize(
    ("data", "trouble"),
    [
        (struct.pack("!I", 2**31), "a message of 2,147,483,648 bytes"),
        (struct.pack("!I", 1) + b"\xc1", ""),
        (packed(session=None), "frame lacks 'session'; it needs session, episode"),
        (packed(gate=True), "has an unknown 'gate'"),
        (packed(held=1), "held of a robot's frame must be"),
        (packed(phase=True), "phase of a robot's frame must be"),
        (packed(time_s=float("nan")), "time_s of a robot's frame is nan"),
        (packed(time_s=1e300), "time_s of a robot's frame is 1e+300"),
        (packed(stamps={"x": "now"}), "x of a robot's frame is str; expected seconds"),
        (packed(stamps={"x": True}), "x of a robot's frame is True"),
        (packed(stamps={"x": -math.inf}), "x of a robot's frame is -inf"),
        (packed(time_s=math.inf, stamps={"time_s": 0.0}), "time_s of a robot's frame is inf"),
        (packed(obs={"x": [1.0]}), "must be names and arrays, got 'x' with list"),
        (packed(obs={"x": np.float32(1)}), "must be names and arrays, got 'x' with float32"),
        (packed(obs={b"x": np.zeros(1)}), "must be names and arrays, got \"b'x'\" with ndarray"),
        (framed({**message(0, 0), "gate": 1, b"gate": 1}), "has an unknown"),
        (framed([1]), "a message must be a map, got list"),
        (framed(np.zeros(2)), "a message must be a map, got ndarray"),
    ],
)
def test_what_is_no_frame_ends_the_line_and_not_the_loop(line, data, trouble) -> None:
    robot, link = line
    robot.connection.sendall(data)
    robot.accept()  # it has come again
    assert trouble in link.trouble and link.trouble
    send(robot.connection, message(0, 1))
    until(lambda: link.latest() is not None)


# ---- the log --------------------------------------------------------------------------------


def play(robot: Robot, frames: list[dict], taken: list) -> None:
    """A far end in real time: tells each frame, and what was sent for it is taken down."""
    robot.accept()
    with contextlib.suppress(OSError):  # the run is over
        for number, told in enumerate(frames):
            send(robot.connection, message(0, number, **told))
            taken.append(receive(robot.connection))


@pytest.fixture
def run(bundles, tmp_path):
    """A run of 1.5 s against a far end that cuts nothing, but shows nothing for a while."""
    from tests.export.small import seen

    policy, path = bundles("memory_vla")
    runtime, far, taken = Runtime.load(path), Robot(), []
    obs = [{k: v[0] for k, v in one.items()} for one in seen(policy, 40)]
    for tick, one in enumerate(obs):
        one["eef_pos_world_m"] = np.array([0.01 * tick, 0.0, 1.0], np.float32)
    frames = [{"obs": one, "held": 5 <= tick < 9, "phase": tick // 12}
              for tick, one in enumerate(obs)]  # fmt: skip
    for told in frames[20:26]:
        told["obs"] = {**told["obs"], "eef_pos_world_m": np.full(3, np.nan, np.float32)}
    specs = {key: vars(spec) for key, spec in runtime.spec.observations.items()}
    specs["eef_pos_world_m"] = {"shape": [3], "dtype": "float32", "unit": "m"}
    options = {"base_pos_world_m": [0.0, 0.1, 0.0], "gripper_command": [1.0, 0.0]}
    robot = RobotConfig("far", observations=specs, stale_s=0.6, most_speed_m_s=0.2, **options)
    thread = threading.Thread(target=play, args=(far, frames, taken), daemon=True)
    thread.start()
    log = tmp_path / "run.log"
    driven = drive(runtime, robot, "127.0.0.1", far.port, log, seed=3, seconds=1.5)
    far.listener.close()
    return path, log, driven, robot, taken


def test_a_run_replays_exactly_and_keeps_its_limits(run, bundles, tmp_path) -> None:
    path, log, driven, robot, taken = run
    rows = list(read_journal(log))
    ticks = [row for row in rows if row["kind"] == "tick"]
    found = replay(log, Runtime.load(path))
    assert found.exact and found.ticks == len(ticks) == driven.counters.ticks
    assert found.observed == driven.counters.observed >= 3
    assert found.answers >= 2 and driven.connections == 1 and not driven.trouble
    acted = [row for row in ticks if row["what"] == "act" and np.abs(row["action"][:3]).any()]
    assert acted
    for row in acted:
        move = row["action"][:3] * robot.pos_per_unit_m
        assert np.linalg.norm(move) <= robot.most_speed_m_s / robot.control_hz + 1e-6
    assert {"held", "act"} <= {row["what"] for row in ticks}
    sent = [m["action"][6] for m in taken if m and "action" in m]
    assert sent and all(0.0 <= value <= 1.0 for value in sent)  # the robot's own gripper
    changed = [r for r in rows if r["kind"] == "ask" and "chunk" in r][-1]
    assert changed["seconds"] > 0

    # What was changed is found: a chunk, an action, a tick that was left out.
    for change in ("chunk", "action", "took"):
        other = tmp_path / f"{change}.log"
        damaged(rows, other, change)
        again = replay(other, Runtime.load(path))
        assert not again.exact, change


def damaged(rows: list[dict], path, change: str) -> None:
    """Writes the log again with one thing changed."""
    journal = object.__new__(Journal)
    journal._file, journal._lock = path.open("xb"), threading.Lock()
    journal._file.write(BEGINNING)
    left = True
    for row in rows:
        row = dict(row)
        if left and change == "took" and row.get("took", -1) >= 0:
            row["took"], left = -1, False
        elif left and change in row and change != "took":
            row[change], left = row[change] + np.float32(1e-3), False
        journal._write(row)
    journal.close()


def test_a_log_is_whole_or_refused(run, bundles, tmp_path) -> None:
    path, log, *_ = run
    count, whole = len(list(read_journal(log))), log.read_bytes()
    (tmp_path / "cut.log").write_bytes(whole[:-3])
    assert len(list(read_journal(tmp_path / "cut.log"))) == count - 1
    (tmp_path / "bad.log").write_bytes(whole[:200] + b"\xff" * 200 + whole[400:])
    with pytest.raises(DataError, match="is damaged at byte"):
        list(read_journal(tmp_path / "bad.log"))
    with pytest.raises(DataError, match="already"):
        Journal(log, Runtime.load(path))
    with pytest.raises(DataError, match="is of the bundle memory_vla"):
        replay(log, Runtime.load(bundles("hcam")[1]))
    with pytest.raises(DataError, match="can't read"):
        list(read_journal(tmp_path / "none.log"))


class Failing:
    """A policy that moves by what it remembers, and fails at its `most`-th tick, slowly."""

    spec = fakes.SPEC

    def __init__(self, path, most: float = math.inf) -> None:
        (path / MANIFEST).write_text("{}")
        self.bundle = types.SimpleNamespace(path=path, executor={})
        self.most, self.state = most, self.initial(1)

    def initial(self, batch: int) -> dict:
        return {"ticks": np.zeros(batch)}

    def observe(self, obs, time_s, reset) -> None:
        self.state = {"ticks": self.state["ticks"] + 1}
        if self.state["ticks"][0] >= self.most:
            time.sleep(0.3)
            raise RuntimeError("a bug")

    def act(self, noise) -> np.ndarray:
        return np.full((1, 8, 7), 0.1 * self.state["ticks"][0], np.float32)


def test_a_run_that_ended_amid_a_question_replays_exactly(tmp_path) -> None:
    """By an error or a kill: what was asked and never answered is not in the log."""
    far, log = Robot(), tmp_path / "run.log"
    frames = [{"obs": fakes.frame(tick).obs} for tick in range(60)]
    threading.Thread(target=play, args=(far, frames, []), daemon=True).start()
    robot = fakes.robot(stale_s=2.0, watchdog_s=5.0)
    with pytest.raises(RuntimeError, match="a bug"):
        drive(Failing(tmp_path, 3), robot, "127.0.0.1", far.port, log, seconds=10.0)
    far.listener.close()
    rows = list(read_journal(log))
    assert sum(row["kind"] == "ask" for row in rows) == 2 and rows[-1]["kind"] == "tick"
    found = replay(log, Failing(tmp_path))
    assert found.exact and found.observed == 3 and found.answers == 2


@pytest.fixture
def small(tmp_path):
    """A log in the making: a start and three ticks."""
    (tmp_path / MANIFEST).write_text("{}")
    bundle = types.SimpleNamespace(path=tmp_path)
    journal = Journal(tmp_path / "small.log", types.SimpleNamespace(bundle=bundle))
    for tick in range(3):
        journal.tick({"tick": tick, "action": np.zeros(7, np.float32)})
    return journal


def test_no_flipped_bit_of_a_log_is_read(small, tmp_path) -> None:
    """Nor does one make what follows it look like the end of a run that was killed."""
    small.close()
    whole, changed = small.path.read_bytes(), tmp_path / "changed.log"
    assert len(list(read_journal(small.path))) == 4
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        changed.write_bytes(flipped)
        with pytest.raises(DataError, match=r"is damaged at byte|is no log of a run"):
            list(read_journal(changed))


def test_a_log_that_was_cut_anywhere_is_read_up_to_there(small, tmp_path) -> None:
    small.close()
    whole, cut, counts = small.path.read_bytes(), tmp_path / "cut.log", []
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        counts.append(len(list(read_journal(cut))))
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3, 4}
    assert counts[-2:] == [3, 4]


def test_a_log_of_another_version_is_refused(tmp_path) -> None:
    data = link_module.pack({"kind": "start"})
    first = struct.pack("!II", len(data), zlib.crc32(data)) + data  # without a beginning
    for old in (first, BEGINNING.replace(b"2", b"3"), b"\0" * 100):
        (tmp_path / "old.log").write_bytes(old)
        with pytest.raises(DataError, match="begin with 'embodied run log 2', got"):
            list(read_journal(tmp_path / "old.log"))


def test_a_full_disk_is_told(small) -> None:
    small.close()
    small._file = open("/dev/full", "wb")  # noqa: SIM115
    for write in (lambda: small.tick({"tick": 3}), small.close):
        with pytest.raises(DataError, match=r"can't write .*small.log: No space left on device"):
            write()
    assert len(list(read_journal(small.path))) == 4


def make_ask(obs, tick: int, noise):
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
def test_a_simulated_robot_in_real_time(bundles, tmp_path) -> None:
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
    specs = {key: vars(spec) for key, spec in runtime.spec.observations.items()}
    robot = RobotConfig(name="simulated", observations=specs, stale_s=1.0, watchdog_s=5.0)
    log = tmp_path / "run.log"
    driven = drive(runtime, robot, "127.0.0.1", ports[0], log, seconds=2.0)
    simulated.stop()
    thread.join(10)
    assert not thread.is_alive()
    rows = [row for row in read_journal(log) if row["kind"] == "tick"]
    assert 20 <= driven.counters.ticks == len(rows) <= 41
    assert 2 <= driven.counters.observed <= 8  # some five of 0.4 s, and gates
    assert all(np.abs(row["action"]).max() <= 1 for row in rows)
    told = [(row["session"], row["episode"], row["time_s"]) for row in rows if "session" in row]
    assert told and told == sorted(told)
    assert replay(log, Runtime.load(path)).exact
