"""What holds for every recall task: answers, ceilings, no leaks, seeds."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from embodied.core.errors import ConfigError
from embodied.core.proportion import wilson
from sims.recall import draws, graph
from sims.recall.catalog import TASKS, make_game
from sims.recall.game import Game
from sims.recall.gym_env import RecallEnv
from sims.recall.vector_env import RecallVectorEnv
from tests.sims.recall.players import PLAYERS, PairsPlayer, play

GRAPH = "recall/graph"
SETTINGS = [
    (name, level)
    for name, info in TASKS.items()
    for level, knobs in info.levels.items()
    if info.steps(knobs) <= 1100 and not (name == "recall/ballet_pixel" and level[0] == "4")
]
ANSWERED = [(task, level) for task, level in SETTINGS if task != GRAPH]
"""Those in which each cue makes another answer right; in the graph it chooses the city."""
SHORT = [(t, level) for t, level in ANSWERED if TASKS[t].steps(TASKS[t].levels[level]) <= 600]
FIRST = [(name, next(iter(info.levels))) for name, info in TASKS.items()]


def make(task: str, level: str, rows: int, **knobs) -> Game:
    return make_game(TASKS[task], level, knobs, rows)


def started(game: Game, seeds: np.ndarray, cues: np.ndarray | int = -1) -> Game:
    game.start(game.index, np.asarray(seeds), np.broadcast_to(cues, (game.n,)).copy())
    return game


def finish(game: Game, belief: np.ndarray) -> None:
    """Plays all rows to their end by what is believed."""
    for _ in range(game.horizon):
        rows = np.flatnonzero(~(game.terminated | game.truncated))
        if not rows.size:
            return
        game.step(game.expert(belief), rows)


# -- answers and ceilings ---------------------------------------------------------------------


@pytest.mark.parametrize(("task", "level"), SETTINGS)
def test_the_oracle_solves_every_episode(task, level):
    game = started(make(task, level, 40), np.arange(100, 140))
    finish(game, game.cue)
    assert game.success.all() and (game.terminated | game.truncated).all()
    assert (game.reward >= 1.0).all() or task == GRAPH


@pytest.mark.parametrize(("task", "level"), ANSWERED)
def test_exactly_one_belief_succeeds(task, level):
    n = make(task, level, 1).n_cues
    blocks = 8
    game = started(make(task, level, n * blocks), np.repeat(np.arange(blocks) + 30, n))
    belief = np.tile(np.arange(n), blocks)
    finish(game, belief)
    np.testing.assert_array_equal(game.success, belief == game.cue)
    info = TASKS[task]
    assert game.success.mean() == info.ceiling(game.knobs) == info.chance(game.knobs) == 1 / n
    wrong = game.infos()["failure_kind"][~game.success]
    assert set(wrong) <= {"wrong_choice"}


@pytest.mark.parametrize(("task", "level"), ANSWERED)
def test_all_cues_look_alike_from_the_first_question_on(task, level):
    """So memory is needed: a player that forgets plays all cues alike, and one can be right."""
    n = make(task, level, 1).n_cues
    game = started(make(task, level, n), np.full(n, 77), np.arange(n))
    rng = np.random.default_rng(0)
    gates, differed = 0, False
    for _ in range(game.horizon):
        if game.gate.any():
            gates += 1
            assert game.gate.all()
        same = all((value == value[:1]).all() for value in game.obs.values())
        differed |= not same
        assert not gates or same
        if (game.terminated | game.truncated).any():
            break
        action = rng.integers(len(game.action_names))
        game.step(np.full(n, action))
    assert gates == 1 and differed, "one last question, and something to remember before it"
    assert game.success.sum() <= 1


@pytest.mark.parametrize(("task", "level"), SHORT)
def test_guessing_is_at_chance(task, level):
    n = make(task, level, 1).n_cues
    rows = 240 // n * n
    game = started(make(task, level, rows), np.arange(rows))
    for fixed in range(n):  # cues are balanced over blocks of seeds, so this is exact
        assert (game.cue == fixed).mean() == 1 / n
    rng = np.random.default_rng(1)
    finish(game, rng.integers(0, n, rows))
    spread = 4 * np.sqrt(1 / n * (1 - 1 / n) / rows)
    assert abs(game.success.mean() - TASKS[task].chance(game.knobs)) < spread


@pytest.mark.parametrize("task", ["recall/ballet_lite", "recall/pairs", "recall/boxes"])
def test_random_actions_are_at_the_chance_of_their_number(task):
    level = next(iter(TASKS[task].levels))
    game = started(make(task, level, 2000), np.arange(2000))
    rng = np.random.default_rng(2)
    actions = len(game.action_names)
    for _ in range(game.horizon):
        game.step(rng.integers(0, actions, 2000))
    assert abs(game.success.mean() - 1 / actions) < 4 * np.sqrt(1 / actions / 2000)


def test_the_ceiling_of_the_graph_task_is_what_wanderers_reach():
    for level in ("small", "medium"):
        knobs = TASKS[GRAPH].knobs(level)
        stored = TASKS[GRAPH].ceiling(knobs)
        best = max(graph.wandering_success(knobs, c, 1500) for c in graph.WANDERERS[-4:])
        assert abs(best - stored) < 4 * np.sqrt(stored * (1 - stored) / 1500) + 0.005
    knobs = TASKS[GRAPH].knobs("small", {"steps": 20, "needed": 1})
    assert 0.3 < TASKS[GRAPH].ceiling(knobs) < 1.0, "other knobs are measured when asked"


@pytest.mark.parametrize(
    ("level", "knobs"),
    [*((level, {}) for level in graph.LEVELS), ("small", {"steps": 40, "needed": 1})],
)
def test_chance_in_the_graph_task_is_what_random_actions_reach(level, knobs):
    rows, rng = 1500, np.random.default_rng(3)
    game = started(make(GRAPH, level, rows, **knobs), np.arange(50_000, 50_000 + rows))
    for _ in range(game.horizon):
        game.step(rng.integers(0, len(game.action_names), rows))
    chance = TASKS[GRAPH].chance(game.knobs)
    low, high = wilson(int(game.success.sum()), rows, z=4.0)
    assert low <= chance <= high
    assert chance < TASKS[GRAPH].ceiling(game.knobs) - 0.01, "moving with a plan pays"


# -- memory suffices --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "level"),
    [(t, lv) for t, lv in SETTINGS if t in PLAYERS and t != GRAPH and "64" not in lv],
)
def test_a_player_that_remembers_observations_solves_it(task, level):
    env = RecallEnv(task, level)
    for seed in range(200, 208):
        assert play(env, PLAYERS[task](), seed)["success"], seed


@pytest.mark.parametrize(("level", "junctions"), [("small", 6), ("medium", 8)])
def test_a_map_learner_finds_its_way(level, junctions):
    env = RecallEnv(GRAPH, level)
    goals = [play(env, PLAYERS[GRAPH](), seed)["goals"] for seed in range(30)]
    assert sum(g >= env.knobs["needed"] for g in goals) == 30
    assert env.knobs["junctions"] == junctions


def test_long_inference_needs_more_links_than_short():
    env = RecallEnv("recall/pairs", "length4")
    results: dict[int, list[bool]] = {1: [], 2: [], 3: []}
    for seed in range(90):
        info = play(env, PairsPlayer(links=1), seed)
        results[info["hops"]].append(info["success"])
    assert all(results[1]) and len(results[1]) > 20
    longer = results[2] + results[3]
    assert 0.25 < np.mean(longer) < 0.75, "with one link only, longer ones are guessed"
    for hops in (1, 2, 3):
        fixed = started(make("recall/pairs", "length4", 50, hops=hops), np.arange(50))
        assert (fixed.hops == hops).all()


# -- no leaks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "level"), FIRST)
def test_observations_fit_their_specs_and_infos_stay_out(task, level):
    vec = RecallVectorEnv(task, 3, level=level)
    obs, infos = vec.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(min(vec.horizon, 400)):
        assert obs.keys() == vec.observation_specs.keys()
        assert not obs.keys() & infos.keys()
        for key, spec in vec.observation_specs.items():
            spec.check(key, obs[key], leading=1)
            assert obs[key].min() >= spec.low and obs[key].max() <= spec.high
        np.testing.assert_array_equal(infos["held"], ~infos["actionable"])
        obs, _, terminated, truncated, infos = vec.step(rng.integers(0, vec.action_spec.size, 3))
        assert not infos["actionable"][terminated | truncated].any()
    assert infos["target"][0] in vec.game.option_names


@pytest.mark.parametrize(("task", "level"), FIRST)
def test_actions_count_only_where_infos_say_so(task, level):
    rng = np.random.default_rng(0)
    games = [started(make(task, level, 6), np.arange(6)) for _ in range(2)]
    for _ in range(games[0].horizon):
        counts = games[0].actionable.copy()
        shared = rng.integers(0, len(games[0].action_names), 6)
        noise = rng.integers(0, len(games[0].action_names), 6)
        games[0].step(shared)
        games[1].step(np.where(counts, shared, noise))
        for key in games[0].state:
            np.testing.assert_array_equal(games[0].state[key], games[1].state[key], err_msg=key)
        if (games[0].terminated | games[0].truncated).any():
            break


@pytest.mark.parametrize(("task", "level"), SETTINGS)
def test_evidence_lies_before_the_question(task, level):
    game = started(make(task, level, 4), np.arange(4))
    evidence = game.evidence()
    if task == GRAPH:
        assert (evidence == -1).all()
        return
    shown = evidence[evidence[..., 0] >= 0]
    assert len(shown) >= 4 and (shown[:, 0] <= shown[:, 1]).all()
    assert (evidence[:, 0] >= 0).all()
    while not game.gate.any():
        game.step(np.zeros(4, np.int64))
    assert shown.max() < game.tick[0]


def test_evidence_of_pairs_is_the_way_from_cue_to_answer():
    game = started(make("recall/pairs", "length5", 30, gap=1), np.arange(30))
    evidence = game.evidence()
    for row in range(30):
        frames = [f for f, _ in evidence[row].tolist() if f >= 0]
        assert len(frames) == game.hops[row] and all(f % 2 == 0 for f in frames)
        ends = [item for f in frames for item in game.shown[row, f // 2].tolist()]
        odd = {item for item in ends if ends.count(item) == 1}
        assert odd == {game.asked[row, 0], game.asked[row, 1 + game.cue[row]]}


# -- seeds ------------------------------------------------------------------------------------

DIGESTS = {
    "recall/ballet_lite": 2870300637,
    "recall/ballet_grid": 3490547468,
    "recall/ballet_pixel": 1386049742,
    "recall/visual_match": 290224540,
    "recall/match_lite": 3066609612,
    "recall/t_maze": 2597306047,
    "recall/pairs": 3685514872,
    "recall/words": 2858456288,
    "recall/boxes": 219179275,
    "recall/graph": 2694791209,
}


def digest(task: str, level: str) -> int:
    """Returns a checksum of an episode of random actions."""
    env = RecallEnv(task, level)
    obs, _ = env.reset(seed=123)
    rng, total = np.random.Generator(np.random.PCG64(5)), 0
    for _ in range(env.horizon):
        for key in sorted(obs):
            total = zlib.crc32(obs[key].tobytes(), total)
        obs, reward, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        total = zlib.crc32(np.float64(reward).tobytes(), total)
        if terminated or truncated:
            break
    return zlib.crc32(str(info["target"]).encode(), total)


@pytest.mark.parametrize(("task", "level"), FIRST)
def test_a_seed_means_the_same_episode_for_ever(task, level):
    """A change here makes every published episode another one: raise the id's version."""
    assert digest(task, level) == DIGESTS[task]


@pytest.mark.parametrize(("task", "level"), FIRST)
def test_a_seed_means_the_same_in_any_batch(task, level):
    seeds = [3, 1_441_440, 2**40 + 7, 11, 4]
    large = RecallVectorEnv(task, 5, level=level)
    small = RecallVectorEnv(task, 2, level=level)
    single = RecallEnv(task, level)
    a, info_a = large.reset(seed=seeds)
    b, info_b = small.reset(seed=[seeds[3], seeds[1]])
    c, info_c = single.reset(seed=seeds[1])
    rng = np.random.default_rng(0)
    for _ in range(min(large.horizon, 400)):
        for key in a:
            np.testing.assert_array_equal(a[key][[3, 1]], b[key], err_msg=key)
            np.testing.assert_array_equal(a[key][1], c[key], err_msg=key)
        for name, value in info_c.items():
            assert info_a[name][1] == info_b[name][1] == value, name
        if single.over:
            break
        actions = rng.integers(0, large.action_spec.size, 5)
        a, reward, *_, info_a = large.step(actions)
        b, _, *_, info_b = small.step(actions[[3, 1]])
        c, alone, *_, info_c = single.step(int(actions[1]))
        assert reward[1] == alone


@pytest.mark.parametrize(("task", "level"), FIRST)
def test_an_earlier_episode_leaves_nothing_behind(task, level):
    fresh = started(make(task, level, 12), np.arange(50, 62))
    used = started(make(task, level, 12), np.arange(12))
    rng = np.random.default_rng(0)
    for _ in range(used.horizon):
        rows = np.flatnonzero(~(used.terminated | used.truncated))
        used.step(rng.integers(0, len(used.action_names), 12), rows)
        if not rows.size:
            break
    started(used, np.arange(50, 62))
    for name, value in fresh.state.items():
        np.testing.assert_array_equal(value, used.state[name], err_msg=name)


def test_draws_are_uniform_and_apart():
    seeds = np.arange(20_000)
    for words in (draws.words(seeds, "a", 3), draws.words(seeds, "a", 3, seeds)):
        ones = np.unpackbits(words.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.001
        assert len(np.unique(words)) == words.size
    assert not np.isin(draws.words(seeds, "a", 3), draws.words(seeds, "b", 3)).any()
    order = draws.permutations(seeds, "p", 3)
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 6 and abs(counts / 20_000 - 1 / 6).max() < 0.012
    counts = np.bincount(draws.integers(seeds, "i", 7, 1)[:, 0], minlength=7)
    assert len(counts) == 7 and abs(counts / 20_000 - 1 / 7).max() < 0.012
    codes = draws.codes(seeds[:500], "c", 4)
    assert codes.shape == (500, 4, 32) and set(np.unique(codes)) == {-1.0, 1.0}
    np.testing.assert_array_equal(
        draws.words(seeds, "a", 3, seeds)[17], draws.words(seeds[17:18], "a", 3, 17)[0]
    )
    np.testing.assert_array_equal(
        draws.words(seeds[:5], "a", 3), draws.words(seeds[:5], "a", 9)[:, :3]
    )


# -- bad knobs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "knobs", "match"),
    [
        ("visual_match", {"gap": 0}, "gap of recall/visual_match: expected a whole number from 1"),
        ("match_lite", {"values": 1}, "values.*2 to 16, got 1"),
        ("match_lite", {"pairs": 40}, "pairs.*1 to 16"),
        ("match_lite", {"pairs": 8, "length": 7}, "length.*from 8"),
        ("t_maze", {"length": 0}, "length.*from 1"),
        ("pairs", {"hops": 3}, "hops.*0 to 2, got 3"),
        ("pairs", {"chains": 1}, "chains.*2 to 64"),
        ("words", {"lessons": 0}, "lessons.*from 1"),
        ("boxes", {"boxes": 9}, "boxes.*2 to 8, got 9"),
        ("boxes", {"busy": 0.5}, "busy.*whole number"),
        ("graph", {"junctions": 13}, "junctions.*3 to 12"),
        ("graph", {"needed": 500}, "needed.*1 to 200"),
        ("words", {"lesson": 1}, "did you mean 'lessons'"),
        ("words", {"lessons": "two"}, "expected a number"),
    ],
)
def test_bad_knobs_are_refused(task, knobs, match):
    info = TASKS[f"recall/{task}"]
    with pytest.raises(ConfigError, match=match):
        make_game(info, next(iter(info.levels)), knobs, 1)
