"""Rules of single recall tasks that the common tests do not see."""

from __future__ import annotations

import numpy as np
import pytest

from sims.recall import boxes, graph, visual_match
from sims.recall.catalog import TASKS, make_game
from sims.recall.game import Game
from sims.recall.vector_env import RecallVectorEnv


def started(task: str, level: str, rows: int, cues: int = -1, **knobs) -> Game:
    game = make_game(TASKS[f"recall/{task}"], level, knobs, rows)
    game.start(game.index, game.index, np.full(rows, cues))
    return game


def test_infos_hold_what_runners_and_learners_read():
    vec = RecallVectorEnv("recall/t_maze", 2)
    _, infos = vec.reset(seed=0)
    assert infos.keys() == {
        "phase", "actionable", "held", "gate", "commit", "target", "cue", "success",
        "failure_kind", "time_s", "image_fresh", "instruction",
    }  # fmt: skip
    assert infos["image_fresh"].all() and infos["time_s"].dtype == np.float64


# -- visual match -----------------------------------------------------------------------------


def test_apples_pay_and_come_back():
    game = started("visual_match", "gap250", 400)
    assert set(game.worth) == set(range(1, 11))
    rng = np.random.default_rng(0)
    eaten_at: dict[tuple[int, int], int] = {}
    meals = returns = 0
    for _ in range(visual_match.CUE_STEPS + 200):
        frame = game.tick[0]
        game.step(rng.integers(0, 4, 400))
        assert not game.reward.any() or frame >= visual_match.CUE_STEPS
        paid = np.flatnonzero(game.reward)
        assert (game.reward[paid] == game.worth[paid]).all()
        for row in range(400):
            here = np.flatnonzero((game.apples[row] == game.pos[row]).all(-1))
            if not here.size:
                assert not game.reward[row]
                continue
            key = (row, int(here[0]))
            ripe = key not in eaten_at or frame + 1 - eaten_at[key] >= 20
            if game.tick[0] > visual_match.CUE_STEPS:
                assert bool(game.reward[row]) == ripe
            if game.reward[row]:
                meals, returns = meals + 1, returns + (key in eaten_at)
                eaten_at[key] = int(game.tick[0])
    assert meals > 1000 and returns > 100
    assert not started("visual_match", "gap30", 5, apple_reward=0).worth.any()
    assert (started("visual_match", "gap30", 5, apple_reward=1).worth == 1).all()


def test_the_gap_shows_apples_and_leaves_nothing_behind():
    game = started("visual_match", "gap30", 50)
    seen, rng = [], np.random.default_rng(0)
    for _ in range(game.horizon):
        view, phase = game.obs["view_token"], game.phase[0]
        seen.append(((view >= 4).any(), (view == 3).any(), (view == 2).sum((1, 2)).tolist()))
        if (game.terminated | game.truncated).any():
            break
        if phase == 1:
            inside = (game.pos >= 1).all() and (game.pos <= [5, 9]).all()
            assert inside and game.actionable[0] == (game.tick[0] != game.go - 1)
        if game.gate[0]:  # where one stood in the gap must not carry a memory over
            assert (game.pos == (5, 5)).all()
        game.step(rng.integers(0, 4, 50))
    colours, apples, agents = zip(*seen, strict=True)
    assert all(colours[:15]) and not any(apples[:15])
    assert not any(colours[15:45]) and all(apples[15:45])
    assert not any(apples[45:])
    assert all(count == [1] * 50 for count in agents)
    assert len({tuple(door) for door in game.door_of.tolist()}) == 6


def test_time_runs_out_before_the_doors():
    game = started("visual_match", "gap30", 3)
    for _ in range(game.horizon):
        game.step(np.full(3, 2))
    assert game.truncated.all() and not game.terminated.any() and game.tick[0] == 15 + 30 + 15
    assert set(game.infos()["failure_kind"]) == {"timeout"}
    right = started("visual_match", "gap30", 3)
    for _ in range(right.horizon):
        rows = np.flatnonzero(~right.terminated)
        right.step(right.expert(right.cue), rows)
    assert (right.reward == 10.0).all()


# -- T-maze -----------------------------------------------------------------------------------


def test_the_junction_comes_after_the_length():
    game = started("t_maze", "length10", 2)
    places = []
    for frame in range(11):
        assert game.actionable[0] == (frame == 10) and (game.obs["sign_token"][0] > 0) == (
            not frame
        )
        places.append(int(game.obs["place_token"][0]))
        game.step(np.zeros(2, np.int64))
    assert places == [0] + [1] * 9 + [2] and game.terminated.all() and game.tick[0] == 11


# -- words ------------------------------------------------------------------------------------


def test_lessons_are_rewarded_one_by_one_and_the_last_asks_about_an_earlier_one():
    game = started("words", "lessons4", 200)
    total = np.zeros(200)
    asked = game.asked_lesson(game.seed)
    assert set(asked) == {0, 1, 2}
    phases = []
    for _ in range(game.horizon):
        phases.append(int(game.actionable[0]))
        game.step(game.expert(game.cue))
        total += game.reward
    assert phases == [0, 0, 0, 1] * 4
    assert (total == 4).all() and game.success.all() and game.terminated.all()
    infos = game.infos()
    assert (infos["answers"] == 4).all() and (infos["answers_right"] == 4).all()
    # Wrong before, right at the end: the last answer alone decides.
    game = started("words", "lessons4", 60)
    for step in range(game.horizon):
        action = game.expert(game.cue)
        last = step == game.horizon - 1
        game.step(action if last else (action + 1) % 3)
    assert game.success.all() and (game.infos()["answers_right"] == 1).all()


def test_distractors_have_no_names_and_are_new():
    game = started("words", "distractors2", 1)
    shown = []
    for _ in range(game.horizon - 1):
        shown.append({key: value[0].copy() for key, value in game.obs.items()})
        game.step(np.zeros(1, np.int64))
    naming, distracting = shown[:3], shown[3:]
    assert len(distracting) == 20
    assert all(s["instruction_token"] == 0 and s["name_code"].any() for s in naming)
    assert all(s["instruction_token"] == 1 and not s["name_code"].any() for s in distracting)
    codes = {c.tobytes() for s in distracting for c in s["objects_code"]}
    taught = {s["objects_code"][0].tobytes() for s in naming}
    assert len(codes) == 60 and len(taught) == 3 and not codes & taught
    assert {c.tobytes() for c in game.obs["objects_code"][0]} == taught


# -- boxes, match, pairs ----------------------------------------------------------------------


def test_passing_objects_are_in_no_box():
    game = started("boxes", "4_delay16_busy", 100)
    passed = []
    for _ in range(game.choice_frame):
        passing, open_ = game.obs["passing_token"], (game.obs["places_token"] > 1).any(1)
        assert (open_ == (game.phase == 0)).all() and ((passing > 0) == (game.phase == 1)).all()
        for row in np.flatnonzero(passing):
            assert passing[row] - 1 not in game.object_of[row]
        passed.append(passing.copy())
        game.step(np.zeros(100, np.int64))
    assert not game.obs["passing_token"].any(), "nobody passes when the question is asked"
    assert len(np.unique(passed)) == len(boxes.OBJECTS) + 1
    quiet = started("boxes", "4_delay16", 3)
    for _ in range(quiet.choice_frame):
        quiet.step(np.zeros(3, np.int64))
        assert not quiet.obs["passing_token"].any()
    assert ((quiet.obs["places_token"] == 1).sum(1) == 4).all()


def test_pairs_of_keys_and_values_stand_at_random_frames():
    game = started("match_lite", "4_pairs8_gap250", 300)
    frames = np.sort(game.shown_at, 1)
    assert (np.diff(frames, axis=1) > 0).all() and frames.min() >= 0 and frames.max() < 250
    assert abs(frames.mean() - 124.5) < 6
    assert (np.diff(game.shown_at, axis=1) > 0).mean() < 0.6, "keys come in any order"
    asked_at = game.shown_at[game.index, game.asked]
    assert abs(asked_at.mean() - 124.5) < 20, "the asked key stands anywhere"
    assert len(set(game.asked)) == 8 and len(np.unique(game.value_of)) == 4


def test_every_neighbour_pair_is_shown_once_and_foils_stand_at_the_same_place():
    game = started("pairs", "length4", 100)
    links = sorted((c * 4 + k, c * 4 + k + 1) for c in range(16) for k in range(3))
    for row in range(100):
        assert sorted(tuple(sorted(pair)) for pair in game.shown[row].tolist()) == links
    cue, left, right = game.asked.T
    own = np.where(game.cue == 0, left, right)
    foil = np.where(game.cue == 0, right, left)
    assert (own // 4 == cue // 4).all() and (foil // 4 != cue // 4).all()
    assert (own % 4 == foil % 4).all() and (own != cue).all()
    assert (abs(own - cue) == game.hops).all()
    share = np.bincount(game.hops, minlength=4)[1:] / 100
    assert abs(share - np.array([3, 2, 1]) / 6).max() < 0.17
    turned = (game.shown[..., 0] > game.shown[..., 1]).mean()
    assert 0.45 < turned < 0.55 and 0.3 < (own > cue).mean() < 0.7


def test_pairs_fade_before_the_next_and_the_question():
    game = started("pairs", "length3_small", 2, gap=2, wait=5)
    for frame in range(game.choice_frame):
        shows = frame % 3 == 0 and frame < 24
        assert game.obs["instruction_token"][0] == (0 if shows else 1)
        assert game.obs["left_code"].any() == game.obs["right_code"].any() == shows
        assert not game.obs["cue_code"].any()
        game.step(np.zeros(2, np.int64))
    assert game.tick[0] == 8 * 3 + 5 and game.obs["instruction_token"][0] == 2


# -- graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize("junctions", [3, 8, 12])
def test_cities_are_connected_and_turns_are_what_they_say(junctions):
    rng = np.random.default_rng(0)
    place = rng.random((60, junctions, 2))
    streets, after = graph.city(place)
    assert (streets == streets.transpose(0, 2, 1)).all() and not streets[
        :, range(junctions), range(junctions)
    ].any()
    assert streets.sum((1, 2)).max() <= graph.CODES
    for city in range(60):
        reached, edges = {0}, streets[city]
        for _ in range(junctions):
            reached |= {int(v) for u in reached for v in np.flatnonzero(edges[u])}
        assert len(reached) == junctions
        for u, v in np.argwhere(edges):
            forward, left, right = (
                divmod(int(s), junctions) for s in after[city, u * junctions + v]
            )
            assert forward[0] == v and edges[forward] and left[0] == right[0] == u
            way = place[city, v] - place[city, u]
            bends = []
            for w in np.flatnonzero(edges[v]):
                on = place[city, w] - place[city, v]
                bends.append((-(way @ on) / np.linalg.norm(way) / np.linalg.norm(on), w))
            assert forward[1] == min(bends)[1], "the street that bends least"
            back = divmod(int(after[city, u * junctions + left[1], 2]), junctions)
            assert back == (u, v), "right undoes left"
            around, at = 0, (u, v)
            while True:
                at = divmod(int(after[city, at[0] * junctions + at[1], 1]), junctions)
                around += 1
                if at == (u, v):
                    break
            assert around == edges[u].sum(), "left goes round all streets"


def test_left_is_left_in_the_picture():
    # A cross: from the middle one street leads in each direction; y grows downward.
    north, east, south, west, middle = (0.1, 0.5), (0.5, 0.9), (0.9, 0.5), (0.5, 0.1), (0.5, 0.5)
    _, after = graph.city(np.array([[north, east, south, west, middle]]))
    for looks, (ahead, left, right) in {0: (0, 3, 1), 1: (1, 0, 2), 2: (2, 1, 3)}.items():
        assert after[0, 4 * 5 + looks, graph.LEFT] == 4 * 5 + left
        assert after[0, 4 * 5 + looks, graph.RIGHT] == 4 * 5 + right
        assert after[0, (ahead + 2) % 4 * 5 + 4, graph.FORWARD] == 4 * 5 + ahead, "straight on"


def test_goals_are_other_streets_and_are_counted():
    game = started("graph", "medium", 100)
    total = np.zeros(100)
    named = game.name_of >= 0
    assert all(
        len(set(row[row >= 0])) == (row >= 0).sum()
        for row in game.name_of.tolist()
        for row in [np.array(row)]
    )
    assert len(np.unique(game.name_of[named])) == graph.CODES
    for _ in range(game.steps):
        assert (game.obs["here_token"] == game.name_of[game.index, game.here]).all()
        assert (game.obs["goal_token"] == game.name_of[game.index, game.goal]).all()
        before = game.here.copy()
        game.step(game.expert(game.cue))
        found = game.reward > 0
        assert (game.here[found] == before[found]).all()
        assert (game.goal[found] != game.here[found]).all()
        total += game.reward
    assert (total == game.goals).all() and game.truncated.all()
    assert (game.success == (game.goals >= 15)).all()
    assert set(game.infos()["failure_kind"]) == {""}
    missed = started("graph", "medium", 4)
    missed.step(np.full(4, graph.COLLECT))
    assert not missed.reward.any() and not missed.goals.any(), "collecting elsewhere does nothing"
    cities = [started("graph", "medium", 1, cue) for cue in (0, 1)]
    assert (cities[0].place != cities[1].place).any()
