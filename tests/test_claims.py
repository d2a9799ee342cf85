"""Claims: publishing, finding, replaying, and refusing what was changed."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from embodied.claims import index, publish
from embodied.claims.verify import Comparison, Verification, verify_claim
from embodied.core.errors import CheckpointError, ConfigError, DataError
from embodied.evaluate.results import EpisodeResult, read_episodes, write_episodes
from embodied.train.checkpoint import resolve

FIRST = 2_000_001


def test_index_of_nothing_is_empty(tmp_path):
    assert index.read_index(tmp_path) == []
    with pytest.raises(ConfigError, match="unknown claim"):
        index.find_claim("x", tmp_path)


def test_every_row_has_every_field(tmp_path):
    row = dict.fromkeys(index.FIELDS) | {"id": "memory_vla-a"}
    (tmp_path / "index.json").write_text(json.dumps([row]))
    assert index.find_claim("memory_vla-a", tmp_path) == row
    with pytest.raises(ConfigError, match="did you mean 'memory_vla-a'"):
        index.find_claim("memory_vla-b", tmp_path)
    with pytest.raises(ConfigError, match="ships no checkpoint"):
        index.claim_checkpoint("memory_vla-a", tmp_path)
    del row["ceiling"]
    (tmp_path / "index.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match="ceiling"):
        index.read_index(tmp_path)


def test_default_ids():
    row = {
        "policy": "memory_vla",
        "task": "put_block_back",
        "level": "easy",
        "knobs": {"K": 4},
        "observation": "rgb",
        "memory": "perceptual_cognitive",
        "intervene": "none",
    }
    assert publish.default_id(row) == "memory_vla-put_block_back-k4-rgb"
    twin = row | {"memory": "none", "intervene": "swapped", "knobs": {}}
    assert publish.default_id(twin) == "memory_vla-put_block_back-easy-rgb-none-swapped"
    assert publish.default_id(row, "core").startswith("suite-core-memory_vla-easy")


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Two training seeds with swaps and a twin beside, six episodes each."""
    from embodied.evaluate.api import evaluate
    from tests.evaluate.checkpoints import untrained

    base = tmp_path_factory.mktemp("claims")
    twin = untrained(base / "twin", "none", seed=0)
    found = {}
    for seed in (0, 1):
        run = untrained(base / f"run{seed}", "perceptual_cognitive", seed=seed)
        found[run] = evaluate(
            run,
            episodes=6,
            batch=3,
            seed_start=FIRST,
            intervene=["none", "swapped"],
            intervene_episodes=3,
            twin=str(twin),
            videos=0,
            progress=False,
        )
    return list(found.items()), twin


@pytest.fixture
def published(evaluations, tmp_path):
    runs, twin = evaluations
    twin_row = publish.add_claim([runs[0][1]], role="twin", root=tmp_path, checkpoint=twin)
    row = publish.add_claim(
        [out for _, out in runs], twin=twin_row["id"], checkpoint=runs[0][0], root=tmp_path
    )
    return tmp_path, row, twin_row


@pytest.mark.sim
def test_published_claim(published):
    root, row, twin = published
    assert row["id"] == "memory_vla-remember_color-k3-state"
    assert twin["id"] == row["id"] + "-none" == row["twin"]
    assert [r["id"] for r in index.read_index(root)] == [row["id"], twin["id"]]
    assert row["n"] == 12 and row["train_seeds"] == [0, 1]
    assert row["eval_seeds"] == [FIRST, FIRST + 5]
    assert row["ceiling"] == pytest.approx(1 / 3) and row["batch"] == 3
    assert row["swap_followed"] is None or 0 <= row["swap_followed"] <= 1
    assert row["checkpoint"] == f"{row['id']}/checkpoint"
    folder = root / row["id"]
    assert {p.name for p in folder.iterdir()} == {
        "checkpoint",
        "config.yaml",
        "episodes.jsonl",
        "swapped_episodes.jsonl",
        "evaluation-0.json",
        "evaluation-1.json",
        "report.md",
    }
    assert {p.name for p in (folder / "checkpoint").iterdir()} == {
        "policy.json",
        "model.safetensors",
    }
    assert resolve(folder) == folder / "checkpoint" == resolve(folder / "checkpoint")
    report = (folder / "report.md").read_text()
    assert "| 0 |" in report and "| 1 |" in report and "McNemar" in report and "t-test" in report
    assert str(root.parent.parent) not in report


@pytest.mark.sim
def test_replay_gives_the_published_outcomes(published):
    root, row, twin = published
    for name in (row["id"], twin["id"]):
        result = verify_claim(name, 4, root=root)
        assert result.exit_code == 0 and not result.differing and result.same_processor
        assert "verified" in result.text()
    assert len(verify_claim(row["id"], 4, root=root).comparisons) == 4 + 3


@pytest.mark.sim
def test_edited_rows_and_checkpoints_are_noticed(published):
    root, row, twin = published
    path = root / row["id"] / "episodes.jsonl"
    rows = read_episodes(path)
    edited = [dataclasses.replace(e, success=not e.success, length=e.length + 1) for e in rows]
    write_episodes(path, edited)
    result = verify_claim(row["id"], 2, root=root)
    assert result.exit_code == 1 and len(result.differing) == 2
    assert "NOT verified" in result.text() and "success" in result.text()
    write_episodes(path, edited[:-1])
    with pytest.raises(DataError, match="holds 11 episodes"):
        verify_claim(row["id"], 2, root=root)
    write_episodes(path, edited)
    other = root / twin["id"] / "checkpoint"
    shutil.rmtree(root / row["id"] / "checkpoint")
    shutil.copytree(other, root / row["id"] / "checkpoint")
    with pytest.raises(CheckpointError, match="not the network that was measured"):
        verify_claim(row["id"], 2, root=root)


@pytest.mark.sim
def test_another_processor_is_told(published):
    root, row, _ = published
    file = root / row["id"] / "evaluation-0.json"
    data = json.loads(file.read_text())
    data["machine"]["cpu"] = "another cpu"
    file.write_text(json.dumps(data))
    rows = read_episodes(root / row["id"] / "episodes.jsonl")
    rows = [dataclasses.replace(e, length=e.length + 1) for e in rows]
    write_episodes(root / row["id"] / "episodes.jsonl", rows)
    result = verify_claim(row["id"], 2, root=root)
    assert result.exit_code == 0 and "another cpu" in result.text()


@pytest.mark.parametrize(
    ("same_processor", "differing", "exit_code"),
    [(True, 0, 0), (True, 1, 1), (False, 1, 0), (False, 2, 0), (False, 3, 1)],
)
def test_how_many_outcomes_may_differ(same_processor, differing, exit_code):
    """Of ten replayed, what `verify` takes by default; P(X >= 2) = 8.6 %, P(X >= 3) = 1.2 %."""
    row = EpisodeResult("color", "easy", 5, 0, True, True, "a", "", 9, 1.0, 0.0, 3, 8, 0)
    changed = {"success": (True, False)}
    found = [Comparison(row, row, changed if i < differing else {}) for i in range(10)]
    result = Verification("memory_vla-a", tuple(found), same_processor, "a cpu")
    assert result.exit_code == exit_code
    text = result.text()
    assert f"{10 - differing} of 10 replayed episodes are as published" in text
    assert text.count("success True -> False") == differing
    assert ("more than 2 of 10 are improbable" in text) != same_processor


@pytest.mark.sim
def test_publishing_refuses(published, evaluations):
    root, row, _ = published
    (first, second), twin = evaluations
    with pytest.raises(ConfigError, match="exists already"):
        publish.add_claim([first[1]], name=row["id"], root=root)
    with pytest.raises(ConfigError, match="lower case"):
        publish.add_claim([first[1]], name="Mine", root=root)
    with pytest.raises(DataError, match="training seeds repeat"):
        publish.add_claim([first[1], first[1]], name="memory_vla-x", root=root)
    with pytest.raises(DataError, match="not a network"):
        publish.add_claim([first[1]], name="memory_vla-x", checkpoint=twin, root=root)
    with pytest.raises(DataError, match="no row"):
        publish.add_claim([first[1]], name="memory_vla-x", intervene="erased", root=root)
    with pytest.raises(ConfigError, match="unknown claim"):
        publish.add_claim([first[1]], name="memory_vla-x", twin="nobody", root=root)
    assert len(index.read_index(root)) == 2
    # The same network needs no second copy.
    again = publish.add_claim([first[1]], name="memory_vla-x", root=root)
    assert again["checkpoint"] == row["checkpoint"]
    assert second[1].exists()


def test_a_claim_of_several_levels(tmp_path):
    """Rows of one policy that was evaluated on two levels: one at a time, or as a suite."""
    row = {
        **dict.fromkeys(publish.SAME), "task": "color", "level": "easy", "role": "policy",
        "intervene": "none", "privileged": False, "n": 2, "policy": "memory_vla", "knobs": {"K": 3},
        "memory": "gru", "observation": "rgb", "ceiling": 0.5, "expert": 1.0, "eval_seeds": [5, 6],
    }  # fmt: skip
    hard = row | {"level": "hard", "knobs": {"K": 9}}
    episodes = [
        EpisodeResult(
            "color",
            level,
            seed,
            0,
            level == "easy",
            True,
            "a",
            "",
            9,
            1.0,
            0.0,
            3,
            8,
            0,
            train_seed=0,
        )
        for level in ("easy", "hard")
        for seed in (5, 6)
    ]
    source = tmp_path / "evaluation"
    results = {
        "format_version": 1,
        "rows": [row, hard],
        "policy": {"train": {"seed": 0}, "sha256": "0"},
        "config": {"source": "run"},
        "command": "c",
        "commit": "d",
    }
    source.mkdir()
    (source / "results.json").write_text(json.dumps(results))
    write_episodes(source / "episodes.jsonl", episodes)
    config = tmp_path / "config.yaml"
    config.write_text(
        "seed: 0\ninit: /home/somebody/runs/first\n"
        "data: [/home/somebody/data/d]\nfeatures: /home/somebody/f\n"
    )

    def publish_one(**options):
        return publish.add_claim(
            [source], train_config=config, root=tmp_path / "results", **options
        )

    with pytest.raises(DataError, match="hold color easy, color hard; say task= and level="):
        publish_one()
    with pytest.raises(DataError, match="level medium"):
        publish_one(level="medium")
    easy, both = publish_one(level="easy"), publish_one(suite="colors")
    # No folder of a machine is published.
    published = (tmp_path / "results" / easy["id"] / "config.yaml").read_text()
    assert published == "seed: 0\ninit: first\ndata:\n- d\nfeatures: f\n"
    assert (easy["id"], easy["success"], easy["n"]) == ("memory_vla-color-k3-rgb-gru", 1.0, 2)
    assert (both["level"], both["success"], both["n"]) == ("easy-hard", 0.5, 4)


def test_training_is_followed_back_to_its_first_run(tmp_path):
    for name, init in (("a", None), ("b", tmp_path / "a"), ("c", tmp_path / "b" / "checkpoints")):
        (tmp_path / name / "checkpoints" / "00000001").mkdir(parents=True)
        text = "steps: 1\n" if init is None else f"init: {init}\n"
        (tmp_path / name / "config.yaml").write_text(text)
    found = publish._train_configs(tmp_path / "c" / "checkpoints" / "00000001", None)
    assert [path.parent.name for path in found] == ["c", "b", "a"]
    assert publish._train_configs(None, None) == []
    assert publish._train_configs(None, tmp_path / "a" / "config.yaml") == [
        tmp_path / "a" / "config.yaml"
    ]
