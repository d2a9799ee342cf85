"""The README's examples run, and its table names every field of a manifest."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import embodied.export
from embodied.serve.bundle import MANIFEST
from embodied.serve.runtime import Runtime
from tests.serve.test_server import Running

README = Path(embodied.export.__file__).with_name("README.md").read_text()

pytest.importorskip("onnxruntime")
pytest.importorskip("websockets")


def test_the_examples_run(bundles, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    _, path = bundles("memory_vla")
    local, remote = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    space = {"BUNDLE": path}
    exec(local, space)
    assert space["chunk"].shape[0] == 1 and (tmp_path / "memory.npz").exists()
    runtime = Runtime.load(path)
    server = Running(engine=runtime)
    try:
        observation = {key: spec.zeros() for key, spec in runtime.spec.observations.items()}
        exec(remote, {"URI": server.uri, "OBSERVATION": observation})
    finally:
        server.stop()
    action = runtime.spec.action
    assert capsys.readouterr().out.strip() == f"({action.horizon}, {action.size})"


def test_every_field_of_a_manifest_is_explained(bundles) -> None:
    manifest = json.loads((bundles("memory_vla")[1] / MANIFEST).read_text())
    table = README.split("## The manifest, field by field")[1]
    for field in (*(set(manifest) - {"spec"}), *(f"spec.{name}" for name in ("action", "state"))):
        assert f"`{field}`" in table, field
