"""What the pages say to type works as it stands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from embodied.benchmark import evaluations
from embodied.commands import base

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted(
    page for folder in (".", "policies", "sims", "embodied", "scripts")
    for page in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
)  # fmt: skip
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    (str(page.relative_to(ROOT)), re.split(r"\s#", line)[0].strip())
    for page in PAGES
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
"""Page and line of every block, continued lines as one, without comments."""
EMBODIED = [  # whatever environment variables stand before it
    (page, words[words.index("embodied") + 1 :])
    for page, line in COMMANDS
    if re.match(r"(\w+=\S* )*embodied ", line) and (words := shlex.split(line))
]


@pytest.mark.parametrize(("page", "words"), EMBODIED, ids=[f"{p}: {w[0]}" for p, w in EMBODIED])
def test_commands_parse(page: str, words: list[str]) -> None:
    verb, *given = words
    options = base.parse(base.load(verb), given, verb)
    if verb == "benchmark":
        evaluations.check(options)


def test_commands_of_all_pages_are_found() -> None:
    pages = {page for page, _ in EMBODIED}
    assert {"README.md", "embodied/serve/README.md", "sims/memory_bench/README.md"} <= pages
    continued = [words for _, words in EMBODIED if "beyond.busier=[knobs.busy=1]" in words]
    assert continued and continued[0][0] == "benchmark"


@pytest.mark.parametrize("line", [line for _, line in COMMANDS if line.startswith("scripts/")])
def test_scripts_exist_and_are_well_formed(line: str) -> None:
    script = ROOT / line.split()[0]
    assert script.stat().st_mode & 0o100
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`((?:embodied|policies|sims|configs|scripts|tests)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)", text):
        assert (page.parent / name).exists(), name
    # Tables of files name the files of the page's own folder.
    for row in re.findall(r"^\| ((?:`\w+\.py`(?:, )?)+) \|", text, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", row):
            assert (page.parent / name).exists(), name


def test_there_is_one_python_example_of_about_fifteen_lines() -> None:
    (example,) = [block for language, block in BLOCKS if language == "python"]
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 18


@pytest.mark.sim
@pytest.mark.render
def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = [block for language, block in BLOCKS if language == "python"]
    (tmp_path / "example.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runs/first/eval" in done.stdout
    assert (tmp_path / "runs" / "first" / "eval").is_dir()
