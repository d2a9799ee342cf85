"""Certificate 4: which poor memories suffice, on made-up histories and on real ones."""

from __future__ import annotations

import pytest

from sims.memory_bench import certify, windows
from sims.memory_bench.windows import Choice, History, describe, solved


def history(ticks: str, *choices: tuple[int, str]) -> History:
    """A letter for what is seen at each tick."""
    return History(tuple(t.encode() for t in ticks), tuple(Choice(*choice) for choice in choices))


ANCHOR = [history("a..........", (10, "left")), history("b..........", (10, "right"))]
RECENT = [history("s.......a..", (10, "left")), history("s.......b..", (10, "right"))]
EARLY = [history("s.a........", (10, "left")), history("s.b........", (10, "right"))]
MOVED = [history(f"{x}.{y}........", (10, "left" if (x == "a") == (y == "0") else "right"))
         for x in "ab" for y in "01"]  # fmt: skip
SPREAD = [history(f"{x}.......{y}..", (10, "left" if (x == "a") == (y == "0") else "right"))
          for x in "ab" for y in "01"]  # fmt: skip
COUNT = [history("s..g..g..g", (3, "go on"), (6, "go on"), (9, "stop"))]


@pytest.mark.parametrize(
    ("histories", "label", "first", "last", "both"),
    [
        (ANCHOR, "anchor-solvable", 1.0, 10, 0),
        (RECENT, "window-solvable(2)", 0.5, 2, 2),
        (EARLY, "needs-integration", 0.5, 8, 8),
        (MOVED, "needs-integration", 0.5, 10, 8),
        (SPREAD, "anchor-and-window-solvable(2)", 0.5, 10, 2),
        (COUNT, "needs-integration", 0.0, 6, 6),
    ],
)
def test_what_suffices_is_found(histories, label, first, last, both) -> None:
    found = describe([histories])
    assert found["label"] == label and found["first"] == first
    assert (found["last_ticks"], found["first_and_last_ticks"]) == (last, both)
    assert found["history_ticks"] == histories[0].choices[-1].tick
    # As many ticks as suffice do, one fewer does not.
    for first_too, enough in ((False, last), (True, both)):
        assert solved([histories], first_too, enough) == 1.0
        assert not enough or solved([histories], first_too, enough - 1) < 1.0


def test_a_row_of_choices_counts_as_one() -> None:
    assert solved([COUNT], False, 0) == 0.0  # two right and one wrong
    assert solved([COUNT, ANCHOR], True, 0) == pytest.approx(2 / 3)


def test_scenes_are_told_apart() -> None:
    other = [history("a..........", (10, "right")), history("b..........", (10, "left"))]
    assert solved([ANCHOR, other], True, 0) == 1.0
    assert solved([[*ANCHOR, *other]], True, 0) == 0.5


@pytest.mark.sim
def test_the_swap_of_a_shell_game_has_to_be_seen(make_env) -> None:
    """With the swap of one seed alone the first frame would say it all."""
    env = make_env("shell_game_swap", copy=1, knobs={"S": 1, "gap_min_s": 0.2, "gap_max_s": 0.2})
    found = windows.measure(env, [1])
    assert found["label"].startswith(windows.BOTH) and found["first"] < 1.0
    env.task.later_plan = ()
    assert windows.measure(env, [1])["label"] == windows.ANCHOR


@pytest.mark.sim
def test_parts_that_are_left_out_are_kept() -> None:
    effort = certify.Effort(("window",), pair_seeds=1)
    stored = certify.load("remember_color")
    found = certify.certify_task("remember_color", ["easy"], effort, known=stored)
    easy, before = found["levels"]["easy"], stored["levels"]["easy"]
    assert easy["window"]["fast"]["label"] == windows.ANCHOR
    assert easy["holds"] and easy["expert"] == before["expert"]
    assert found["levels"]["hard"] == stored["levels"]["hard"]
    alone = certify.certify_task("remember_color", ["easy"], effort)["levels"]["easy"]
    assert not alone["holds"] and alone["expert"] == {}
    before["mjcf_sha256"]["fast"] = "of another model"
    again = certify.certify_task("remember_color", ["easy"], effort, known=stored)
    assert again["levels"]["easy"] == alone
