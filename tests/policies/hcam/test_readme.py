"""The README's own agent runs, and the options it names are there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from embodied.train.config import ReinforceConfig
from policies.hcam import config

README = Path(config.__file__).with_name("README.md").read_text()


def test_the_agent_of_the_readme_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})


def test_options_it_names_are_there() -> None:
    known = {f.name for f in dataclasses.fields(ReinforceConfig)}
    named = set(re.findall(r"reinforce\.(\w+)", README))
    assert named and named <= known
