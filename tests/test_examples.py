"""The worked examples of the README: a memory, a policy and a task of one file each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from embodied import registry
from embodied.benchmark.config import BenchmarkConfig
from embodied.benchmark.record import Record
from embodied.benchmark.run import write_reports
from embodied.cli import main
from embodied.core.entities import FEATURES, MAX_ENTITIES
from embodied.core.errors import ConfigError
from embodied.core.specs import ArraySpec, Interface
from embodied.core.task import EnvConfig
from tests.contracts.memory import MemoryCase, MemoryContract
from tests.contracts.policy import PolicyCase, PolicyContract
from tests.contracts.tools import STREAMS
from tests.examples import installed
from tests.examples.own_memory import FirstItemConfig, FirstItemMemory
from tests.examples.own_policy import SmallConfig, SmallPolicy

OBSERVATIONS = {
    "entities": ArraySpec((MAX_ENTITIES, FEATURES), "float32"),
    "eef_pos_world_m": ArraySpec((3,), "float32"),
    "gripper_opening": ArraySpec((1,), "float32"),
}


def policy(memory: str) -> SmallPolicy:
    return SmallPolicy(SmallConfig(memory=memory), Interface(OBSERVATIONS))


@pytest.mark.parametrize(
    "case",
    [MemoryCase("first_item", lambda detach: FirstItemMemory(STREAMS, FirstItemConfig(detach)))],
    ids=str,
)
class TestOwnMemory(MemoryContract):
    pass


@pytest.mark.parametrize(
    "case",
    [
        PolicyCase("gru", lambda: policy("gru")),
        PolicyCase("none", lambda: policy("none"), remembers=False),
    ],
    ids=str,
)
class TestOwnPolicy(PolicyContract):
    pass


ENTRY_POINTS = """[embodied.tasks]
remember_side = tests.examples.own_task:INFO
[embodied.policies]
small_gru = tests.examples.own_policy:SmallPolicy
"""


@pytest.fixture
def own_package(tmp_path: Path):
    """The examples as an installed distribution offers them."""
    with installed(tmp_path, ENTRY_POINTS):
        yield


@pytest.mark.sim
@pytest.mark.usefixtures("own_package")
def test_the_task_is_solved_by_its_expert_and_hides_its_cue() -> None:
    env = registry.make_env("remember_side", "easy", EnvConfig(observation="state"))
    world = env.unwrapped
    for seed in range(6):
        _, info = env.reset(seed=seed)
        expert, over = world.make_expert(seed), False
        while not over:
            _, _, terminated, truncated, info = env.step(expert.act())
            over = terminated or truncated
        assert info["success"], (seed, info)
    at_go = []
    for cue in range(2):
        _, info = env.reset(seed=3, options={"cue": cue})
        while info["phase"] != "execute":
            observation, _, _, _, info = env.step(np.zeros(7, np.float32))
        at_go.append(observation)
    for key, value in at_go[0].items():
        assert np.array_equal(value, at_go[1][key]), key
    env.close()


@pytest.mark.usefixtures("own_package")
def test_a_benchmarks_page_tells_of_an_installed_task(tmp_path: Path) -> None:
    config = BenchmarkConfig(task=["remember_side"], report="html")
    write_reports(tmp_path, config, Record({}, {}))
    page = (tmp_path / "report.html").read_text()
    assert "see a cube on one side" in page and "A task of one&#x27;s own" in page
    assert "touch the cube on the side where you saw one" in page
    assert "No certificate is stored" in page and "No cell is done yet" in page


@pytest.mark.sim
@pytest.mark.render
@pytest.mark.usefixtures("own_package")
def test_the_certificate_of_an_installed_task_is_found(tmp_path: Path, monkeypatch) -> None:
    """Where `embodied certify` wrote it; one of other knobs is refused."""
    monkeypatch.chdir(tmp_path)
    assert registry.certificate("remember_side") is None
    assert main(["certify", "remember_side", "episodes=2", "reactive_episodes=1"]) == 0
    stored = tmp_path / "certificates" / "remember_side.json"
    assert registry.certificate("remember_side") == json.loads(stored.read_text())
    assert registry.expert_success("remember_side", "easy", "fast") == 1.0
    write_reports(tmp_path, BenchmarkConfig(task=["remember_side"], report="html"), Record({}, {}))
    page = (tmp_path / "report.html").read_text()
    assert "No certificate is stored" not in page and "equal to the last bit at go" in page

    changed = json.loads(stored.read_text())
    changed["levels"]["easy"]["knobs"]["gap_max_s"] = 9.0
    stored.write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="other knobs at easy; make it anew with `embodied cert"):
        registry.certificate("remember_side")
    stored.write_text(json.dumps({**changed, "levels": {}, "task": "remember_color"}))
    with pytest.raises(ConfigError, match="task 'remember_color', not 'remember_side'"):
        registry.expert_success("remember_side", "easy", "fast")


@pytest.mark.sim
@pytest.mark.usefixtures("own_package")
def test_an_installed_task_runs_in_worker_processes() -> None:
    vector = registry.make_vec(
        "remember_side", "easy", EnvConfig(observation="state"), num_envs=2, num_workers=1
    )
    try:
        observations, infos = vector.reset(seed=[0, 1])
        assert observations["entities"].shape[0] == 2
        assert len(infos["cue"]) == 2
    finally:
        vector.close()


@pytest.mark.sim
@pytest.mark.usefixtures("own_package")
def test_the_policy_trains_on_the_task(tmp_path: Path) -> None:
    from embodied.collect import collect
    from embodied.train.checkpoint import load
    from embodied.train.config import Component, TrainConfig
    from embodied.train.imitation import train

    state = EnvConfig(observation="state")
    data = tmp_path / "data"
    collect("remember_side", "easy", state, episodes=4, out=data, num_workers=0, progress=False)
    config = TrainConfig(
        ["remember_side"],
        observation="state",
        data=[str(data)],
        policy=Component("small_gru"),
        memory=Component("gru"),
        steps=3,
        batch_episodes=2,
        log_every=1,
    )
    train(config, tmp_path / "run")
    loaded = load(tmp_path / "run")
    assert isinstance(loaded.policy, SmallPolicy)
    assert all(torch.isfinite(t).all() for t in loaded.policy.state_dict().values())
    shutil.rmtree(tmp_path / "run")
