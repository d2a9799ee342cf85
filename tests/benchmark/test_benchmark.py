"""A benchmark: what is run, kept, refused and shown, without simulator or training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embodied import registry
from embodied.benchmark import cell, evaluations, run
from embodied.benchmark.certificates import sentences
from embodied.benchmark.config import BenchmarkConfig
from embodied.commands import base
from embodied.commands.train import check_names
from embodied.core.errors import ConfigError, DataError, EmbodiedError
from embodied.core.files import read_json, write_json
from embodied.evaluate.results import write_episodes
from tests.benchmark.cells import BANKS, TASKS, WINS, Commands, episodes


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(run, "command", made)
    monkeypatch.setattr(cell, "command", made)
    return made


def config(out: Path, **options: Any) -> BenchmarkConfig:
    given = {"memory": ["full_history", "none"], "train": ["steps=5"], "episodes": 10, **options}
    return BenchmarkConfig(task=TASKS, out=str(out), **given)


def test_cells_are_done_once_and_more_can_be_added(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "b"
    assert run.benchmark(config(out)) == (out, {})
    assert [words[0] for words in commands.calls].count("train") == 2
    train = next(words for words in commands.calls if words[0] == "train")
    assert train[1:-1] == (
        "memory=full_history", "seed=0", "policy=memory_vla",
        "task=[remember_color,put_block_back]", "levels=[easy,easy]", "observation=state",
        "policy.config.trunk=entities", "steps=5",
    )  # fmt: skip
    own = config(out, train=["preset=state"])
    assert not any("policy.config.trunk=entities" in cell.training for cell in run.cells(out, own))
    commands.calls.clear()
    more = config(out, memory=["gru"], train_of={"gru": ["memory.config.width=128"]})
    run.benchmark(more)
    assert [words[0] for words in commands.calls] == ["collect", "collect", "train", "evaluate"]
    assert "memory.config.width=128" in commands.calls[2]

    lines = read_json(out / "table.json")["lines"]
    assert [line["memory"] for line in lines] == ["full_history", "gru", "none"]
    assert lines[1]["paired"]["difference"] == pytest.approx(-0.3)
    assert lines[1]["paired"]["with"] == "full_history" and lines[0]["paired"] is None
    text = (out / "table.md").read_text()
    assert (
        "| `gru` | 1 | 60.0 % | 38.7 – 78.1 | 30.0 % | 66.7 % | 0.43 | 100.0 % | "
        "-30.0 (p = 0.031) | 400 | 800 | 2.5 | 1.5 | 1,234 | 20 |" in text
    )
    assert "| put_block_back easy | 30.0 % | 100.0 % | 100.0 % | 90.0 % (59.6 – 98.2) |" in text


def test_lines_are_shown_with_the_words_that_made_them(commands: Commands, tmp_path: Path) -> None:
    out, wide = tmp_path / "b", {"gru": ["memory.config.width=128"]}
    commands.broken = ("gru",)
    run.benchmark(config(out, memory=["gru", "none"], train_of={"gru": ["memory.config.widht=1"]}))
    commands.broken = ()  # what never began may be asked for in other words
    run.benchmark(config(out, memory=["gru"], train_of=wide))
    run.benchmark(config(out, memory=["none"]))

    def told() -> str:
        return (out / "table.md").read_text().split("## Commands")[1]

    assert "- `gru`: `memory.config.width=128`" in told() and "`none`" not in told()
    for memory in ("gru", "none"):
        made = next(words for words in commands.calls if f"memory={memory}" in words)
        shared = " ".join(made[3 : made.index("steps=5") + 1])
        assert f"`embodied train memory=M seed=S {shared}`" in told()
    commands.calls.clear()
    for words in ({}, {"gru": ["memory.config.width=64"]}):
        with pytest.raises(ConfigError, match=r"of gru with train_of.gru=\[memory.*width=128"):
            run.benchmark(config(out, memory=["gru"], seeds=[0, 1], train_of=words))
    assert commands.calls == []
    run.benchmark(config(out, memory=["gru"], seeds=[0, 1], train_of=wide))
    # A directory from before words were kept carries on, and says that they are unknown.
    file = out / "benchmark.json"
    write_json(file, {k: v for k, v in read_json(file).items() if k != "train_of"})
    run.benchmark(config(out, memory=["gru"]))
    assert "- `gru`: unknown" in told()


def test_a_memory_may_have_a_trunk_of_its_own(commands: Commands, tmp_path: Path) -> None:
    own = {"gru": ["policy.config.trunk=tiny", "memory.config.width=64"]}
    asked = config(tmp_path / "b", memory=["gru", "none"], train_of=own)
    run.benchmark(asked)
    gru, none = (
        [w for w in words if "trunk=" in w] for words in commands.calls if "steps=5" in words
    )
    assert gru == ["policy.config.trunk=tiny"] and none == ["policy.config.trunk=entities"]
    for cell_ in run.cells(tmp_path, asked):
        base.parse(base.load("train"), cell_.training, "train")
    said = (
        "`policy.config.trunk=tiny memory.config.width=64`, without `policy.config.trunk=entities`"
    )
    assert f"  - `gru`: {said}\n" in (tmp_path / "b" / "table.md").read_text()


LONGER, BUSIER = {"longer": ["knobs.gap_max_s=30"]}, {"busier": ["knobs.busy=1", "level=hard"]}


def test_columns_beyond_training_are_added_and_compared(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "b"
    run.benchmark(config(out))
    commands.calls.clear()
    run.benchmark(config(out, beyond=LONGER))
    evaluated = [words for words in commands.calls if words[0] != "collect"]
    assert [words[0] for words in evaluated] == ["evaluate"] * 2  # nothing is done again
    assert evaluated[0][-3:-1] == ("videos=0", "knobs.gap_max_s=30")
    assert evaluated[0][-1].endswith("cells/full_history-s0/beyond-longer")
    commands.calls.clear()
    run.benchmark(config(out, memory=["none"], beyond=BUSIER))
    assert [words[0] for words in commands.calls] == ["collect", "collect", "evaluate"]

    line = read_json(out / "table.json")["lines"][0]
    assert line["memory"] == "full_history" and set(line["beyond"]) == {"longer"}
    assert line["beyond"]["longer"]["by_task"]["put_block_back easy"]["success"] == 0.9
    text = (out / "table.md").read_text()
    assert "| M | longer | busier | commits |" in text
    assert "| 0.86 | 90.0 % | – | 100.0 % |" in text and "| 0.00 | 30.0 % | 30.0 % |" in text
    assert "## Beyond training: longer" in text and "- busier: `embodied evaluate RUN " in text
    assert "videos=0 knobs.busy=1 level=hard`" in text

    with pytest.raises(ConfigError, match=r"results of longer with beyond.longer=\[knobs.gap_max"):
        run.benchmark(config(out, beyond={"longer": ["knobs.gap_max_s=60"]}))


def test_a_column_that_failed_may_be_asked_for_in_other_words(
    commands: Commands, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    commands.refused = "capacity=9"
    columns = {"few": ["capacity=9"], "fewer": ["capacity=9", "batch=1"], **LONGER}
    _, failed = run.benchmark(config(out, memory=["none"], beyond=columns))
    assert failed["none-s0"].count("ended with 2: capacity=9") == 2  # all were tried
    assert set(read_json(out / "table.json")["lines"][0]["beyond"]) == {"longer"}
    assert run.benchmark(config(out, memory=["none"], beyond={"few": ["capacity=8"]}))[1] == {}
    assert set(read_json(out / "table.json")["lines"][0]["beyond"]) == {"longer", "few"}


def test_twins_and_interventions_stay_out_of_the_table(commands: Commands, tmp_path: Path) -> None:
    asked = config(tmp_path / "b", memory=["gru"], beyond=LONGER)
    run.benchmark(asked)
    before = read_json(tmp_path / "b" / "table.json")
    for folder in ("evaluation", "beyond-longer"):
        file = tmp_path / "b" / "cells" / "gru-s0" / folder / "results.json"
        found = read_json(file)
        for other in ({"role": "twin"}, {"intervene": "swapped"}):
            found["rows"] += [{**row, "successes": 0, **other} for row in found["rows"][:2]]
        write_json(file, found)
        told = [*episodes(WINS["gru"]), *episodes(0, "swapped")]
        write_episodes(file.with_name("episodes.jsonl"), told)
    run.benchmark(asked)
    assert read_json(tmp_path / "b" / "table.json") == before


def test_a_columns_words_replace_the_benchmarks_own(commands: Commands, tmp_path: Path) -> None:
    asked = config(
        tmp_path, report="html", evaluate=["batch=4", "videos=3"],
        beyond={"few": ["episodes=5", "batch=2", "--capacity=9"]},
    )  # fmt: skip
    found = evaluations.of(asked, looked=True)
    own = ("episodes=10", f"seed_start={asked.seed_start}", "process=false", "intervene=none")
    assert found["evaluation"] == (*own, "videos=3", "batch=4")
    few = ("episodes=5", *own[1:], "videos=3", "batch=2", "--capacity=9")
    assert found["beyond-few"] == few
    assert "batch=1" in found["looks"] and "batch=4" not in found["looks"]
    assert run.benchmark(asked)[1] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beyond": {"more": ["level=hrad"]}}, r"beyond.more=\[level=hrad\]: .*mean 'hard'"),
        ({"beyond": {"more": ["levle=hard"]}}, r"beyond.more=\[levle=hard\]: .*mean 'level'"),
        ({"beyond": {"more": ["hard"]}}, "unexpected word 'hard'"),
        ({"beyond": {"more": ["knobs.gap_maxs=9"]}}, "did you mean 'gap_max_s'"),
        ({"beyond": {"more": ["knobs.gap_min_s=99"]}}, "expected 0 < gap_min_s <= gap_max_s"),
        ({"beyond": {"more": ["task=order_recal"]}}, "did you mean 'order_recall'"),
        ({"beyond": {"more": ["task=recall/boxes"]}}, "is learned by reinforcement"),
        ({"beyond": {"more": ["out=x"]}}, "'out' is given twice"),
        ({"beyond": {"more": ["intervene=swapped"]}}, "leaves no episodes for the table"),
        ({"beyond": {"more": ["task=lift", "intervene=none,swapped"]}}, "nothing to remember"),
        ({"evaluate": ["knobs.busy=2"]}, r"evaluate=\[knobs.busy=2\]: knob busy"),
        ({"evaluate": ["inspect=true"], "beyond": LONGER}, "beyond.longer=.* but videos=0"),
        ({"collect": ["knobs.busy=2"]}, r"collect=\[knobs.busy=2\]: knob busy"),
        ({"collect": ["episodes=3"]}, "'episodes' is given twice"),
    ],
)
def test_words_that_would_fail_are_refused_before_anything_is_made(
    commands: Commands, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run.benchmark(config(tmp_path / "b", **options))
    assert commands.calls == [] and not (tmp_path / "b").exists()


def test_knobs_of_the_data_count_where_they_are_known(commands: Commands, tmp_path: Path) -> None:
    far = {"far": ["knobs.gap_min_s=20"]}  # longer than the level's longest gap
    collected = config(tmp_path / "a", collect=["knobs.gap_max_s=30"], beyond=far)
    named = config(tmp_path / "b", train=["steps=5", "data=[data/a,data/b]"], beyond=far)
    for asked in (collected, named):
        assert run.benchmark(asked)[1] == {}


def test_a_failed_cell_is_named_and_the_others_go_on(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.broken = ("full_history",)
    _, failed = run.benchmark(config(tmp_path / "b", seeds=[0, 1]))
    assert set(failed) == {"full_history-s0", "full_history-s1"}
    assert (
        "no such thing" in failed["full_history-s0"] and "no such thing" in capsys.readouterr().err
    )
    lines = read_json(tmp_path / "b" / "table.json")["lines"]
    assert [(line["memory"], line["seeds"]) for line in lines] == [("none", [0, 1])]
    command = base.load("benchmark")
    words = [f"task=[{','.join(TASKS)}]", "memory=[full_history]", f"out={tmp_path / 'c'}"]
    assert command.run(base.parse(command, words, "benchmark")) == 1
    assert "1 of the runs failed, the table holds the others: full_history-s0" in (
        capsys.readouterr().err
    )


def test_what_could_not_be_compared_is_refused(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "b"
    run.benchmark(config(out))
    with pytest.raises(ConfigError, match=r"begun with episodes=10, not 20"):
        run.benchmark(config(out, episodes=20))
    with run.locked(out), pytest.raises(DataError, match="another benchmark, or a command"):
        run.benchmark(config(out))
    begun = json.loads((out / "benchmark.json").read_text())
    write_json(out / "benchmark.json", {**begun, "format_version": 9})
    with pytest.raises(DataError, match=r"benchmark.json has format version 9, expected 1"):
        run.benchmark(config(out))
    write_json(out / "benchmark.json", begun)
    file = out / "cells" / "none-s0" / "evaluation" / "results.json"
    write_json(file, {**read_json(file), "format_version": 2})
    commands.calls.clear()
    with pytest.raises(DataError, match=r"none-s0/evaluation/results.json has format version 2"):
        run.benchmark(config(out, memory=["gru"]))
    assert commands.calls == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory": []}, "memory: expected one or more"),
        ({"seeds": [1, 1]}, "each once"),
        ({"episodes": 0}, "episodes must be >= 1"),
        ({"train_of": {"gru": []}}, "train_of.gru: not among"),
        ({"report": "htm"}, "did you mean 'html'"),
        ({"beyond": {"More gap": ["level=hard"]}}, "beyond.More gap: expected a name of small"),
        ({"beyond": {"more": []}}, r"beyond.more=\[\]: expected words"),
        ({"levels": ["easy"]}, "2 tasks need as many levels"),
        ({"beyond": {"more": ["level=easy", "level=hard"]}}, "beyond.more: level is given twice"),
        ({"evaluate": ["inspect=true", "--inspect"]}, "evaluate: inspect is given twice"),
        ({"evaluate": ["episodes=5"]}, "give episodes=5 as a word of its own"),
    ],
)
def test_options_that_make_no_sense(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **options)


def test_one_tasks_directory_is_named_by_it(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = base.load("benchmark")
    for task in (TASKS[0], TASKS[1], f"[{','.join(TASKS)}]"):
        words = [f"task={task}", "memory=[none]", "episodes=10"]
        assert command.run(base.parse(command, words, "benchmark")) == 0
    names = {path.name.removeprefix("memory_vla-") for path in (tmp_path / "benchmarks").iterdir()}
    assert names == {"remember_color-easy", "put_block_back-easy", "2tasks-easy"}


def test_unknown_names_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    command, out = base.load("benchmark"), tmp_path / "b"
    for words, message in (
        (["task=remember_colour"], "did you mean 'remember_color'"),
        (["suite=memory_bench_3", "memory=[gruu]"], "did you mean 'gru'"),
        (["suite=memory_bench_3", "level=esy"], "did you mean 'easy'"),
        ([], "no tasks"),
    ):
        with pytest.raises(ConfigError, match=message):
            command.run(base.parse(command, [*words, f"out={out}"], "benchmark"))
    assert not out.exists()


def test_a_command_that_fails_shows_the_end_of_its_output(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x"
    with pytest.raises(EmbodiedError, match=r"train task=nothing ended with 2: .*unknown task"):
        cell.command(log, "train", "task=nothing")
    assert "unknown task" in log.read_text()


def test_a_page_needs_one_look_of_each_memory(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "b"
    run.benchmark(config(out, seeds=[0, 1]))
    assert not (out / "report.html").exists()
    commands.calls.clear()
    run.benchmark(config(out, seeds=[0, 1], report="html"))
    looked = [words for words in commands.calls if words[0] != "collect"]
    assert [words[0] for words in looked] == ["evaluate"] * 2
    assert {"intervene=none,swapped", "inspect=true", "episodes=1"} <= set(looked[0])
    assert (out / "report.html").exists()


def test_one_table_holds_the_bank_with_each_rule_of_forgetting(
    commands: Commands, tmp_path: Path
) -> None:
    out = tmp_path / "b"
    asked = [f"memory=[{','.join(BANKS)}]", f"task=[{','.join(TASKS)}]", "report=html"]
    words = [*asked, "train=[steps=5]", "episodes=10", f"out={out}"]
    command = base.load("benchmark")
    assert command.run(base.parse(command, words, "benchmark")) == 0
    trained = [words[1:-1] for words in commands.calls if words[0] == "train"]
    options = [base.parse(base.load("train"), words, "train") for words in trained]
    for some in options:
        check_names(some)  # builds the memory's configuration
    banks = [some.memory for some in options]
    assert {bank.name for bank in banks} == {"perceptual_cognitive"}
    kept = [{k: v for k, v in bank.config.items() if k != "overflow"} for bank in banks]
    assert kept[0] == kept[1] == kept[2]
    assert [bank.config.get("overflow") for bank in banks] == [None, "fifo", "retention"]
    assert [line["memory"] for line in read_json(out / "table.json")["lines"]] == list(BANKS)
    page = (out / "report.html").read_text()
    for bank in BANKS:
        assert f'look into an episode of {bank}"' in page
        assert f"remember_color easy · {bank} · seed 7" in page
        assert f"{bank}, memory: swapped" in page


def test_the_ceiling_with_a_clock_stands_beside_every_score(
    commands: Commands, tmp_path: Path
) -> None:
    asked = config(tmp_path / "b", memory=["gru"], beyond=LONGER)
    run.benchmark(asked)
    file = tmp_path / "b" / "cells" / "gru-s0" / "beyond-longer" / "results.json"
    found = read_json(file)
    found["rows"][0]["knobs"]["gap_max_s"] = 30.0
    write_json(file, found)
    run.benchmark(asked)
    (line,) = read_json(tmp_path / "b" / "table.json")["lines"]
    third = pytest.approx(1 / 3)
    assert line["time_aware"] == {"low": pytest.approx(2 / 3), "high": pytest.approx(2 / 3)}
    assert line["by_task"]["remember_color easy"]["time_aware"] == {"low": third, "high": third}
    assert line["by_task"]["put_block_back easy"]["time_aware"] == {"low": 1.0, "high": 1.0}
    # Knobs that no certificate tells of.
    longer = line["beyond"]["longer"]
    assert longer["by_task"]["remember_color easy"]["time_aware"] is longer["time_aware"] is None
    text = (tmp_path / "b" / "table.md").read_text()
    assert text.count("| c*, clock |") == 3
    assert "| remember_color easy | 30.0 % | – | 100.0 % | 60.0 %" in text


def test_a_page_tells_the_knobs_in_force_and_no_certificate_of_others(
    commands: Commands, tmp_path: Path
) -> None:
    asked = config(tmp_path / "b", memory=["gru"], report="html")

    def told() -> str:
        run.benchmark(asked)
        page = (tmp_path / "b" / "report.html").read_text()
        start = page.index("MemoryBench/RememberColor-v0")
        return page[start : page.index("put_block_back easy:", start)]

    own = told()
    assert " K 3" in own and "Ceiling without memory" in own and "Published claims" in own
    file = tmp_path / "b" / "cells" / "gru-s0" / "evaluation" / "results.json"
    found = read_json(file)
    found["rows"][0]["knobs"]["K"] = 5
    write_json(file, found)
    other = told()
    assert " K 5" in other and "None is stored for these knobs; those of easy hold" in other
    assert "Ceiling without memory" not in other and "Published claims" not in other


def of_easy(task: str) -> list[str]:
    """Returns what a task's certificates say of its easy level."""
    knobs = registry.task_info(task).knobs("easy")
    return sentences(registry.certificate(task), "easy", knobs)


def test_certificates_are_told_in_words() -> None:
    stored = registry.certificate("remember_color")
    assert stored is not None
    window = {
        "label": "anchor-solvable", "first": 1.0, "last_ticks": 50, "first_and_last_ticks": 0,
        "history_ticks": 70,
    }  # fmt: skip
    attack = {
        "accuracy": 1 / 3, "low": 0.3, "high": 0.4, "chance": 1 / 3, "candidates": 48,
        "holds": True,
    }  # fmt: skip
    found = {"window": {"fast": window}, "attack": {"fast": {"state": attack}}}
    level = {**stored["levels"]["easy"], **found}
    knobs = level["knobs"]
    told = " ".join(sentences({"levels": {"easy": level}}, "easy", knobs))
    assert "1/3 = 33.3 %, solved exactly" in told and "200 of 200" in told
    assert "anchor-solvable: the first frame alone suffices in 100.0 %" in told
    assert "that sees state" in told and "48 manners of pushing leave nothing; 33.3 %" in told
    level["aliasing"]["fast"]["holds"] = False
    assert "NOT equal at go" in " ".join(sentences({"levels": {"easy": level}}, "easy", knobs))
    assert "No certificate" in sentences(None, "easy", knobs)[0]
    told = " ".join(of_easy("stale_fact"))
    assert "never updates it (write once): 50.0 %." in told
    told = " ".join(of_easy("order_recall"))
    assert "a clock running since the reset: 8.3 – 100.0 %." in told
