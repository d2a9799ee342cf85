"""What may be pooled, compared and replaced, and what a report says; nothing is simulated."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from embodied.claims import index, publish
from embodied.claims.report import text
from embodied.core.errors import ConfigError, DataError
from embodied.core.files import held_directory
from embodied.evaluate.results import EpisodeResult, write_episodes

CLAIM, TWIN = "memory_vla-color-k3-state-gru", "memory_vla-color-k3-state-none"

ROW = {
    **dict.fromkeys(publish.SAME), "task": "color", "level": "easy", "role": "policy",
    "intervene": "none", "privileged": False, "policy": "memory_vla", "knobs": {"K": 3},
    "memory": "gru", "observation": "state", "control": "fast", "visuals": "lite", "cameras": [],
    "image_size": 64, "batch": 16, "ceiling": 0.5, "expert": 1.0,
}  # fmt: skip


@dataclasses.dataclass
class Place:
    """A task's episodes: how many succeed, commit and are run, from seed 5 on."""

    wins: int
    commits: int
    n: int
    level: str = "easy"
    task: str = "color"


def evaluation(
    path: Path,
    places: Sequence[Place] = (Place(3, 4, 4),),
    seed: int = 0,
    config=None,
    network: str = "",
    **fields,
) -> Path:
    """Writes what publishing reads of a results directory; `fields` are those of its rows."""
    kind = fields.get("intervene", "none")
    swap = {} if kind == "none" else {"intervened": True, "donor_cue": 1, "followed": True}
    rows, episodes = [], []
    for place in places:
        setting = {"task": place.task, "level": place.level, "n": place.n}
        rows.append({**ROW, **fields, **setting, "eval_seeds": [5, 4 + place.n]})
        episodes += [
            EpisodeResult(
                place.task, place.level, 5 + i, 0, i < place.wins, i < place.commits, "a", "", 9,
                1.0, 0.0, 3, 8, 0, train_seed=seed, intervene=kind,
                **swap,
            )
            for i in range(place.n)
        ]  # fmt: skip
    path.mkdir(parents=True)
    results = {
        "format_version": 1,
        "rows": rows,
        "policy": {"train": {"seed": seed}, "sha256": network or f"{path}"},
        "config": {"source": "run", **(config or {})},
        "command": "c",
        "commit": "d",
    }
    (path / "results.json").write_text(json.dumps(results))
    write_episodes(path / "episodes.jsonl", episodes)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "results"


def report(root: Path, name: str) -> str:
    return (root / name / "report.md").read_text()


# ---- pooling ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"clock": "calls"}, "clock: 'episode' against 'calls'"),
        ({"capacity": 8}, "capacity: 0 against 8"),
        ({"executor": {"ensemble_chunks": 2}}, "executor.ensemble_chunks: 4 against 2"),
    ],
)
def test_evaluations_that_were_run_in_another_way_are_not_pooled(tmp_path, root, config, told):
    first, other = evaluation(tmp_path / "a"), evaluation(tmp_path / "b", seed=1, config=config)
    with pytest.raises(DataError, match=f"can't be pooled: {told}"):
        publish.add_claim([first, other], root=root)
    with pytest.raises(DataError, match=f"can't be pooled: {told}"):
        publish.add_claim([first], swapped=[other], root=root)


def test_what_older_results_leave_out_is_the_default(tmp_path, root):
    first = evaluation(tmp_path / "a")
    other = evaluation(tmp_path / "b", seed=1, config={"clock": "episode", "capacity": 0})
    assert publish.add_claim([first, other], root=root)["n"] == 8


def test_swaps_are_of_the_claims_networks_in_its_setting_and_each_once(tmp_path, root):
    plain = evaluation(tmp_path / "a", network="mine")
    swaps = {
        name: evaluation(tmp_path / name, intervene="swapped", **{"network": "mine", **fields})
        for name, fields in {
            "own": {},
            "again": {},
            "other": {"network": "another"},
            "batch": {"batch": 24},
            "knobs": {"knobs": {"K": 9}},
        }.items()
    }

    def add(*names: str) -> dict:
        return publish.add_claim([plain], swapped=[swaps[name] for name in names], root=root)

    with pytest.raises(DataError, match=r"networks that the claim is not about \(sha256 another\)"):
        add("own", "other")
    with pytest.raises(DataError, match=r"in another setting: {'batch': \(16, 24\)}"):
        add("batch")
    with pytest.raises(DataError, match=r"in another setting: {'knobs'"):
        add("knobs")
    with pytest.raises(DataError, match="of one network are swapped in several evaluations"):
        add("own", "again")
    assert add("own")["swap_followed"] == 1.0
    said = report(root, CLAIM)
    assert "followed in 4 of 4 episodes" in said and "as far as" not in said


def test_a_report_says_how_many_did_not_get_to_the_swap(tmp_path, root):
    plain = evaluation(tmp_path / "a", network="mine")
    swaps = evaluation(tmp_path / "s", network="mine", intervene="swapped")
    file = swaps / "episodes.jsonl"
    failed = file.read_text().replace('"followed": true', '"followed": null', 1)
    file.write_text(failed.replace('"intervened": true', '"intervened": false', 1))
    publish.add_claim([plain], swapped=[swaps], root=root)
    told = "followed in 3 of 3 episodes (100.0 %, 43.9 – 100.0). 1 of 4 did not get as far as the"
    assert told in report(root, CLAIM)


def cut(file: Path) -> None:
    """Loses the last line of a file, as half a copy of it would."""
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def test_episodes_that_were_lost_are_noticed(tmp_path, root):
    source = evaluation(tmp_path / "a", (Place(3, 4, 4), Place(1, 4, 4, "hard")))
    cut(source / "episodes.jsonl")
    with pytest.raises(DataError, match=r"3 episodes of color hard none, results\.json tells of 4"):
        publish.add_claim([source], suite="colors", root=root)
    twin = publish.add_claim([evaluation(tmp_path / "t", memory="none")], root=root)
    cut(root / TWIN / "episodes.jsonl")
    with pytest.raises(DataError, match=r"holds 3 episodes, the claim '.*-none' is about 4"):
        publish.add_claim([evaluation(tmp_path / "b")], twin=twin["id"], root=root)


# ---- twins ------------------------------------------------------------------------------


def test_a_claim_with_a_memory_is_no_twin(tmp_path, root):
    publish.add_claim([evaluation(tmp_path / "a")], root=root)
    with pytest.raises(ConfigError, match=f"claim '{CLAIM}' has memory=gru; a twin has"):
        publish.add_claim([evaluation(tmp_path / "b")], name="memory_vla-b", twin=CLAIM, root=root)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"knobs": {"K": 9}}, r"knobs \{'K': 3\} against \{'K': 9\}"),
        ({"image_size": 128}, "image_size 64 against 128"),
        ({"cameras": ["front"]}, r"cameras \[\] against \['front'\]"),
    ],
)
def test_a_twin_of_another_setting_is_refused(tmp_path, root, fields, told):
    twin = publish.add_claim([evaluation(tmp_path / "t", memory="none", **fields)], root=root)
    with pytest.raises(ConfigError, match=f"another setting than the policy: {told}"):
        publish.add_claim([evaluation(tmp_path / "a")], twin=twin["id"], root=root)


def test_a_twin_is_paired_within_the_level(tmp_path, root):
    """Both succeed at easy and fail at hard, on the same seeds: no difference."""
    places = (Place(4, 4, 4), Place(0, 4, 4, "hard"))
    twin = publish.add_claim(
        [evaluation(tmp_path / "t", places, memory="none")], suite="colors", root=root
    )
    row = publish.add_claim(
        [evaluation(tmp_path / "a", places)], suite="colors", twin=twin["id"], root=root
    )
    assert "the difference is +0.0 points; exact McNemar p <= 1 for each" in report(root, row["id"])
    assert "no able control" not in report(root, row["id"])


def test_a_twin_of_a_suite_is_held_to_each_ceiling(tmp_path, root):
    apart = (Place(584, 1000, 1000), Place(416, 1000, 1000, task="block"))
    twin = publish.add_claim(
        [evaluation(tmp_path / "t", apart, memory="none")], suite="two", root=root
    )
    said = report(root, twin["id"])
    assert (twin["success"], twin["ceiling"]) == (0.5, 0.5)
    assert "equivalence to the ceiling not shown for all 2 tasks (largest p of a task's" in said
    assert "No able control" not in said


def test_a_twin_that_does_not_act_is_no_able_control(tmp_path, root):
    """One task of two; over both it commits in 97 %."""
    places = (Place(50, 100, 100), Place(50, 94, 100, task="block"))
    twin = publish.add_claim(
        [evaluation(tmp_path / "t", places, memory="none")], suite="two", root=root
    )
    assert twin["commit_rate"] == 0.97
    told = "commits below 95 % in block 94.0 %"
    assert f"No able control: {told}." in report(root, twin["id"])
    row = publish.add_claim(
        [evaluation(tmp_path / "a", places)], suite="two", twin=twin["id"], root=root
    )
    assert f"50.0 %, no able control ({told})." in report(root, row["id"])


def test_a_report_offers_a_replay_where_there_is_a_checkpoint(tmp_path, root):
    row = publish.add_claim([evaluation(tmp_path / "a")], root=root)
    assert row["checkpoint"] is None
    assert "It ships no checkpoint" in report(root, row["id"])
    shipped = text({**row, "checkpoint": f"{row['id']}/checkpoint"}, root / row["id"], root)
    assert f"Replay: `embodied verify {row['id']}`" in shipped


# ---- replacing --------------------------------------------------------------------------


def publish_wins(tmp_path: Path, root: Path, wins: int) -> dict:
    """Publishes, or replaces, the claim with so many of four episodes solved."""
    source = evaluation(tmp_path / f"wins{wins}", [Place(wins, 4, 4)])
    return publish.add_claim([source], replace=True, root=root)


def state(root: Path) -> tuple:
    """The index and the claim's files, and that nothing else lies about."""
    names = {path.name for path in root.iterdir()} - {".lock"}
    assert names == {"index.json", CLAIM}
    (row,) = index.read_index(root)
    return row["success"], "**50.0 %**" in report(root, CLAIM)


def test_a_replaced_claim_leaves_nothing_behind(tmp_path, root):
    publish_wins(tmp_path, root, 2)
    assert state(root) == (0.5, True)
    publish_wins(tmp_path, root, 4)
    assert state(root) == (1.0, False)


@pytest.mark.parametrize("error", [DataError("no space left"), KeyboardInterrupt()])
def test_an_index_that_cant_be_written_leaves_the_old_claim(tmp_path, root, monkeypatch, error):
    publish_wins(tmp_path, root, 2)
    write = publish.write_json

    def full(path, value):
        if path.name == "index.json":
            raise error
        write(path, value)

    monkeypatch.setattr(publish, "write_json", full)
    with pytest.raises(type(error)):
        publish_wins(tmp_path, root, 4)
    assert state(root) == (0.5, True)
    shutil.rmtree(root / CLAIM)
    (root / "index.json").unlink()
    with pytest.raises(type(error)):
        publish_wins(tmp_path, root, 3)
    assert {path.name for path in root.iterdir()} == {".lock"}


def test_a_claim_is_back_after_a_kill_between_the_two_renames(tmp_path, root):
    publish_wins(tmp_path, root, 2)
    (root / CLAIM).rename(root / f".{CLAIM}.replaced.partial")
    with pytest.raises(ConfigError, match="exists already"):
        publish.add_claim([evaluation(tmp_path / "other")], root=root)
    assert state(root) == (0.5, True)


def test_only_one_process_publishes(tmp_path, root):
    publish_wins(tmp_path, root, 2)
    with held_directory(root), pytest.raises(DataError, match="another process is writing to"):
        publish_wins(tmp_path, root, 4)
    assert state(root) == (0.5, True)


def test_a_claim_whose_checkpoint_others_use_is_not_replaced(tmp_path, root):
    publish_wins(tmp_path, root, 2)
    (row,) = index.read_index(root)
    row["checkpoint"] = f"{CLAIM}/checkpoint"
    rows = [row, {**row, "id": "memory_vla-x"}]
    (root / "index.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match="can't be replaced: memory_vla-x use its checkpoint"):
        publish_wins(tmp_path, root, 4)
    (root / "index.json").write_text(json.dumps([row]))
    assert publish_wins(tmp_path, root, 3)["success"] == 0.75
