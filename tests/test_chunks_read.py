"""Whether the right chunk was read: cases whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embodied import registry
from embodied.config import to_plain
from embodied.core.errors import ConfigError, SpecMismatch
from embodied.core.files import write_json
from embodied.core.task import EnvConfig
from embodied.evaluate.runner import run
from embodied.memory.chunk_config import HierarchicalChunksConfig
from embodied.train import checkpoint
from embodied.train.rollout import interface_of
from policies.hcam.config import HCAMConfig
from policies.hcam.policy import HCAM
from tests.test_bench import script  # noqa: F401

BALLET = ("recall/ballet_lite", "2_delay16_dances4")
SHORT = ("recall/ballet_lite", "2_delay2_dances4")
CHUNKS = {"chunk": 16, "window": 16, "capacity": 8, "top_k": 1, "layers": 2, "heads": 2}


@pytest.fixture
def study(script: Any) -> Any:  # noqa: F811
    return script("studies.chunks_read")


def make(task: str, level: str, read_when: str = "", **memory: Any) -> HCAM:
    """Returns an untrained agent to which all chunks are alike: it reads the oldest ones."""
    env = registry.make_vec(task, level)
    interface = interface_of(env)
    env.close()
    torch.manual_seed(0)
    config = HCAMConfig(
        width=16, hidden=16, memory_config={**CHUNKS, **memory}, read_when=read_when
    )
    policy = HCAM(config, interface)
    for layer in policy.memory.layers:
        torch.nn.init.zeros_(layer.chunks.relevance_query.weight)
    return policy


def shares(found: dict[str, Any], *names: str) -> list[list[float]]:
    return [[layer[name] for name in names] for layer in found["layers"]]


# -- a report whose answer is known -------------------------------------------------------------


def test_evidence_is_found_in_a_report(study: Any) -> None:
    """Chunks of 4 ticks at tick 22, window of 6: it sees ticks 17 to 22."""
    config = HierarchicalChunksConfig(chunk=4, window=6, top_k=2, capacity=4)
    number = torch.tensor([[1, 2, 4, -1]]).repeat(6, 1)
    report = {
        "layer1.chunk_number": number,
        "layer1.chunk_live": number >= 0,
        "layer1.chunk_weight": torch.tensor([[0.0, 0.4, 0.6, 0.0]]).repeat(6, 1),
    }
    evidence = np.array(
        [
            [[0, 3], [-1, -1]],  # chunk 0 is gone
            [[0, 4], [-1, -1]],  # ends in chunk 1, held and not read
            [[11, 12], [-1, -1]],  # begins in chunk 2, read
            [[16, 17], [-1, -1]],  # chunk 4, and the window's first tick
            [[20, 21], [-1, -1]],  # in no chunk yet
            [[4, 5], [8, 8]],  # the second stretch is read
        ]
    )
    look = study.look_at(report, 1, evidence, 22, config)
    assert look["held"].tolist() == [False, True, True, True, False, True]
    assert look["read"].tolist() == [False, False, True, True, False, True]
    assert look["in_window"].tolist() == [False, False, False, True, True, False]
    assert look["chunks_held"].tolist() == [3] * 6
    reads = np.array([True, True, False, True, True, True])
    assert not study.look_at(report, 1, evidence, 22, config, reads)["read"][2]


# -- agents whose answer is known ---------------------------------------------------------------


def test_an_agent_that_reads_the_first_chunk_is_right_for_the_first_dancer(study: Any) -> None:
    """The dances are ticks 0 to 15 and 31 to 46; the question comes at tick 62."""
    found = study.right_chunk_read(make(*BALLET), *BALLET, episodes=8, batch=8)
    assert found["episodes"] == 8
    assert shares(found, *study.FACTS) == [[0.5, 1.0, 0.0, 3.0]] * 2
    two = study.right_chunk_read(make(*BALLET, top_k=2), *BALLET, episodes=8, batch=8)
    assert shares(two, "read") == [[1.0]] * 2  # tick 31 is the last of chunk 1


@pytest.mark.parametrize(
    ("memory", "read_when", "expected"),
    [
        ({"capacity": 4}, "", [0.0, 0.0, 0.0, 4.0]),  # the sign's chunk was given up
        ({"capacity": 30}, "", [1.0, 1.0, 0.0, 25.0]),
        ({"capacity": 30, "window": 101}, "", [1.0, 1.0, 1.0, 25.0]),
        ({"capacity": 30}, "sign_token", [0.0, 1.0, 0.0, 25.0]),  # no sign now, so no read
    ],
)
def test_signs_of_long_ago(study: Any, memory: dict, read_when: str, expected: list) -> None:
    task = ("recall/t_maze", "length100")
    policy = make(*task, read_when, **{"chunk": 4, "window": 4, **memory})
    found = study.right_chunk_read(policy, *task, episodes=2, batch=2)
    assert shares(found, *study.FACTS) == [expected] * 2


def test_more_chunks_may_be_kept_than_in_training(study: Any) -> None:
    task = ("recall/t_maze", "length100")
    policy = make(*task, chunk=4, window=4, capacity=4)
    found = study.right_chunk_read(policy, *task, episodes=2, batch=2, capacity=30)
    assert shares(found, *study.FACTS) == [[1.0, 1.0, 0.0, 25.0]] * 2
    with pytest.raises(ConfigError, match="capacity must be >= 1"):
        study.right_chunk_read(policy, *task, episodes=2, batch=2, capacity=0)


def test_knobs_move_the_question(study: Any) -> None:
    policy = make(*BALLET)
    found = study.right_chunk_read(policy, *BALLET, {"delay": 48}, episodes=2, batch=2)
    assert shares(found, "chunks_held") == [[7.0]] * 2  # tick 126


def test_what_counts_before_the_question_is_passed_over(study: Any) -> None:
    """In VisualMatch actions count from tick 15 on; the doors stand there from tick 45 on."""
    task = ("recall/visual_match", "gap30")
    found = study.right_chunk_read(make(*task), *task, episodes=3, batch=3)
    assert shares(found, *study.FACTS) == [[1.0, 1.0, 0.0, 2.0]] * 2


def test_success_is_that_of_an_evaluation(study: Any) -> None:
    policy, seeds = make(*SHORT).train(), list(range(2_000_000, 2_000_030))
    torch.nn.init.normal_(policy.heads.policy[-1].weight)
    env = registry.make_vec(*SHORT, num_envs=30)
    rows = run(policy, env, seeds, progress=False)
    env.close()
    found = study.right_chunk_read(policy, *SHORT, episodes=30, batch=20)  # 10 rows too many
    assert found["success"] == pytest.approx(np.mean([row.success for row in rows]))
    assert 0 < found["success"] < 1
    assert policy.training


# -- what does not fit --------------------------------------------------------------------------


def test_what_cannot_be_looked_at_is_refused(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    city = ("recall/graph", next(iter(registry.task_info("recall/graph").levels)))
    with pytest.raises(ConfigError, match="does not know what must be remembered"):
        study.right_chunk_read(make(*city), *city, episodes=2)
    monkeypatch.setattr(study, "_evidence", lambda env: np.zeros((env.num_envs, 1, 2), int))
    with pytest.raises(ConfigError, match="without asking"):
        study.right_chunk_read(make(*city), *city, episodes=2)
    with pytest.raises(SpecMismatch, match="homes_token"):
        study.right_chunk_read(make(*BALLET), *city, episodes=2)
    with pytest.raises(ConfigError, match="must be >= 1"):
        study.right_chunk_read(make(*BALLET), *BALLET, episodes=0)
    other = HCAM(HCAMConfig(memory="lstm"), make(*BALLET).interface)
    with pytest.raises(ConfigError, match="got LSTMVector"):
        study.right_chunk_read(other, *BALLET, episodes=2)


def kept(policy: HCAM, task: str, level: str, run_dir: Path) -> Path:
    """Keeps an agent as a run of a task."""
    meta = checkpoint.PolicyMeta(
        policy="hcam",
        policy_version=policy.version,
        config=to_plain(policy.config),
        interface=policy.interface.to_json(),
        tasks=[task],
        level=level,
        env=to_plain(EnvConfig(observation="state")),
        train={"seed": 0},
        package_version="0",
    )
    checkpoint.write_policy(run_dir / "checkpoints" / "00000001", meta, policy.state_dict())
    return run_dir


def test_command_line(study: Any, tmp_path: Path, capsys: Any) -> None:
    policy = make(*SHORT)
    run_dir = kept(policy, *SHORT, tmp_path / "run")
    assert study.main([str(run_dir), "--episodes=4", "--batch=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == study.right_chunk_read(policy, *SHORT, episodes=4, batch=2)
    assert study.main([str(run_dir), "--episodes=4", "--batch=2", "--capacity=1"]) == 0
    (held, *_) = shares(json.loads(capsys.readouterr().out), "chunks_held")
    assert held == [1.0]
    assert study.main([str(run_dir), "--episodes=2", "--level=nothing"]) == 2
    assert capsys.readouterr().err.startswith("chunks_read: ")


# -- as a fact of a study -----------------------------------------------------------------------


def test_a_study_looks_once_beside_each_evaluation(
    script: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, level = "recall/t_maze", "length100"
    module, facts = script("studies.study"), script("studies.facts")
    monkeypatch.setattr(module.Cell, "work", lambda self: None)
    again = module.Variant("again", "", like="own")
    variants = (module.Variant("own", ""), again, module.Variant("lstm", ""))
    question = module.Study("toy", "", "", (), (), variants, facts=("right chunk read",))
    policy = make(task, level, chunk=4, window=4, capacity=4)
    lstm = HCAM(HCAMConfig(width=16, hidden=16, memory="lstm"), policy.interface)
    for name, agent in (("own", policy), ("lstm", lstm)):
        kept(agent, task, level, tmp_path / "toy" / f"{name}-s0")
    own, other, last = jobs = module.jobs(question, [], tmp_path)
    row = {"role": "policy", "intervene": "none", "task": task, "level": level, "knobs": {}}
    asked = {"episodes": 2, "seed_start": 7, "batch": 2}
    for job, capacity in ((own, 0), (last, 30), (other, 0)):
        config = {**asked, "capacity": capacity}
        rows = [row, {**row, "intervene": "swapped"}]
        write_json(job.results / "results.json", {"rows": rows, "config": config})

    def found() -> list[float | None]:
        return [facts.FACTS["right chunk read"].of(job.run, job.results) for job in jobs]

    assert found() == [None] * 3
    for job in jobs:
        job.work()
    assert found() == [0.0, None, 1.0]
    monkeypatch.setattr(module, "load", None)
    for job in jobs:
        job.work()  # looks no more
    assert facts.text("right chunk read", (0.5, None)) == "50.0 %, –"
