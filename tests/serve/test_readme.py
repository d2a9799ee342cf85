"""The README's example runs, over a restart of the server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import embodied.serve
from tests.serve.engines import observation
from tests.serve.test_server import Running

README = Path(embodied.serve.__file__).with_name("README.md").read_text()

pytest.importorskip("websockets")


def test_a_session_goes_on_in_another_server(tmp_path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    first, second = example.split("# The server was killed")
    space = {"OBSERVATION": observation(2.0)}
    for lines in (first, "#" + second):
        server = Running(keep=str(tmp_path))
        try:
            space["URI"] = server.uri
            exec(lines, space)
        finally:
            server.stop()
    assert space["answer"]["actions"][0, 0] == 4.0
