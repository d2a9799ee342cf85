"""Ballet against its published facts and against a plain second implementation."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from sims.recall.ballet import facts
from sims.recall.ballet.stage import BalletGame
from sims.recall.catalog import TASKS, make_game
from sims.recall.gym_env import RecallEnv
from sims.recall.vector_env import RecallVectorEnv
from tests.sims.recall import naive_ballet
from tests.sims.recall.naive_ballet import DANCES, STEPS, Dancer, NaiveBallet

LITE, GRID, PIXEL = (TASKS[f"recall/ballet_{kind}"] for kind in ("lite", "grid", "pixel"))
LEVELS = [f"{n}_delay{delay}" for n in (2, 4, 8) for delay in (16, 48)]
CHOICE = dict(zip(LEVELS, (62, 126, 124, 252, 248, 504), strict=True))
LIMIT = {level: 320 if level.endswith("16") else 1024 for level in LEVELS}


def naive(game: BalletGame, row: int = 0) -> NaiveBallet:
    """Returns the second implementation of the episode that `game` has just started."""
    dancers = []
    shapes, colours = list(facts.SHAPES), list(facts.COLOURS)
    for k in range(game.dancers):
        look = int(game.look_of[row, k]) if hasattr(game, "look_of") else 0
        dancers.append(
            Dancer(
                home=tuple(int(x) for x in facts.HOMES[game.home_of[row, k]]),
                dance=facts.DANCES[game.dance_of[row, k]],
                shape=shapes[look // len(colours)],
                colour=colours[look % len(colours)],
            )
        )
    delay = int(game.knobs["delay"])
    return NaiveBallet(dancers, int(game.cue[row]), delay, int(game.knobs.get("max_steps", 10**9)))


# -- facts ------------------------------------------------------------------------------------


def test_there_are_thirteen_dances_that_end_at_home_and_stay_near():
    assert facts.MOVES_OF.shape == (13, 16)
    assert (facts.OFFSETS_OF[:, -1] == 0).all()
    assert abs(facts.OFFSETS_OF).max() == 1
    assert (abs(facts.OFFSETS_OF[:, 0]).max(-1) == 1).all(), "each begins with a move"
    for name, moves in zip(facts.DANCES, facts.MOVES_OF, strict=True):
        assert [facts.DIRECTIONS[m] for m in moves] == DANCES[name], name


def test_dances_differ_early_and_in_all_but_two_pairs_of_histograms():
    joined = set()
    for a, b in itertools.combinations(range(13), 2):
        assert (facts.MOVES_OF[a, :3] != facts.MOVES_OF[b, :3]).any()
        cells = [sorted(map(tuple, facts.OFFSETS_OF[k].tolist())) for k in (a, b)]
        if cells[0] == cells[1]:
            joined.add((facts.DANCES[a], facts.DANCES[b]))
    assert joined == {("plus_cw", "plus_ccw"), ("times_cw", "times_ccw")}


def test_homes_lie_three_king_moves_away_in_each_direction():
    official = {(2, 2), (2, 5), (2, 8), (5, 2), (5, 8), (8, 2), (8, 5), (8, 8)}
    assert {tuple(home) for home in facts.HOMES.tolist()} == official
    for name, home in zip(facts.DIRECTIONS, facts.HOMES, strict=True):
        assert (home == np.array((5, 5)) + 3 * np.array(STEPS[name])).all()


def test_sprites_follow_their_rules():
    assert facts.SPRITES.shape == (15, 19, 9, 9, 3) and len(facts.COLOURS) == 19
    for s, shape in enumerate(facts.SHAPES):
        mask = np.array([[naive_ballet.in_shape(shape, i, j) for j in range(9)] for i in range(9)])
        for c, colour in enumerate(facts.COLOURS):
            rgb = bytes.fromhex(naive_ballet.COLOURS[colour])
            assert (facts.SPRITES[s, c] == mask[..., None] * np.array(list(rgb))).all()
    assert len({mask.tobytes() for mask in facts.SHAPES.values()}) == 15
    assert facts.SHAPES["circle"].sum() == 49 and facts.SHAPES["plus"].sum() == 45


def test_a_pool_of_dances_is_the_first_of_the_list():
    game = make_game(LITE, "2_delay2_dances4", None, 400)
    game.start(game.index, game.index, np.full(400, -1))
    assert set(game.dance_of.ravel()) == {0, 1, 2, 3}


# -- draws ------------------------------------------------------------------------------------


def test_an_episode_has_distinct_homes_dances_shapes_and_colors():
    game = make_game(PIXEL, "8_delay16", None, 600)
    game.start(game.index, game.index + 48, np.full(600, -1))
    shape, colour = np.divmod(game.look_of, 19)
    for drawn, size in ((game.home_of, 8), (game.dance_of, 13), (shape, 15), (colour, 19)):
        assert all(len(set(row)) == 8 for row in drawn.tolist())
        counts = np.bincount(drawn.ravel(), minlength=size)
        assert counts.min() > 0.8 * 4800 / size and counts.max() < 1.2 * 4800 / size
    assert np.bincount(game.cue).tolist() == [75] * 8, "cues are balanced in blocks"
    asked = game.dance_of[game.index, game.cue]
    assert (game.asked == asked).all()
    assert np.bincount(asked, minlength=13).min() > 25
    # Nothing drawn tells the answer.
    for drawn in (shape, colour, game.home_of):
        told = np.corrcoef(drawn[game.index, game.cue], game.cue)[0, 1]
        assert abs(told) < 0.15


def test_another_cue_hands_the_same_dances_round():
    game = make_game(PIXEL, "4_delay16", None, 4)
    game.start(game.index, np.full(4, 9), np.arange(4))
    assert (game.home_of == game.home_of[0]).all() and (game.look_of == game.look_of[0]).all()
    assert (game.asked == game.asked[0]).all()
    assert {tuple(sorted(row)) for row in game.dance_of.tolist()} == {
        tuple(sorted(game.dance_of[0].tolist()))
    }
    assert len(set(game.target.tolist())) == 4


# -- time -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("info", [GRID, PIXEL], ids=["grid", "pixel"])
def test_choice_frames_limits_and_shortest_episodes(info, level):
    env = RecallEnv(info, level)
    _, told = env.reset(seed=2)
    assert env.horizon == LIMIT[level]
    frame, over = 0, False
    while not over:
        assert told["actionable"] == (frame >= CHOICE[level])
        assert (told["instruction"] != "watch") == (frame >= CHOICE[level])
        assert told["gate"] == (frame == CHOICE[level])
        _, reward, over, truncated, told = env.step(env.make_expert().act())
        frame += 1
    assert frame == CHOICE[level] + 3
    assert reward == 1.0 and not truncated and told["success"]


def test_dancers_move_in_turn_from_frame_0_on():
    for level in ("4_delay16", "2_delay48"):
        env = RecallEnv(LITE, level)
        obs, info = env.reset(seed=6)
        game, shown, phases = env.game, [obs["homes_token"]], [info["phase"]]
        homes = game.home_of[0].copy()
        for _ in range(env.horizon - 1):
            obs, *_, info = env.step(0)
            shown.append(obs["homes_token"])
            phases.append(info["phase"])
        shown, period = np.array(shown), game.period
        away = shown != 5
        for k, home in enumerate(homes):
            first = k * period
            assert away[first, home], "the first move is seen in the dancer's first frame"
            assert not away[:first, home].any() and not away[first + 15 :, home].any()
            path = 1 + (facts.OFFSETS_OF[game.dance_of[0, k]] + 1) @ (3, 1)
            assert (shown[first : first + 16, home] == path).all()
            assert set(phases[first : first + 16]) == {"cue"}
            assert set(phases[first + 16 : first + period]) == {"gap"}
        absent = [h for h in range(8) if h not in homes]
        assert not shown[:, absent].any()
        assert len(shown) == game.choice_frame + 1 and phases[-1] == "execute"


def test_reference_episode_of_one_dancer():
    env = RecallEnv(PIXEL, "2_delay16", {"dancers": 1})
    _, info = env.reset(seed=0)
    for _ in range(30):
        assert info["instruction"] == "watch"
        _, _, _, _, info = env.step(3)
    assert info["instruction"] == "watch"
    _, _, _, _, info = env.step(3)
    assert info["instruction"] == facts.DANCES[env.game.dance_of[0, 0]]
    for step in range(3):
        obs, reward, terminated, _, info = env.step(env.make_expert().act())
        assert terminated == (step == 2)
    assert reward == 1.0
    sprite = facts.SPRITES.reshape(-1, 9, 9, 3)[env.game.look_of[0, 0]]
    assert (obs["agent_image_u8"][45:54, 45:54] == sprite).all()


# -- against the plain implementation ---------------------------------------------------------


@pytest.mark.parametrize("level", ["2_delay16", "8_delay16", "4_delay48"])
def test_every_pixel_is_that_of_the_plain_renderer(level):
    rows = 3
    vec = RecallVectorEnv(PIXEL, rows, level=level)
    rng = np.random.default_rng(3)
    obs, infos = vec.reset(seed=[4, 9, 40])
    plain = [naive(vec.game, row) for row in range(rows)]
    left_over = [False] * rows
    for _ in range(CHOICE[level] + 60):
        for row, ballet in enumerate(plain):
            np.testing.assert_array_equal(obs["agent_image_u8"][row] / 255, ballet.frame())
            assert infos["instruction"][row] == ballet.instruction
        actions = rng.integers(0, 8, rows)
        # Walks straight ahead often enough to meet walls.
        actions = np.where(rng.random(rows) < 0.7, [0, 2, 4], actions)
        obs, reward, terminated, truncated, infos = vec.step(actions)
        for row, ballet in enumerate(plain):
            before = ballet.over
            if not before:
                ballet.step(int(actions[row]))
            assert ballet.over == (terminated[row] or truncated[row])
            assert reward[row] == (0.0 if before else ballet.reward)
            left_over[row] = ballet.over
    assert any(left_over) or level == "2_delay16"


@pytest.mark.parametrize("kind", ["grid", "pixel"])
def test_walks_to_the_end_agree_in_outcome(kind):
    info, rows = TASKS[f"recall/ballet_{kind}"], 40
    vec = RecallVectorEnv(info, rows, level="2_delay16")
    vec.reset(seed=0)
    plain = [naive(vec.game, row) for row in range(rows)]
    rng = np.random.default_rng(0)
    names = ["floor", "wall", "agent", "dancer"]
    for _ in range(vec.horizon):
        # Up and down only: some never meet a dancer and run out of time.
        actions = rng.choice([0, 4, 0, 4, 1], rows)
        obs, reward, terminated, truncated, infos = vec.step(actions)
        for row, ballet in enumerate(plain):
            if ballet.over:
                continue
            ballet.step(int(actions[row]))
            assert ballet.over == (terminated[row] or truncated[row])
            assert reward[row] == ballet.reward == float(infos["success"][row])
            if kind == "grid" and row < 4:
                view = [[names.index(cell.split()[0]) for cell in line] for line in ballet.cells()]
                np.testing.assert_array_equal(obs["view_token"][row], view)
    assert (terminated | truncated).all()
    timeouts = truncated.sum()
    assert 0 < timeouts < rows, "both ends are met"
    assert set(np.array(infos["failure_kind"])[truncated]) == {"timeout"}
    assert not infos["success"][truncated].any()


def test_walls_stop_and_dancers_do_not():
    game = make_game(GRID, "2_delay16", {"dancers": 1}, 1)
    game.start(game.index, np.array([0]), np.array([-1]))
    while not game.actionable[0]:
        game.step(np.array([0]))
    away = (int(game.target[0]) + 4) % 8
    places = []
    for _ in range(8):
        game.step(np.array([away]))
        places.append(divmod(int(game.pos[0]), 11))
    assert places[3:] == [places[3]] * 5 and max(abs(np.subtract(places[3], 5))) == 4
    for _ in range(4 + 3):
        game.step(np.array([int(game.target[0])]))
    assert game.terminated[0] and game.success[0]


def test_restoring_draws_the_same_pictures():
    vec = RecallVectorEnv(PIXEL, 5, level="4_delay16")
    vec.reset(seed=1)
    rng = np.random.default_rng(0)
    for tick in range(140):
        obs, *_ = vec.step(rng.integers(0, 8, 5))
        if tick % 9 == 0:
            other = RecallVectorEnv(PIXEL, 5, level="4_delay16")
            other.restore_state(vec.save_state())
            np.testing.assert_array_equal(
                other.game.obs["agent_image_u8"], obs["agent_image_u8"], err_msg=str(tick)
            )


# -- bad knobs and speed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "knobs", "match"),
    [
        (LITE, {"dancers": 9}, "dancers.*from 1 to 8, got 9"),
        (LITE, {"dancers": 0}, "from 1 to 8"),
        (LITE, {"delay": 0}, "delay.*from 1 to"),
        (LITE, {"delay": 2.5}, "whole number"),
        (LITE, {"delay": float("nan")}, "whole number"),
        (LITE, {"dances": 1}, "dances.*from 2 to 13, got 1"),
        (LITE, {"dances": 14}, "from 2 to 13"),
        (PIXEL, {"delay": 200}, "max_steps.*from frame 430.*set max_steps >= 433"),
        (PIXEL, {"dancer": 2}, "did you mean 'dancers'"),
    ],
)
def test_bad_knobs_are_refused(info, knobs, match):
    with pytest.raises(ConfigError, match=match):
        make_game(info, "2_delay16", knobs, 1)


@pytest.mark.parametrize("info", [LITE, GRID, PIXEL], ids=["lite", "grid", "pixel"])
def test_a_lead_shifts_everything(info):
    shift, frames = 7, []
    for lead in (0, shift):
        env = RecallEnv(info, "2_delay16", {"lead": lead})
        obs, told = env.reset(seed=8)
        shown = [(obs, told["phase"])]
        expert = env.make_expert()
        while not env.over:
            obs, *_, told = env.step(expert.act())
            shown.append((obs, told["phase"]))
        assert told["success"]
        frames.append((shown, env.game.evidence()[0, 0, 0]))
    (plain, first), (late, later) = frames
    assert later == first + shift and len(late) == len(plain) + shift
    for (obs, phase), (other, again) in zip(plain, late[shift:], strict=True):
        assert phase == again
        for key, value in obs.items():
            np.testing.assert_array_equal(value, other[key])
    quiet = plain[16][0]  # everyone is at home in the delay
    assert plain[16][1] == "gap"
    for obs, phase in late[:shift]:
        assert phase == "gap"
        for key, value in quiet.items():
            np.testing.assert_array_equal(value, obs[key])


def test_long_delays_are_possible():
    env = RecallEnv(LITE, "2_delay16", {"delay": 1000})
    env.reset(seed=0)
    expert = env.make_expert()
    for _ in range(2 * 1015 + 1):
        *_, info = env.step(expert.act())
    assert env.over and info["success"] and info["time_s"] == pytest.approx(203.1)


def _rate(step, frames: int, seconds: float = 0.3) -> float:
    """Returns frames a second of processor time: other load must not fail a test."""
    step()
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        step()
        count += frames
    return count / (time.process_time() - began)


def test_the_vector_env_is_much_faster_than_the_plain_renderer():
    rng = np.random.default_rng(0)
    rates = {}
    for info, rows in ((LITE, 4096), (PIXEL, 64)):
        vec = RecallVectorEnv(info, rows, level="2_delay16", autoreset="same_step")
        vec.reset(seed=0)
        actions = rng.integers(0, 8, rows)
        rates[info.name] = _rate(lambda v=vec, a=actions: v.step(a), rows)
    game = make_game(PIXEL, "2_delay16", None, 1)
    game.start(game.index, np.array([0]), np.array([-1]))
    ballet = naive(game)

    def plain():
        ballet.step(0)
        ballet.frame()

    slow = _rate(plain, 1)
    assert rates[PIXEL.name] > 10 * slow
    assert rates[LITE.name] > 200 * slow
