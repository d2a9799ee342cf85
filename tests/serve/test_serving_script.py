"""The script that serves many clients at once: it passes, and what it is to find it finds."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.serve.engines import observation
from tests.serve.test_server import Running
from tests.test_bench import script  # noqa: F401

pytest.importorskip("onnxruntime")
pytest.importorskip("websockets")


def test_clients_at_once_get_what_each_gets_alone(bundles, tmp_path, script) -> None:  # noqa: F811
    _, path = bundles("lstm")
    words = ["--clients", "2", "--seconds", "1.5", "--malformed", "42", "--out", str(tmp_path)]
    assert script("serving_test").main([str(path), *words]) == 0
    result = json.loads((tmp_path / "serving.json").read_text())
    assert result["ok"] and result["clients"]["answers_compared"] > 10
    assert result["clients"]["largest_difference"] <= 1e-5
    assert result["malformed"]["answered"] == 42 and result["server"]["alive"]
    assert (
        "| object array | 2 | 2 | arrays of '\\|O' are refused"
        in (tmp_path / "serving.md").read_text()
    )


@pytest.mark.parametrize("wrong", [False, True])
def test_another_s_memory_is_noticed(script, monkeypatch, wrong) -> None:  # noqa: F811
    clients, server = script("robustness.clients"), Running()
    looks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 0.01 * next(looks))
    monkeypatch.setattr(clients, "time", clock)  # so many messages, however slow the machine
    seen = [observation(float(x)) for x in range(1, 6)]
    episodes = clients.recordings(seen, 0.4, 2, 8, seed=1)
    try:
        clients.ask_alone(server.uri, "", episodes)
        assert [float(a[0, 0]) for a in episodes[0].alone] == np.cumsum(
            [o["pos_m"][0] for o in episodes[0].observations]
        ).tolist()
        if wrong:
            episodes[1].alone[1] = episodes[1].alone[1] + 1.0
        visitor = clients.Visitor(server.uri, "", episodes, 3.0, 0)
        visitor.run()
    finally:
        server.stop()
    assert not visitor.failure and visitor.compared > 20
    assert all(visitor.episodes[way] for way in clients.WAYS)
    assert (visitor.wrong > 0) == wrong and (visitor.largest > 0.5) == wrong


def test_growing_memory_and_files_left_open_are_noticed(script) -> None:  # noqa: F811
    resources = script("serving_test").resources
    flat = SimpleNamespace(resident=[10**8] * 40, handles=[12] * 40)
    assert resources(flat)["ok"]
    growing = SimpleNamespace(resident=[10**8 + 10**6 * i for i in range(40)], handles=[12] * 40)
    assert not resources(growing)["ok"]
    assert not resources(SimpleNamespace(resident=flat.resident, handles=[12] * 39 + [13]))["ok"]


def test_a_server_that_does_not_begin_is_told(script, tmp_path, capsys) -> None:  # noqa: F811
    (tmp_path / "manifest.json").write_text("")
    assert script("serving_test").main([str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "manifest.json cannot be read as JSON" in capsys.readouterr().err
