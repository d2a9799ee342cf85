"""The command line: speed, help, and one clear line for bad input."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from embodied import registry
from embodied.cli import main, overview
from embodied.commands import VERBS, base
from embodied.commands.compose import compose, config_root, groups_of, options
from embodied.commands.train import default_run
from embodied.config import Raw, from_plain, known_paths, load_yaml
from embodied.core.errors import ConfigError
from embodied.core.task import IMITATION
from embodied.train.config import TrainConfig

CLI = [sys.executable, "-m", "embodied.cli"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Runs a command line that must be refused; returns its one line."""
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("embodied: ")
    assert "Traceback" not in error
    return error


def test_help_answers_within_a_second() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([*CLI, "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 1.0
    for verb in VERBS:
        assert f"  {verb}" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from embodied.cli import main; main(['--help']); import embodied\n"
        "heavy = {'torch', 'numpy', 'mujoco', 'gymnasium', 'hydra', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_of_every_verb_loads_no_network_and_no_simulator() -> None:
    code = (
        "import sys; from embodied.cli import main\n"
        f"for verb in {list(VERBS)!r}: main([verb, '--help'])\n"
        "heavy = {'torch', 'mujoco', 'gymnasium', 'h5py'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_all_its_keys(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    command = base.load(verb)
    assert out.startswith(f"usage: embodied {verb}")
    docs = base.field_docs(command.options)
    for field in dataclasses.fields(command.options):
        assert f"{field.name}" in out
        assert docs.get(field.name), f"{verb}: {field.name} has no text"
    assert command.examples
    for example in command.examples:
        assert example.split()[0] == verb


def test_defaults_in_the_help_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "  reinforce.env.observation=state  (str)" in out  # others show pictures
    assert "\n  observation=rgb  (str)" in out


@pytest.mark.parametrize("verb", VERBS)
def test_examples_parse(verb: str) -> None:
    command = base.load(verb)
    for example in command.examples:
        options = base.parse(command, example.split()[1:], verb)
        if verb == "collect":
            for task in options.task:
                assert registry.task_info(task).knobs(options.level, options.knobs)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ([], ""),
        (["observation=state"], " preset=state"),
        (["observation=rgbd"], " observation=rgbd"),
        (["observation=rgbd", "observe_on=decision"], " policy=sam2act"),
    ],
)
def test_what_follows_collecting_trains_on_what_was_collected(
    words: list[str],
    key: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = SimpleNamespace(stored=1, new=1, failed={})
    monkeypatch.setattr("embodied.commands.collect.collect", lambda *_, **__: done)
    assert main(["collect", "task=lift,stack", *words]) == 0
    said = capsys.readouterr().out
    assert f"next  embodied train task=lift,stack level=easy{key}\n" in said
    line = said.partition("next  embodied train ")[2].split()
    assert base.parse(base.load("train"), line, "train").observation == (
        words[0].partition("=")[2] if words else "rgb"
    )


def test_default_runs_are_named_as_the_readme_types_them() -> None:
    one = TrainConfig(task=["remember_color"])
    assert default_run(one) == "runs/remember_color-easy-rgb-perceptual_cognitive-s0"
    several = TrainConfig(task=["lift", "stack"], levels=["easy", "hard"], observation="state")
    assert default_run(several) == "runs/2tasks-easy-hard-state-perceptual_cognitive-s0"
    agent = TrainConfig(task=["recall/t_maze"], level="length10", algorithm="ppo")
    assert default_run(agent) == "runs/recall-t_maze-length10-perceptual_cognitive-s0"


def test_no_words_show_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.strip() == overview()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train"], "task is empty: name at least one, for example task=remember_color"),
        (["train", "task=remember_colour"], "did you mean 'remember_color'?"),
        (["train", "task=remember_color", "level=eazy"], "did you mean 'easy'?"),
        (["train", "task=remember_color", "policy=memory_vl"], "did you mean 'memory_vla'?"),
        (["train", "task=remember_color", "memory=gur"], "did you mean 'gru'?"),
        (["train", "task=remember_color", "preset=smal"], "did you mean 'small'?"),
        (["train", "task=remember_color", "prset=small"], "did you mean 'preset'?"),
        (["collect", "suit=memory_bench_3"], "did you mean 'suite'?"),
        (["train", "task=remember_color", "lr=1"], "did you mean 'optim.lr'?"),
        (["train", "task=remember_color", "optim.lrr=1"], "did you mean 'optim.lr'?"),
        (["train", "task=remember_color", "seed=one"], "seed: expected int, got 'one' (str)"),
        (["train", "task=remember_color", "optim=3"], "optim: expected a mapping, got 3 (int)"),
        (
            ["train", "task=remember_color", "policy.config.head.stepz=3"],
            "did you mean 'policy.config.head.steps'?",
        ),
        (
            ["train", "task=remember_color", "policy.config.width=wide"],
            "policy.config.width: expected int, got 'wide' (str)",
        ),
        (
            ["train", "task=remember_color", "policy.config.memory=gru"],
            "policy.config.memory is set by memory=NAME",
        ),
        (
            ["train", "task=remember_color", "memory.config.capacty=3"],
            "did you mean 'capacity'?",
        ),
        (["train", "task=remember_color", "suite=memory_bench_3"], "give one of them"),
        (["train", "task=remember_color", "--seed", "3"], "--seed needs a value; write seed=VALUE"),
        (["train", "task=remember_color", "--resum"], "did you mean 'resume'?"),
        (
            ["train", "--resume", "out=run", "memory=lstm", "seed=3"],
            "memory= would change nothing; leave out memory, seed, or give the whole command",
        ),
        (["train", "task=remember_color", "seed=1", "seed=2"], "given twice"),
        (["train", "task=remember_color", "stray"], "unexpected word 'stray'"),
        (["collect"], "missing key 'task': add task=NAME"),
        (["collect", "task=remember_color", "knobs.k=3"], "did you mean 'K'?"),
        (["collect", "task=remember_color", "observation=rbg"], "did you mean 'rgb'?"),
        (["collect", "task=remember_color", "image_size=4"], "image_size must be within"),
        (["collect", "task=remember_color", "episodes=-1"], "episodes must be at least 1"),
        (["list", "taks"], "did you mean 'tasks'?"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert not list(tmp_path.iterdir()), "refused input must leave nothing behind"


def test_configs_hold_plain_values_that_fit_their_schema() -> None:
    root = config_root()
    for path in sorted(root.rglob("*.yaml")):
        text = path.read_text()
        assert "_target_" not in text, path
        assert "${" not in text, path
        assert load_yaml(path) is not None
    for verb in VERBS:
        command = base.load(verb)
        if not command.config:
            continue
        groups = groups_of(command.config)
        for group, names in groups.items():
            for option in names:
                data, rest = compose(command.config, {group: Raw(option)})
                assert rest == {}
                data.setdefault("task", ["remember_color"])
                from_plain(command.options, data, source=f"configs/{group}/{option}.yaml")


def test_every_config_file_belongs_to_a_group() -> None:
    root = config_root()
    used = {
        group for verb in VERBS if (config := base.load(verb).config) for group in groups_of(config)
    }
    assert {path.name for path in root.iterdir() if path.is_dir()} == used


def test_every_memory_has_a_config_of_its_name() -> None:
    from embodied.memory import MEMORIES

    files = {path.stem: load_yaml(path) for path in (config_root() / "memory").glob("*.yaml")}
    assert set(files) > set(MEMORIES)
    for name, data in files.items():
        if name in MEMORIES:
            assert data["name"] == name
        elif "name" in data:  # other sizes
            assert data["name"] in MEMORIES
        elif "memory" in data:  # a published variant
            assert data["memory"]["name"] in MEMORIES
        else:  # another name, or one that begins with the memory's and has other options
            assert set(data["defaults"]) <= {*MEMORIES, "_self_"}
            assert "config" not in data or name.startswith(data["defaults"][0])


def test_groups_and_values_compose() -> None:
    command = base.load("train")
    words = ["task=remember_color", "memory=gru", "preset=state", "seed=3", "steps=7"]
    options = base.parse(command, words, "train")
    assert options.task == ["remember_color"]
    assert options.memory.name == "gru"
    assert options.observation == "state"
    assert options.policy.config["trunk"] == "entities"
    assert (options.seed, options.steps) == (3, 7)
    assert "optim.lr" in known_paths(command.options)


def needs_memory(task: str) -> bool:
    info = registry.task_info(task)
    return info.ceiling(info.knobs("easy")) < 1


def test_a_suite_fills_the_tasks() -> None:
    options = base.parse(base.load("train"), ["suite=memory_bench_3"], "train")
    assert options.task == ["reopen_drawer", "put_block_back", "rearrange_block"]
    every = base.parse(base.load("train"), ["suite=all", "steps=3"], "train")
    names = registry.task_names(IMITATION)
    assert set(every.task) == {n for n in names if needs_memory(n)}
    assert (len(every.task), every.steps) == (len(set(every.task)), 3)
    with pytest.raises(ConfigError, match="give one of them"):
        base.parse(base.load("train"), ["suite=all", "task=lift"], "train")


@pytest.mark.parametrize("suite", options("suite"))
def test_every_suite_names_tasks_that_are_there(suite: str) -> None:
    config = base.parse(base.load("benchmark"), [f"suite={suite}"], "benchmark")
    for task, level in config.settings():
        assert registry.imitation_task(task).knobs(level)


def test_flags_and_positions() -> None:
    command = base.load("list")
    options = base.parse(command, ["tasks", "--json"], "list")
    assert (options.what, options.json) == ("tasks", True)
    with pytest.raises(ConfigError, match="what is given twice"):
        base.parse(command, ["tasks", "what=claims"], "list")


def test_finish_names_the_directory_and_the_next_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    made = tmp_path / "runs" / "a b"
    base.finish(made, base.command_line("embodied", "evaluate", made))
    out = capsys.readouterr().out
    assert out == "made  runs/a b/\nnext  embodied evaluate 'runs/a b'\n"


def test_lists_say_what_each_thing_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["memory"] for row in shown["memories"]] == options("memory")
    for section in ("tasks", "policies", "memories", "presets", "suites"):
        assert all(row["what"] for row in shown[section])
    ceilings = {(row["task"], row["level"]): row["ceiling"] for row in shown["tasks"]}
    assert ceilings["put_block_back", "extreme"] == "6.25 %"
    assert ceilings["order_recall", "extreme"] == "2.09e-05 %"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "task=lift"], "; what is finished is kept; the same command carries on"),
        (["collect", "task=lift", "resume=false"], ""),
    ],
)
def test_an_interrupted_command_says_whether_it_carries_on(
    words: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("embodied.commands.collect.collect", interrupted)
    assert main(words) == 130
    assert capsys.readouterr().err == f"embodied: interrupted{said}\n"


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("onnx", "embodied evaluate bundles/x"),
        ("pt2", "python -c 'import embodied.serve; embodied.serve.read_bundle(\"bundles/x\")'"),
    ],
)
def test_what_follows_an_export_can_be_typed(
    kind: str,
    line: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def export(source: str, out: Path, *_: object) -> None:
        row = {"1": {"action": 0.0, "state": 0.0, "decisions_equal": True}}
        out.mkdir(parents=True)
        (out / "parity.json").write_text(json.dumps({"ticks": 48, "formats": {kind: row}}))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("embodied.export.bundle.export", export)
    monkeypatch.setattr("embodied.serve.bundle.read_bundle", lambda out: None)
    monkeypatch.setattr("embodied.serve.runtime.describe", lambda bundle: "a bundle")
    assert main(["export", "runs/x", f"format={kind}"]) == 0
    said = capsys.readouterr().out
    assert f"made  bundles/x/\nnext  {line}\n" in said


def test_doctor_quick(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quick"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "packages", "threads", "disk"):
        assert word in out


@pytest.mark.render
def test_doctor_sees_the_robot(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "rendering" in out
    assert "robot on" in out


@pytest.mark.render
def test_doctor_fails_without_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    from embodied import doctor

    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = doctor._rendering()
    assert check.status == doctor.FAIL
    assert "apt-get install" in check.advice


def test_doctor_names_versions_that_break_the_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    from embodied import doctor

    versions = {"robosuite": "1.5.2", "numpy": "2.1.0", "mujoco": "3.10.1"}
    monkeypatch.setattr(doctor, "installed", versions.get)
    assert doctor._conflict("numpy").advice == "pip install 'numpy<2'"
    assert doctor._conflict("mujoco").advice == "pip install 'mujoco<3.10'"
    monkeypatch.setattr(doctor, "installed", {**versions, "numpy": "1.26.4"}.get)
    assert doctor._conflict("numpy") is None
