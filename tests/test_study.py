"""Studies: what is run, carried on, and how it is shown."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from embodied.core.errors import ConfigError, DataError
from embodied.core.files import write_json
from tests.test_bench import SCRIPTS, script  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent


def evaluation(successes: int, followed: int) -> dict[str, Any]:
    row = {"role": "policy", "intervene": "none", "n": 10, "successes": successes}
    swap = {**row, "intervene": "swapped", "swapped": 8, "followed": followed}
    return {"rows": [row, swap]}


@pytest.fixture
def study(script, monkeypatch):  # noqa: F811
    module = script("studies.study")
    return module


def toy(study: Any) -> Any:
    v = study.Variant
    return study.Study(
        "toy", "A toy", "About it.", ("task=a", "steps=5"), ("episodes=10",),
        (
            v("ours", "the defaults", seeds=(0, 1)),
            v("other", "another <way>", ("memory=none",)),
            v("again", "ours, told otherwise", (), ("clock=calls",), (0, 1), like="ours"),
        ),
    )  # fmt: skip


def test_jobs_train_once_and_carry_on(study: Any, monkeypatch: Any, tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = []

    def call(self: Any, *words: str) -> None:
        calls.append(words)
        if words[0] == "train":
            done = self.run / "checkpoints" / "00000005"
            done.mkdir(parents=True)
            (done / "policy.json").write_text("{}")
            (self.run / "config.yaml").write_text("steps: 5")
        else:
            seed = int(self.run.name[-1])
            (results,) = self.evaluations
            write_json(results / "results.json", evaluation(9 - 3 * seed, 6))

    monkeypatch.setattr(study.Cell, "call", call)
    question = toy(study)
    (tmp_path / "toy" / "other-s0").mkdir(parents=True)
    (tmp_path / "toy" / "other-s0" / "config.yaml").write_text("steps: 5")
    study.work(study.jobs(question, [], tmp_path), 1)
    root = tmp_path / "toy"
    assert calls[0] == ("train", "task=a", "steps=5", "seed=0", f"out={root}/ours-s0")
    assert calls[1] == (
        "evaluate",
        f"{root}/ours-s0",
        "episodes=10",
        f"out={root}/ours-s0/evaluation",
    )
    assert ("train", "--resume", f"out={root}/other-s0") in calls
    again = f"out={root}/ours-s0/evaluation-again"
    assert ("evaluate", f"{root}/ours-s0", "episodes=10", "clock=calls", again) in calls
    assert len([c for c in calls if c[0] == "train"]) == 3
    calls.clear()
    study.work(study.jobs(question, [], tmp_path), 1)
    assert calls == []

    lines = {line.variant.name: line for line in study.read(study.jobs(question, [], tmp_path))}
    assert lines["ours"].by_seed == (0.9, 0.6) and lines["ours"].n == 20
    assert lines["ours"].followed == 0.75


def test_runs_that_start_from_another_wait_for_it(study: Any, tmp_path: Path) -> None:
    v = study.Variant
    question = study.Study(
        "toy", "A toy", "", ("task=a",), (),
        (
            v("second", "", ("policy=b",), seeds=(0, 1), init="first"),
            v("other", ""),
            v("again", "", like="second"),
            v("first", "", seeds=(0, 1)),
        ),
    )  # fmt: skip
    todo = study.jobs(question, [], tmp_path)
    names = [f"{job.variant.name}-{job.seed}" for job in todo]
    assert names == ["other-0", "first-0", "first-1", "second-0", "second-1", "again-0"]
    init = f"init={tmp_path / 'toy' / 'first-s1'}"
    assert todo[4].cell.training == ("task=a", "policy=b", init, "seed=1")
    # Whoever asks for one gets what it starts from, too.
    asked = study.jobs(question, ["second"], tmp_path)
    assert [job.variant.name for job in asked] == ["first", "first", "second", "second"]


def test_table_and_picture(study: Any, script: Any, tmp_path: Path) -> None:  # noqa: F811
    table, question = script("studies.table"), toy(study)
    variants = question.variants
    lines = [
        study.Line(variants[0], 15, 20, (0.9, 0.6), 0.75, {"a: cue kept": 0.8}),
        study.Line(variants[1], 3, 10, (0.3,), None, {}),
    ]
    directory = table.write(tmp_path / "toy", question, lines)
    text = (directory / "README.md").read_text()
    assert (
        "| `ours` | the defaults | 75.0 % | 53.1 – 88.8 | 90.0 %, 60.0 % | 75.0 % | 80.0 % |"
        in text
    )
    assert "| `other` | another <way> | 30.0 % | 10.8 – 60.3 | 30.0 % | – | – |" in text
    assert "Not run: " in text and "`memory=none`" in text
    picture = (directory / "plot.svg").read_text()
    assert picture.count("<circle") == 3 and "another &lt;way&gt;" in picture


def test_published_lines_outlive_their_runs(study: Any, script: Any, tmp_path: Path) -> None:  # noqa: F811
    lines, question = script("studies.lines"), toy(study)
    ours, other = question.variants[:2]
    gone = study.Line(ours, 15, 20, (0.9, 0.6), 0.75, {"cue": 0.8}, {"bytes": (1.0, None)})
    assert lines.with_published(tmp_path, question, [gone]) == ([gone], [])  # nothing there yet
    lines.write(tmp_path, question, [gone])
    here = study.Line(other, 3, 10, (0.3,), None, {})
    assert lines.with_published(tmp_path, question, [here]) == ([gone, here], [])
    anew = dataclasses.replace(gone, successes=20)
    assert lines.with_published(tmp_path, question, [anew]) == ([anew], [])

    said = dataclasses.replace(ours, what="in other words")
    told = dataclasses.replace(question, variants=(said, *question.variants[1:]))
    ((line,), left_out) = lines.with_published(tmp_path, told, [])
    assert line.variant.what == "in other words" and not left_out
    more = dataclasses.replace(ours, seeds=(0, 1, 2))
    seeded = dataclasses.replace(question, variants=(more, *question.variants[1:]))
    assert lines.with_published(tmp_path, seeded, []) == ([gone], [])  # until all three are run
    for made in (
        dataclasses.replace(question, variants=(dataclasses.replace(ours, train=("steps=9",)),)),
        dataclasses.replace(question, variants=(dataclasses.replace(ours, seeds=(0,)),)),
        dataclasses.replace(question, train=("task=b",)),
        dataclasses.replace(question, evaluate=("episodes=20",)),
        dataclasses.replace(question, variants=question.variants[1:2]),
    ):
        with pytest.raises(ConfigError, match=r"would lose lines, .*: ours\. Nothing was written"):
            lines.with_published(tmp_path, made, [here])
        assert lines.with_published(tmp_path, made, [], drop=True) == ([], ["ours"])
    write_json(tmp_path / "results.json", [])
    with pytest.raises(DataError, match="of another version"):
        lines.with_published(tmp_path, question, [])


def test_lines_go_with_the_runs_behind_them(study: Any, script: Any, tmp_path: Path) -> None:  # noqa: F811
    lines, v = script("studies.lines"), study.Variant
    second, again = v("second", "", ("policy=b",), init="first"), v("again", "", like="second")

    def question(first: tuple[str, ...]) -> Any:
        variants = (second, again, v("other", ""), v("first", "", first))
        return study.Study("toy", "A toy", "", ("task=a",), ("episodes=10",), variants)

    old = question(("steps=1",))
    made = {"train": [["task=a", "steps=1"], ["task=a", "policy=b"]], "evaluate": ["episodes=10"]}
    assert old.made(second) == old.made(again) == made
    lines.write(tmp_path, old, [study.Line(x, 3, 10, (0.3,), None, {}) for x in old.variants])
    assert not lines.with_published(tmp_path, old, [])[1]
    kept, left_out = lines.with_published(tmp_path, question(("steps=2",)), [], drop=True)
    assert [line.variant.name for line in kept] == ["other"]
    assert left_out == ["second", "again", "first"]


def test_a_table_never_loses_lines_unasked(
    study: Any,
    script: Any,  # noqa: F811
    monkeypatch: Any,
    tmp_path: Path,
    capsys: Any,
) -> None:
    command, lines, question = script("study"), script("studies.lines"), toy(study)
    worked: list[str] = []
    monkeypatch.setattr(study.Job, "work", lambda job: worked.append(job.variant.name))
    monkeypatch.setitem(command.STUDIES, "toy", "a toy")
    module = types.ModuleType("studies.toy")
    module.STUDY = dataclasses.replace(question, evaluate=("episodes=20",))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "studies.toy", module)
    out = tmp_path / "results"
    gone = [study.Line(x, 3, 10, (0.3,), None, {}) for x in question.variants[:2]]
    lines.write(out / "toy", question, gone)
    before = (out / "toy" / "results.json").read_bytes()

    words = [f"--out={out}", f"--runs={tmp_path / 'runs'}"]
    for asked in (["toy", "--table", *words], ["toy", "other", *words], ["toy", *words, "other"]):
        assert command.main(asked) == 2  # options may stand before the variants too
        assert "ours" in capsys.readouterr().err and not worked  # said before hours of work
        assert [file.name for file in (out / "toy").iterdir()] == ["results.json"]
        assert (out / "toy" / "results.json").read_bytes() == before
    assert command.main(["toy", "--table", "--drop", *words]) == 0
    assert "left out" in capsys.readouterr().err
    assert (out / "toy" / "README.md").exists()
    assert lines.with_published(out / "toy", module.STUDY, []) == ([], [])


def test_published_tables_are_what_their_studies_would_write(
    study: Any,
    script: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    lines, table = script("studies.lines"), script("studies.table")
    published = sorted((ROOT / "results" / "studies").iterdir())
    assert published
    for directory in published:
        question = script(f"studies.{directory.name}").STUDY
        kept, _ = lines.with_published(directory, question, [])
        table.write(tmp_path / directory.name, question, kept)
        for file in directory.iterdir():
            assert (tmp_path / directory.name / file.name).read_bytes() == file.read_bytes(), file


def test_facts_of_a_run(study: Any, script: Any, tmp_path: Path) -> None:  # noqa: F811
    facts = script("studies.facts")
    run, key = tmp_path / "run", "success/recall/ballet_lite-2_delay2_dances4"
    (run / "checkpoints" / "00000003").mkdir(parents=True)
    write_json(
        run / "checkpoints" / "00000003" / "policy.json", {"train": {"stage_starts": [0, 2]}}
    )
    rows = [
        {"frames": 100, "stage": 0, key: 0.55},
        {"frames": 200, "stage": 0, key: 0.61},
        {"frames": 300, "stage": 1, key: 0.9},
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = {
        "policy": {"parameters": 1234},
        "rows": [{"state_bytes": 520}, {"state_bytes": 9}],
    }
    write_json(run / "evaluation" / "results.json", found)
    write_json(run / "evaluation" / "keyframes_off.json", {"median_m": 0.004, "p95_m": 0.01})
    values = {n: f.of(run, run / "evaluation") for n, f in facts.FACTS.items()}
    learning = [values.pop(name) for name in facts.LEARNING]  # after 30, 60, ... 300 frames
    assert learning == [None] * 3 + [0.55] * 3 + [0.61] * 3 + [0.9]
    assert values == {
        "frames": 300,
        "steps to 1.5 cm": None,
        "keyframe off, median": 0.004,
        "keyframe off, 95 %": 0.01,
        "right chunk read": None,
        "parameters": 1234,
        "state bytes": 520,
        "frames at chance": 200,
        "frames to the last stage": 300,
    }
    near = [{"step": 19, "coarse_error_m": 0.02}, {"step": 39, "coarse_error_m": 0.014}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in near))
    assert facts.FACTS["steps to 1.5 cm"].of(run, run / "evaluation") == 40
    (run / "metrics.jsonl").write_text(json.dumps(rows[0]))
    assert facts.FACTS["frames at chance"].of(run, run / "evaluation") is None
    assert facts.FACTS["frames to the last stage"].of(run, run / "evaluation") is None
    assert facts.text("frames at chance", (200_000, None)) == "0.20 M, never"
    assert facts.text("parameters", (1234, 1234)) == "1,234"
    assert facts.text("parameters", ()) == "–"


def test_curves(study: Any, script: Any) -> None:  # noqa: F811
    table, v = script("studies.table"), study.Variant
    lines = [
        study.Line(v(f"a{at}", "", like="a", at=at), wins, 10, (wins / 10,), None, {})
        for at, wins in ((1500, 2), (15, 7))
    ]
    lines.append(study.Line(v("a", "", at=5), 9, 10, (0.9,), None, {}))  # the trained one itself
    question = study.Study("toy", "A toy", "", (), (), (), axis="seconds <of gap>")
    picture = table.curves(question, lines)
    assert picture.count("<circle") == 3 and picture.count("<polyline") == 1
    points = picture.split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # success falls from left to right, so y grows
    assert "seconds &lt;of gap&gt;" in picture and ">1,500<" in picture


def test_learning_is_drawn_and_stands_in_no_column(
    study: Any,
    script: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    table, learning = script("studies.table"), script("studies.facts").LEARNING
    values = dict.fromkeys(learning, (0.5, 0.6)) | {"running success at 10 %": (None, 0.4)}
    v, told = study.Variant, {"frames": (300.0, 300.0), **values}
    lines = [
        study.Line(v("a", "", seeds=(0, 1)), 9, 10, (0.9, 0.9), None, {}, told),
        study.Line(v("b", "", like="a"), 9, 10, (0.9, 0.9), None, {}, told),
    ]
    named, shown = tuple(line.variant for line in lines), ("frames", "parameters", *learning)
    question = study.Study("toy", "A toy", "", (), (), named, facts=shown)
    directory = table.write(tmp_path / "toy", question, lines)
    text, picture = (directory / "README.md").read_text(), (directory / "learning.svg").read_text()
    assert "| seeds | frames |\n" in text and "](learning.svg)" in text
    assert picture.count("<polyline") == 2 and picture.count("<circle") == 19
    assert "a, seed 1" in picture and "b, seed" not in picture
    plain = dataclasses.replace(question, facts=("frames",))
    table.write(tmp_path / "plain", plain, lines)
    assert not (tmp_path / "plain" / "learning.svg").exists()


def test_a_variant_may_have_probes_of_its_own(study: Any, monkeypatch: Any, tmp_path: Path) -> None:
    looked: list[str] = []

    class Data:
        episodes, tasks = 40, ["a"]

        def __init__(self, path: str, config: Any) -> None:
            looked.append(path)

    def probe(policy: Any, data: Any, batches: int) -> dict[str, Any]:
        return {"kept": SimpleNamespace(accuracy=0.5)}

    monkeypatch.setattr(study, "load", lambda run: SimpleNamespace(policy=None))
    monkeypatch.setattr(study, "SegmentDataset", Data)
    monkeypatch.setattr(study, "probe_cue", probe)
    variants = (study.Variant("ours", ""), study.Variant("often", "", probe=("data/often",)))
    question = study.Study("toy", "A toy", "", (), (), variants, probe=("data/probe",))
    for job in study.jobs(question, [], tmp_path):
        assert job._probe() == {"a: cue kept": 0.5}
    assert looked == ["data/probe", "data/often"]


def test_what_is_stored_more_often_is_the_same_in_all_else(script: Any) -> None:  # noqa: F811
    question = script("studies.memory_vla_ablations").STUDY
    found = {variant.name: variant for variant in question.variants}
    for name, period in (("stored-twice", "0.2s"), ("stored-always", "0.05s")):
        (word,) = found[name].train
        names = [
            f"data/{task}-easy-state-{period}" for task in ("remember_color", "rearrange_block")
        ]
        assert word == f"data=[{','.join(names)}]"
        assert found[name].probe == tuple(f"{path}-{period}" for path in question.probe)
        assert found[name].evaluate == ()


def test_names_are_checked(study: Any) -> None:
    with pytest.raises(Exception, match="unknown variant of toy 'our'; did you mean 'ours'"):
        toy(study).chosen(["our"])
    done = subprocess.run(
        [sys.executable, SCRIPTS / "study.py", "ablations"], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("study: unknown study 'ablations'")
