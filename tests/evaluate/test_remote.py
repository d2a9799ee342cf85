"""Evaluating a policy behind a server: ours answers as it would here, others by the protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from embodied.core.errors import ActionError, ConfigError, SimulatorError, SpecMismatch
from embodied.core.files import read_json
from embodied.core.rng import EVAL_SEED_START
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec
from embodied.core.task import EnvConfig
from embodied.core.text import INSTRUCTION, decode_instruction, encode_instruction
from embodied.evaluate import remote
from embodied.evaluate.api import evaluate
from embodied.evaluate.config import EvaluateConfig, RemoteConfig
from embodied.evaluate.results import EpisodeResult, read_episodes
from embodied.export.live import LiveEngine
from embodied.serve.client import ServerError
from embodied.serve.codec import pack, unpack
from embodied.serve.server import metadata_of
from embodied.train.checkpoint import LoadedPolicy, PolicyMeta, load
from tests.evaluate.checkpoints import untrained
from tests.evaluate.fakes import OBSERVATIONS, TARGETS, FakePolicy, FakeVecEnv
from tests.evaluate.test_runner import SEEDS, episodes
from tests.export.small import HEAD
from tests.serve.test_server import Running

pytest.importorskip("websockets")

META = PolicyMeta(
    policy="fake",
    policy_version=1,
    config={"memory": "sum"},
    interface={},
    tasks=["remember_color"],
    level="easy",
    env={"observation": "state"},
    train={"seed": 3, "data_seeds": [0, 99]},
    package_version="0",
)


def serving(loaded: LoadedPolicy, **options) -> Running:
    told = metadata_of(loaded.path, dataclasses.asdict(loaded.meta), "5" * 64, 6)
    return Running(engine=LiveEngine(loaded), metadata=told, **options)


@pytest.fixture
def ours():
    server = serving(LoadedPolicy(FakePolicy(), META, Path("fake")))
    yield server
    server.stop()


@contextlib.contextmanager
def connected(uri: str, **options):
    with remote.opened(EvaluateConfig(uri, **options), uri) as loaded:
        yield loaded


def told(rows: list[EpisodeResult]) -> list[EpisodeResult]:
    """Rows without what only the owner of a memory knows: how much of it is in use."""
    return [dataclasses.replace(row, state_filled=None) for row in rows]


def test_a_server_of_ours_gives_the_rows_that_its_policy_gives_here(ours) -> None:
    with connected(ours.uri) as loaded:
        assert loaded.meta.trained_on() == [("remember_color", "easy")]
        assert loaded.meta.train["data_seeds"] == [0, 99] and loaded.meta.policy == "fake"
        assert loaded.policy.parameter_count() == 6
        # Every other field is equal: success, reward, bytes of memory, row.
        assert episodes(loaded.policy, seeds=SEEDS[:9]) == told(episodes(seeds=SEEDS[:9]))
    assert ours.forgets()


def test_calls_are_counted_for_a_server_too(ours) -> None:
    with connected(ours.uri) as loaded:
        options = {"seeds": SEEDS[:3], "clock": "calls"}
        assert episodes(loaded.policy, **options) == told(episodes(**options))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"intervene": ["none", "swapped"]}, "intervene=swapped: ws://.* is a server; its memory"),
        ({"capacity": 4}, "capacity=4"),
        ({"inspect": True}, "inspect=true"),
        ({"device": "cuda"}, "device=cuda"),
        ({"remote": RemoteConfig(names={"a": "b"})}, "leave out remote.env, remote.names"),
    ],
)
def test_what_a_server_can_not_do_is_refused(ours, options, reason) -> None:
    with pytest.raises(ConfigError, match=reason), connected(ours.uri, **options):
        pass


def test_a_task_that_does_not_fit_is_refused(ours) -> None:
    with connected(ours.uri) as loaded:
        check = loaded.policy.check_environment
        for size, rate in ((6, 20.0), (7, 10.0)):
            space = SimpleNamespace(shape=(size,))
            env = SimpleNamespace(single_action_space=space, metadata={"control_hz": rate})
            with pytest.raises(SpecMismatch, match=rf"takes {size} at {rate:g} Hz"):
                check(env)
        space.n = 7  # choices
        check(SimpleNamespace(single_action_space=space, metadata={"control_hz": 20.0}))
        env = FakeVecEnv(2)
        env.observation_specs = {"position": OBSERVATIONS["position"]}
        with pytest.raises(SpecMismatch, match="cue: needed"):
            episodes(loaded.policy, env=env)
        with pytest.raises(ConfigError, match=r"the memory of ws://.* is there"):
            loaded.policy.observe({}, None, {}, None)


def test_another_policy_at_the_same_address_is_noticed(ours) -> None:
    with connected(ours.uri) as loaded:
        ours.server.metadata["sha256"] = "6" * 64
        with pytest.raises(SpecMismatch, match="serves another policy"):
            episodes(loaded.policy)


def test_a_description_that_is_not_understood_is_refused(ours) -> None:
    del ours.server.metadata["tasks"]
    with pytest.raises(SpecMismatch, match=r"KeyError.*the same version"), connected(ours.uri):
        pass
    with pytest.raises(SimulatorError, match="no policy server"):
        with connected("ws://127.0.0.1:9"):
            pass


# -- servers of others ------------------------------------------------------------------------


class Openpi:
    """A server by the protocol alone: a sum of cues for each connection, and no more.

    Args:
      size: Numbers of an action.
      broken: What it answers in place of actions.
    """

    def __init__(self, size: int = 7, **broken) -> None:
        from websockets.sync.server import serve

        self.size, self.broken, self.connections = size, broken, 0
        self.prompts: set[str] = set()
        self._server = serve(self._serve, "127.0.0.1", 0, compression=None, max_size=None)
        self.uri = f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, socket) -> None:
        self.connections += 1
        seen = np.zeros(3)
        socket.send(pack({}))
        for data in socket:
            message = unpack(data, 1 << 20)
            self.prompts.add(message.pop("prompt", ""))
            if message.keys() != {"observation/state"}:
                socket.send(f"Traceback: {sorted(message)}")
                continue
            state = message["observation/state"]
            seen += state[2:5]
            chunk = np.zeros((12, self.size))
            chunk[:, :2] = np.clip(TARGETS[seen.argmax()] - state[:2], -0.5, 0.5)
            socket.send(pack({"actions": chunk, **self.broken}))

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


@pytest.fixture
def other():
    made = []

    def start(*args, **options) -> Openpi:
        made.append(Openpi(*args, **options))
        return made[-1]

    yield start
    for server in made:
        server.stop()


NAMES = {"position": "observation/state", "cue": "observation/state"}


def policy_of(server: Openpi, names=NAMES, size: int = 7) -> remote.RemotePolicy:
    spec = dataclasses.replace(
        FakePolicy().spec, action=ActionSpec(EE_DELTA_CHUNK, size, 12), state={}
    )
    return remote.RemotePolicy(server.uri, spec, {}, RemoteConfig(names=dict(names)))


def test_another_server_begins_an_episode_with_a_connection(other) -> None:
    server = other()
    policy = policy_of(server)
    rows = episodes(policy, seeds=SEEDS[:9])
    policy.close()
    assert all(row.success and row.state_bytes == 0 for row in rows)
    assert server.connections == 9


def test_answers_that_are_no_actions_are_refused(other) -> None:
    for broken, kind, reason in (
        ({"actions": None}, SpecMismatch, "expected an answer with 'actions'"),
        ({"actions": np.zeros((5, 7))}, SpecMismatch, r"expected actions \[12, 7\], got \[5, 7\]"),
        ({"actions": np.full((12, 7), np.nan)}, ActionError, "NaN or infinite"),
    ):
        policy = policy_of(other(**broken))
        with pytest.raises(kind, match=reason):
            episodes(policy)
        policy.close()
    policy = policy_of(other(), names={"position": "state"})
    with pytest.raises(ServerError, match="Traceback"):
        episodes(policy)
    policy.close()


def test_names_and_instructions() -> None:
    obs = {"a": np.ones((2, 2), np.float32), "b": np.zeros(1, np.float32)}
    text = obs | {INSTRUCTION: encode_instruction("grüße")}
    assert remote.renamed(text, {})["prompt"] == "grüße"
    assert remote.renamed(text, {}).keys() == {"a", "b", "prompt"}
    joined = remote.renamed(text, {"b": "state", "a": "state"})
    assert joined["state"].tolist() == [0, 1, 1, 1, 1] and joined.keys() == {"state", "prompt"}
    assert decode_instruction(encode_instruction("")) == ""


# -- in the simulator ---------------------------------------------------------------------------


@pytest.mark.sim
def test_a_served_run_is_evaluated_as_the_run_is(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(untrained(tmp_path / "run", "perceptual_cognitive", head=HEAD))
    options = {"episodes": 2, "batch": 2, "videos": 0, "progress": False}
    here = evaluate(loaded.path, out="here", **options)
    server = serving(loaded)
    try:
        there = evaluate(server.uri, **options)
    finally:
        server.stop()
    assert there == Path("eval") / "easy-none-2"
    expected, found = (read_episodes(out / "episodes.jsonl") for out in (here, there))
    assert found == told(expected)
    results, report = read_json(there / "results.json"), (there / "report.md").read_text()
    assert results["policy"]["path"] == server.uri and results["policy"]["sha256"] == "5" * 64
    assert results["policy"]["server"]["source"] == loaded.path.name
    assert results["command"].startswith(f"embodied evaluate {server.uri} episodes=2")
    assert f"- server: `{server.uri}`" in report


@pytest.mark.sim
def test_another_server_is_asked_once_to_see_what_it_answers(other, tmp_path) -> None:
    names = {"eef_pos_world_m": "observation/state", "eef_quat_xyzw": "observation/state"}
    asked = RemoteConfig(names=names, env=EnvConfig(observation="state"))
    options = {"episodes": 1, "batch": 1, "videos": 0, "progress": False, "remote": asked}
    server = other()
    with pytest.raises(ConfigError, match="does not say what it was trained on; name tasks"):
        evaluate(server.uri, **options)
    out = evaluate(server.uri, task=["remember_color"], out=str(tmp_path / "out"), **options)
    [row] = read_json(out / "results.json")["rows"]
    assert row["n"] == 1 and row["level"] == "easy" and row["eval_seeds"][0] == EVAL_SEED_START
    # One to be refused, one for the first answer, one for the episode.
    assert server.connections == 3 and all(server.prompts)
    with pytest.raises(SpecMismatch, match="answers actions of 3 numbers"):
        evaluate(other(3).uri, task=["remember_color"], **options)
    asked.names = {"eef_pos": "observation/state"}
    with pytest.raises(ConfigError, match="did you mean 'eef_pos_world_m'"):
        evaluate(server.uri, task=["remember_color"], **options)
