"""The README's own agent runs, and the options it names are there."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from embodied.config import field_docs
from embodied.memory.chunk_config import HierarchicalChunksConfig
from embodied.train.config import ReinforceConfig, TrainConfig
from policies.hcam import config

ROOT = Path(config.__file__).resolve().parents[2]
README = (ROOT / "policies" / "hcam" / "README.md").read_text()


def test_the_agent_of_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})


KNOWN = {
    "reinforce": ReinforceConfig,
    "policy.config": config.HCAMConfig,
    "memory.config": HierarchicalChunksConfig,
}


def listed() -> list[tuple[str, list[str]]]:
    """Returns prefix and names of each bullet that lists options, ``a.b`` and ``c`` as a.b, a.c."""
    section = README.split("\n## Options\n")[1].split("\n## ")[0]
    heads = re.findall(r"^- (.*?):(?: |$)", section, re.MULTILINE)
    named = [re.findall(r"`([\w.]+)`", head) for head in heads]
    found = []
    for first, *others in named:
        prefix, _, name = first.rpartition(".")
        found.append((prefix, [name, *others]))
    return found


def test_options_it_names_are_there() -> None:
    for prefix, schema in KNOWN.items():
        known = {f.name for f in dataclasses.fields(schema)}
        named = set(re.findall(rf"(?<![\w.]){re.escape(prefix)}\.(\w+)", README))
        assert named and named <= known, prefix


def test_options_it_lists_are_there() -> None:
    lists = listed()
    for prefix, names in lists:
        schema = KNOWN[prefix] if prefix else TrainConfig
        assert set(names) <= {f.name for f in dataclasses.fields(schema)}
    assert {prefix for prefix, _ in lists} == {*KNOWN, ""}
    assert max(len(names) for _, names in lists) >= 6


def test_options_are_explained_where_it_says() -> None:
    for prefix, schema in KNOWN.items():
        assert set(field_docs(schema)) == {f.name for f in dataclasses.fields(schema)}
        if prefix != "reinforce":  # that is in the command's help
            file = str(Path(inspect.getfile(schema)).relative_to(ROOT))
            told = rf"\(`{re.escape(prefix)}\.\*`\)[^(]*?`{re.escape(file)}`"
            assert re.search(told, README)
