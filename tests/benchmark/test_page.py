"""The page of a benchmark in a real browser: it loads, sorts, scrubs, and fetches nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embodied.benchmark import run
from embodied.benchmark.config import BenchmarkConfig
from embodied.benchmark.record import Record
from embodied.core.errors import DataError
from embodied.core.files import write_json
from embodied.evaluate.results import write_episodes
from tests.benchmark.cells import TASKS, episodes, looks, results
from tests.browser import Page, browser

HOSTILE = "<img src=x onerror=alert(1)>"
"""A name is data: this one must come out as it went in."""
WINS = {"full_history": 9, "gru": 6, HOSTILE: 3}
CONFIG = BenchmarkConfig(task=TASKS, memory=list(WINS), report="html")
RECORD = Record({}, {"longer": ["knobs.gap_max_s=30"]})
PHONE, DESK = (390, 844), (1280, 900)

CONTRAST = """
(selector) => {
  const node = document.querySelector(selector);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((v) => {
      const part = v / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    const colour = getComputedStyle(one).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(one.parentElement) : colour;
  };
  const pair = [getComputedStyle(node).color, behind(node)].map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}
"""

LABELS = "[...document.querySelectorAll('[data-part=episode] option')].map((o) => o.text)"
CHOOSE = """
(index) => {
  const episode = document.querySelector("[data-part=episode]");
  episode.value = index;
  episode.dispatchEvent(new Event("change"));
}
"""


def made(out: Path) -> Path:
    """Writes a benchmark's directory and its page."""
    for memory, wins in WINS.items():
        folder = out / "cells" / f"{memory}-s0"
        write_json(folder / "evaluation" / "results.json", results(memory, wins))
        write_episodes(folder / "evaluation" / "episodes.jsonl", episodes(wins))
        if memory == "gru":
            write_json(folder / "beyond-longer" / "results.json", results(memory, wins - 2))
        looks(folder / "looks", memory, slots=memory != "gru")
    run.write_reports(out, CONFIG, RECORD)
    return out / "report.html"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="module")
def page(file: Path, tmp_path_factory: pytest.TempPathFactory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        opened.view(*DESK)
        opened.open(file)
        yield opened
        assert opened.problems == []


def column(page: Page, head: str) -> list[str]:
    """Clicks a head of the leaderboard; returns the memories from above."""
    page.run(
        "[...document.querySelectorAll('thead button')]"
        f".find((b) => b.textContent === {head!r}).click()"
    )
    return page.run(
        "[...document.querySelector('table').tBodies[0].rows].map((r) => r.cells[0].textContent)"
    )


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


def test_it_loads_whatever_names_hold_and_fetches_nothing(page: Page, file: Path) -> None:
    assert text(page, "h1") == "memory_vla with each memory"
    assert HOSTILE in text(page, "body") and f">{HOSTILE}" not in file.read_text()
    assert page.run("document.querySelectorAll('[onerror]').length") == 0
    assert all(address.startswith(("file:", "data:")) for address in page.addresses)
    page.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.run("const film = document.querySelector('video'); film.preload = 'auto'; film.load()")
    page.until("document.querySelector('video').duration > 0")
    words = text(page, "details")
    for expected in (
        "see one coloured cube", "1/3 = 33.3 %", "Expert, fast: 200 of 200", "Published claims",
        "follows a swapped memory in 895 of 900", "failed: wrong choice",
        "touch the cube with the color",
    ):  # fmt: skip
        assert expected in words


def test_what_lies_beyond_training_has_a_table_of_its_own(page: Page) -> None:
    captions = page.run("[...document.querySelectorAll('caption')].map((c) => c.textContent)")
    (where,) = [i for i, said in enumerate(captions) if said == "Beyond training: longer"]
    row = page.run(
        f"document.querySelectorAll('caption')[{where}].closest('table').tBodies[0].rows[0].textContent"
    )
    assert "40.0 % (16.8 – 68.7)" in row and row.count("–") == 3  # two memories without it


def test_what_is_not_ours_does_not_run(page: Page) -> None:
    page.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.ran = 1\">')")
    page.run("document.body.lastElementChild.click()")
    page.run("document.body.lastElementChild.remove()")
    assert page.run("window.ran") is None
    refused = page.problems.pop()
    assert "Content Security Policy" in refused and page.problems == []


def test_columns_sort_both_ways(page: Page) -> None:
    assert column(page, "success") == ["full_history", "gru", HOSTILE]
    assert column(page, "success") == [HOSTILE, "gru", "full_history"]
    assert page.run("document.querySelector('th[aria-sort]').ariaSort") == "ascending"
    assert column(page, "against full history")[-1] == "full_history"  # unknown: last
    assert column(page, "against full history")[-1] == "full_history"
    assert column(page, "longer")[0] == "gru"  # the others are unknown: last
    assert column(page, "memory") == ["gru", "full_history", HOSTILE]


def test_the_keyboard_scrubs(page: Page) -> None:
    page.run("document.querySelector('[data-part=episode]').focus()")
    choose = "(i) => {const e = document.querySelector('[data-part=episode]');" \
             " e.value = i; e.dispatchEvent(new Event('change'));}"  # fmt: skip
    labels = page.run(
        "[...document.querySelectorAll('[data-part=episode] option')].map((o) => o.text)"
    )
    first = labels.index("remember_color easy · full_history · seed 7")
    page.run(f"({choose})({first})")
    assert text(page, "[data-part=place]") == "tick 1 of 6, 0.0 s, cue"
    assert "Memory is empty" in text(page, ".side")
    page.run("document.querySelector('[data-part=tick]').focus()")
    for _ in range(4):
        page.press("ArrowRight", 39)
    place = "tick 5 of 6, 1.6 s, execute"
    assert text(page, "[data-part=place]") == place
    assert page.run("document.querySelector('[data-part=tick]').ariaValueText") == place
    sides = page.run("[...document.querySelectorAll('.side')].map((s) => s.textContent)")
    assert len(sides) == 2 and "x: success" in sides[0] and "was followed" in sides[1]
    assert "memory of: blue" in sides[1] and "memory of: blue" not in sides[0]
    assert "gate: 75 %" in sides[0] and "slot 3" in sides[0] and "gripper -0.78" in sides[0]
    page.press("End", 35)
    assert "2 merged" in text(page, ".slots li") and "read 100 %" in text(page, ".slots li.most")
    assert page.run("document.querySelectorAll('.slots li')[0].querySelectorAll('img').length") == 2
    assert page.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    other = labels.index("remember_color easy · gru · seed 7")
    page.run(f"document.querySelector('[data-episode=\"{other}\"]').click()")
    assert "No slots to show" in text(page, ".side")


def test_it_plays_and_stops_at_the_end(page: Page) -> None:
    page.run("document.querySelector('[data-part=tick]').value = 4")
    page.run("document.querySelector('[data-part=play]').click()")
    assert text(page, "[data-part=play]") == "pause"
    page.until("document.querySelector('[data-part=play]').textContent === 'play'")
    assert text(page, "[data-part=place]").startswith("tick 6 of 6")


def test_everything_that_is_used_has_a_name(page: Page) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    used = {"button", "slider", "combobox", "link", "image", "table", "meter", "region"}
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"]
        and node.get("role", {}).get("value") in used
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_fits_and_can_be_read(page: Page, size: tuple[int, int], dark: bool) -> None:
    page.view(*size, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= size[0]
    for selector in ("body", ".note", "caption", "thead button", "a", ".good", "summary", ".badge",
                     "button", ".slots li, .side .note"):  # fmt: skip
        assert page.run(f"({CONTRAST})({selector!r})") >= 4.5, selector
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")


def test_a_broken_look_is_named(tmp_path: Path) -> None:
    file = made(tmp_path / "b")
    broken = next(file.parent.glob("cells/full_history-s0/looks/inspection/*.npz"))
    broken.write_bytes(b"PK")
    with pytest.raises(DataError, match=rf"{re.escape(broken.name)} cannot be read"):
        run.write_reports(file.parent, CONFIG, RECORD)
