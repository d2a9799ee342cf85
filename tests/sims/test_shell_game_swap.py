"""ShellGameSwap: the swaps, what hides and what shows, the rows of the state."""

from __future__ import annotations

import numpy as np
import pytest

from embodied.core.entities import POSITION
from embodied.core.errors import ConfigError
from embodied.core.task import CUE
from sims.memory_bench.manipulation import SHOWN_RGB
from sims.memory_bench.tasks.shell_game_swap import INFO, ShellGameSwap
from tests.sims.hands import finish_cue

TASK = "shell_game_swap"
BALL_ROW = 1  # after the lamp come the cups


def test_levels():
    got = [(k["K"], k["S"], k["occluder"]) for k in INFO.levels.values()]
    assert got == [(3, 2, 0), (4, 4, 0), (5, 6, 1), (7, 8, 1)]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [({"K": 2}, "3 to 7"), ({"S": 9}, "0 to 8"), ({"swap_s": 0.1}, "0.5 to 3"),
     ({"occluder": 2}, "0 to 1")],
)  # fmt: skip
def test_bad_knobs_are_refused(knobs, message):
    with pytest.raises(ConfigError, match=message):
        ShellGameSwap(INFO.knobs("easy", knobs))


def advance_to(env, tick: int) -> None:
    while env.task.tick < tick:
        env.advance(np.zeros(7))


def watch(env, seed: int, cue: int) -> list[np.ndarray]:
    """Plays a cue phase; returns the cups' positions [K, 3] at each tick."""
    env.reset(seed=seed, options={"cue": cue})
    seen = []
    while env.task.phase == CUE:
        seen.append(np.array([env.scene.pos(name) for name in env.task.candidates]))
        env.advance(np.zeros(7))
    return seen


@pytest.mark.sim
@pytest.mark.parametrize("level", list(INFO.levels))
def test_following_the_cups_by_eye_finds_the_ball(make_env, level):
    """Nearest cup from picture to picture, whatever its row, leads from the ball to the cue."""
    env = make_env(TASK, level=level)
    for seed, cue in ((1, 0), (2, env.task.n_cues - 1)):
        seen = watch(env, seed, cue)
        at = seen[0][env.task.first_place(), :2]
        step = 0.0
        for cups in seen[1:]:
            near = cups[np.hypot(*(cups[:, :2] - at).T).argmin(), :2]
            step, at = max(step, np.hypot(*(near - at))), near
        assert int(np.hypot(*(env.task.plan["pos"][:, :2] - at).T).argmin()) == cue
        assert step < 0.06, "cups move so fast that neighbours could be mistaken for each other"


@pytest.mark.sim
def test_cups_never_pass_through_each_other(make_env):
    for level in INFO.levels:
        for seed in range(3):
            for cups in watch(make_env(TASK, level=level), seed, 0):
                apart = np.linalg.norm(cups[:, None] - cups[None], axis=-1)
                assert apart[np.triu_indices(len(cups), 1)].min() > 0.055, (level, seed)


@pytest.mark.sim
def test_swaps_come_from_the_seed_and_lead_every_start_to_another_place(make_env):
    env = make_env(TASK, level="extreme")
    starts, swaps = [], []
    for cue in range(env.task.n_cues):
        env.reset(seed=7, options={"cue": cue})
        starts.append(env.task.first_place())
        swaps.append(env.task.plan["swaps"])
        xy = env.scene.pos("ball")[:2]
        np.testing.assert_allclose(xy, env.task.plan["pos"][starts[-1], :2])
    assert sorted(starts) == list(range(7)) and all(s == swaps[0] for s in swaps)
    assert all(set(a) != set(b) for a, b in zip(swaps[0], swaps[0][1:], strict=False))


@pytest.mark.sim
def test_the_ball_is_hidden_before_the_first_swap_and_stays_so(make_env):
    env = make_env(TASK)
    env.reset(seed=3)
    row = BALL_ROW + env.task.k
    assert env.observe()["entities_mask"][row]
    first = None
    while not env.task.decided and env.task.tick < 150:
        env.advance(np.zeros(7))
        shown = env.observe()["entities_mask"][row]
        first = env.task.tick if first is None and not shown else first
        assert first is None or not shown
        if env.task.swap_now() is not None:
            assert first is not None


@pytest.mark.sim
def test_rows_of_the_state_belong_to_places(make_env):
    """Otherwise a policy would read off the row that the ball was in, without following."""
    env = make_env(TASK)
    env.reset(seed=3)
    moved = 0.0
    while env.task.phase == CUE:
        env.advance(np.zeros(7))
        rows = env.observe()["entities"][1 : 1 + env.task.k, POSITION]
        if env.task.swap_now() is not None:
            moved = max(moved, np.abs(rows - env.task.plan["pos"]).max())
        elif env.task.tick > 40:
            np.testing.assert_allclose(rows, env.task.plan["pos"], atol=1e-6)
    assert moved > 0.05


@pytest.mark.sim
def test_cups_in_the_tunnel_are_covered(make_env):
    env = make_env(TASK, level="hard")
    env.reset(seed=2)
    hidden = set()
    while env.task.phase == CUE:
        env.advance(np.zeros(7))
        covered = env.task.covered()
        assert not covered or env.task.swap_now() is not None
        mask = env.observe()["entities_mask"]
        assert all(not mask[1 + int(name[3:])] for name in covered)
        hidden |= covered
    assert len(hidden) >= 3
    easy = make_env(TASK)
    easy.reset(seed=2)
    advance_to(easy, 60)
    assert not easy.task.covered() and not easy.scene.present["tunnel"]


@pytest.mark.sim
def test_without_swaps_the_ball_stays(make_env):
    env = make_env(TASK, knobs={"S": 0})
    env.reset(seed=1, options={"cue": 2})
    assert env.task.first_place() == 2 and env.task.cue_ticks == 36


@pytest.mark.sim
def test_reactive_twin_shows_the_answer(make_env):
    env = make_env(TASK, knobs={"visible_cue": 1})
    finish_cue(env, 3, 2)
    np.testing.assert_allclose(env.scene.m.geom("cup2_geom").rgba[:3], SHOWN_RGB, rtol=1e-6)
