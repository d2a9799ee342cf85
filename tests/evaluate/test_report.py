"""Summaries and reports hold the numbers that the episodes say."""

from __future__ import annotations

import dataclasses
import html.parser

import pytest

from embodied import registry
from embodied.commands.evaluate import summary
from embodied.core.errors import DataError
from embodied.core.files import read_json, write_json
from embodied.evaluate import report, stats
from embodied.evaluate.process import STAGES
from embodied.evaluate.results import read_episodes
from embodied.evaluate.runner import run
from embodied.evaluate.summary import compare_with_twin, summarise
from embodied.evaluate.video import encode_picture
from embodied.report.html import VOID
from tests.evaluate.fakes import CUES, FakePolicy, FakeVecEnv

SEEDS = range(60)


@pytest.fixture(scope="module")
def episodes():
    return run(FakePolicy(), FakeVecEnv(8), SEEDS, task="fake", level="easy", progress=False)


@pytest.fixture(scope="module")
def twin():
    policy = FakePolicy(remember=False)
    return run(policy, FakeVecEnv(8), SEEDS, task="fake", level="easy", progress=False)


def test_summary_counts(episodes, twin):
    row = summarise(episodes, 1 / 3, 0.99)
    assert (row["n"], row["successes"], row["success"]) == (60, 60, 1.0)
    assert (row["low"], row["high"]) == stats.wilson(60, 60)
    assert row["score"] == pytest.approx((1 - 1 / 3) / (0.99 - 1 / 3))
    assert row["commit_rate"] == 1.0 and row["failure_kinds"] == {}
    assert {c: v["n"] for c, v in row["per_cue"].items()} == {"0": 20, "1": 20, "2": 20}
    assert row["swap_followed"] is None and row["state_bytes"] == 16
    lost = summarise(twin, 1 / 3, None)
    assert lost["failure_kinds"] == {"wrong_choice": 60 - lost["successes"]}
    assert lost["score"] is None
    assert sum(c["successes"] for c in lost["per_cue"].values()) == lost["successes"]


def test_swap_summary_counts_what_took_place(episodes):
    swapped = run(
        FakePolicy(), FakeVecEnv(8), SEEDS, intervene="swapped", n_cues=CUES, progress=False
    )
    row = summarise(swapped, 1 / 3, 0.99)
    assert (row["swapped"], row["followed"], row["swap_followed"]) == (60, 60, 1.0)
    # One that acted on nothing did not follow; one that never reached go took no part.
    still = dataclasses.replace(swapped[0], commit="", committed=False, followed=False)
    early = dataclasses.replace(swapped[1], intervened=False, donor_cue=None, followed=None)
    row = summarise([still, early, *swapped[2:]], 1 / 3, 0.99)
    assert (row["swapped"], row["followed"]) == (59, 58)
    with pytest.raises(DataError, match="several interventions"):
        summarise([*swapped, *episodes], 1 / 3, None)
    with pytest.raises(DataError, match="no episodes"):
        summarise([], 1 / 3, None)


def test_twin_comparison(episodes, twin):
    result = compare_with_twin(episodes, twin, 1 / 3)
    wins = sum(e.success for e in twin)
    assert (result["only_policy"], result["only_twin"]) == (60 - wins, 0)
    assert result["difference"] == pytest.approx(1 - wins / 60)
    assert result["able"] and result["contains_ceiling"] and not result["equivalent"]
    shifted = [dataclasses.replace(e, seed=e.seed + 10) for e in twin]
    with pytest.raises(DataError, match="another cue"):
        compare_with_twin(episodes, shifted, 1 / 3)
    far = [dataclasses.replace(e, level="hard") for e in twin]
    with pytest.raises(DataError, match="no evaluation seed in common"):
        compare_with_twin(episodes, far, 1 / 3)
    far = [dataclasses.replace(e, seed=e.seed + 1000) for e in twin]
    with pytest.raises(DataError, match="in common"):
        compare_with_twin(episodes, far, 1 / 3)


def results_of(episodes, twin, picture):
    common = {
        "task": "fake", "level": "easy", "policy": "<fake>", "knobs": {}, "control": "fast",
        "visuals": "lite", "observation": "rgb", "cameras": ["front"], "image_size": 64,
        "train_seed": 0, "eval_seeds": [0, 59], "batch": 8, "wall_s": 1.0, "privileged": False,
    }  # fmt: skip
    main = {"role": "policy", "memory": "bank", "intervene": "none", **common}
    main |= summarise(episodes, 1 / 3, 0.99)
    main |= {"twin": compare_with_twin(episodes, twin, 1 / 3), "picture": picture}
    main["videos"] = ["videos/a.mp4"]
    other = {"role": "twin", "memory": "none", "intervene": "none", **common, "twin": None}
    other |= summarise(twin, 1 / 3, 0.99)
    return {
        "rows": [main, other],
        "policy": {
            "policy": "<fake>",
            "memory": "bank",
            "path": "runs/x",
            "sha256": "ab",
            "parameters": 9,
        },
        "twin": None,
        "machine": {"cpu": "a cpu", "gpu": None, "torch": "2"},
        "config": {"executor": {"name": "prefix"}},
        "command": "embodied evaluate runs/x",
        "package_version": "0",
        "commit": None,
        "created_utc": "2026",
    }


class Balanced(html.parser.HTMLParser):
    """Fails on crossed tags and collects addresses."""

    def __init__(self):
        super().__init__()
        self.stack, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_reports_hold_the_numbers_and_need_no_network(episodes, twin, tmp_path):
    import numpy as np

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(encode_picture(np.zeros((16, 16, 3), np.uint8)))
    results = results_of(episodes, twin, "pictures/a.jpg")
    write_json(tmp_path / "results.json", results)
    report.write(tmp_path, read_json(tmp_path / "results.json"))
    text = (tmp_path / "report.md").read_text()
    page = (tmp_path / "report.html").read_text()
    low, high = stats.wilson(60, 60)
    wins = sum(e.success for e in twin)
    for content in (text, page):
        assert "100.0 %" in content and f"{100 * low:.1f} – {100 * high:.1f}" in content
        assert "33.3 %" in content and f"{100 * wins / 60:.1f} %" in content
        assert f"policy alone right {60 - wins}" in content
        assert "contains the ceiling" in content and "wrong choice" in content
        assert "videos/a.mp4" in content
    assert "<fake>" in text and "&lt;fake&gt;" in page and "<fake>" not in page
    parser = Balanced()
    parser.feed(page)
    assert parser.stack == []
    assert not any(a.startswith(("http", "//")) for a in parser.addresses)
    assert any(a.startswith("data:image/jpeg;base64,") for a in parser.addresses)
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_process_rates_are_told_in_the_terminal_and_state_has_no_cameras(episodes, twin):
    results = results_of(episodes, twin, "")
    assert "stored" not in summary(results)
    rate = {"rate": 0.5, "low": 0.1, "high": 0.9, "n": 4}
    results["rows"][0]["process"] = {**dict.fromkeys(STAGES, rate), "blamed": {"kept": 2}}
    lines = summary(results).splitlines()
    assert lines[-2].startswith("fake: Process rates: stored 50.0 % (10.0 – 90.0, n = 4), kept")
    assert lines[-1] == "fake: Failures are blamed on: not kept 2."
    assert "- observation: `rgb, cameras front, 64 px`" in report.markdown(results)
    results["rows"][0]["observation"] = "state"
    assert "- observation: `state`" in report.markdown(results)


def test_the_ceiling_with_a_clock_stands_beside_the_ceiling(episodes):
    row = {"role": "policy", "memory": "", "intervene": "none", "policy": "p", "level": "easy"}
    row |= summarise(episodes, 1 / 3, 0.99)
    where = report.HEADER.index("c*, clock")
    for task, told in (("put_block_back", "100.0 %"), ("order_recall", "8.3 – 100.0 %")):
        knobs = registry.task_info(task).knobs("easy")
        assert report.cells({**row, "task": task, "knobs": knobs})[where] == told
        other = {**knobs, "gap_max_s": 99.0}
        assert report.cells({**row, "task": task, "knobs": other})[where] == "–"


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_text('{"seed": 1}\n')
    with pytest.raises(DataError, match=r"episodes.jsonl, line 1: .*lacks"):
        read_episodes(path)
    path.write_text("{")
    with pytest.raises(DataError, match="line 1"):
        read_episodes(path)
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "no.json")
