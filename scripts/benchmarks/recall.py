"""Recall: speed of the games and of HCAM agents, and the bytes of what they remember.

Games go through the public vector API, against a plain program of one episode at a time, which
draws the picture, where there is one, cell by cell. Agents are those of ``embodied train
policy=hcam memory=NAME``, on Ballet-Lite; the options of each memory are its own defaults, so
windows and bytes differ. What chunks cost by themselves is measured in `benchmarks.chunk_reads`.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sims
from benchmarks import chunk_reads
from benchmarks.timing import Figure, Plan, Slice, milliseconds, repeat, take_turns
from embodied import registry
from embodied.commands.compose import compose
from embodied.config import from_plain
from embodied.core.policy import Policy, state_nbytes
from embodied.core.types import State
from embodied.train.config import TrainConfig
from embodied.train.learner import Learner
from embodied.train.reinforcement import update_loss
from embodied.train.rollout import Rollout, interface_of
from sims.recall.ballet import facts
from sims.recall.ballet.stage import BalletGame

TASK, LEVEL, READ_WHEN = "recall/ballet_lite", "2_delay16_dances4", "instruction_token"
GAMES = {"ballet_pixel": 256, "ballet_lite": 4096}
"""Game -> rows in which its frames are counted."""
GAME_LEVEL, ACTIONS = "2_delay16", 64

CHUNKS, TWIN = "hierarchical_chunks", "none"
MEMORIES = (CHUNKS, "lstm", "gru", "transformer_xl", "gated_transformer_xl", TWIN)
ROWS, TICKS = 256, 64
STEP_ROWS = (1, 64)
PAST = 1_100
"""Ticks of an episode after which steps are timed: every memory is as full as it gets."""
CPU = torch.device("cpu")


def measure(plan: Plan) -> list[Figure]:
    """Returns all figures."""
    torch.set_num_threads(1)
    return [
        *chunk_reads.measure(plan),
        *games(plan),
        *training(plan),
        *(figure for rows in STEP_ROWS for figure in acting(plan, rows)),
        *sizes(),
    ]


# ---- games ------------------------------------------------------------------------------


def games(plan: Plan) -> Iterator[Figure]:
    """Yields frames a second of each game, its observations copied (as by default) and not."""
    for name, rows in GAMES.items():
        with ExitStack() as opened:
            make = functools.partial(
                sims.make_vec, f"recall/{name}", rows, autoreset="same_step", level=GAME_LEVEL
            )
            ours, views = (opened.enter_context(closing(make(copy=copy))) for copy in (True, False))
            for env in (ours, views):
                env.reset(seed=0)
            random = np.random.default_rng(0)
            actions = random.integers(0, 8, (ACTIONS, rows))
            rivals = {
                "ours": playing(ours, actions),
                "views": playing(views, actions),
                "plain": playing_plainly(PlainBallet(ours.game), random.integers(0, 8, ACTIONS)),
            }
            rates = take_turns(rivals, plan)
        what = f"level {GAME_LEVEL}, {rows} rows, against a plain program of one episode"
        yield Figure(f"{name}_fps", rates["ours"], rates["plain"], "frames/s", what)
        what = f"the same, without copies of what is seen, as in training; {rows} rows"
        yield Figure(f"{name}_fps_uncopied", rates["views"], rates["plain"], "frames/s", what)


def playing(env: Any, actions: np.ndarray) -> Slice:
    """Returns steps of all rows, actions [n, rows] in turn; units are frames of rows."""
    turns = itertools.cycle(actions)
    return repeat(lambda: env.step(next(turns)), actions.shape[1])


def playing_plainly(ballet: PlainBallet, actions: np.ndarray) -> Slice:
    """Returns steps of one episode after the other, actions [n] in turn; units are frames."""
    turns = itertools.cycle(actions.tolist())
    return repeat(lambda: ballet.step(next(turns)))


class PlainBallet:
    """A game of Ballet for one episode, without tables: what one writes first.

    It plays the episode of row 0 again and again.

    Args:
      game: Has just been started; with a picture, or the eight homes of Ballet-Lite.
    """

    def __init__(self, game: BalletGame) -> None:
        self.period, self.choice, self.limit = game.period, game.choice_frame, game.horizon
        self.directions = game.home_of[0].tolist()
        self.homes = [tuple(facts.HOMES[d].tolist()) for d in self.directions]
        self.dances = facts.OFFSETS_OF[game.dance_of[0]].tolist()
        self.walks = hasattr(game, "look_of")
        if self.walks:
            self.sprites = facts.SPRITES.reshape(-1, *facts.SPRITES.shape[2:])[game.look_of[0]]
        self.start()

    def start(self) -> None:
        """Begins the episode."""
        self.time, self.agent = 0, (facts.CENTRE, facts.CENTRE)
        self._dance()

    def _dance(self) -> None:
        self.at = list(self.homes)
        for dancer, (home, moves) in enumerate(zip(self.homes, self.dances, strict=True)):
            move = self.time - dancer * self.period
            if 0 <= move < len(moves):
                self.at[dancer] = (home[0] + moves[move][0], home[1] + moves[move][1])

    def step(self, action: int) -> np.ndarray:
        """Returns the next observation; after the last one the episode begins anew."""
        chooses = self.time >= self.choice
        self.time += 1
        self._dance()
        if chooses and self.walks:
            row, col = (int(a + b) for a, b in zip(self.agent, facts.DELTAS[action], strict=True))
            if 0 < row < facts.ROOM - 1 and 0 < col < facts.ROOM - 1:
                self.agent = (row, col)
        decided = self.agent in self.at if self.walks else chooses
        if decided or self.time >= self.limit:
            self.start()
        return self.see()

    def see(self) -> np.ndarray:
        """Returns uint8 [99, 99, 3], or the homes of Ballet-Lite, uint8 [8]."""
        if not self.walks:
            seen = np.zeros(len(facts.DIRECTIONS), np.uint8)
            for direction, home, at in zip(self.directions, self.homes, self.at, strict=True):
                seen[direction] = 1 + 3 * (at[0] - home[0] + 1) + at[1] - home[1] + 1
            return seen
        px = facts.CELL_PX
        image = np.zeros((facts.ROOM * px, facts.ROOM * px, 3), np.uint8)
        for i in range(facts.ROOM):
            for j in range(facts.ROOM):
                cell = (self.agent[0] + i - facts.CENTRE, self.agent[1] + j - facts.CENTRE)
                image[px * i : px * (i + 1), px * j : px * (j + 1)] = self._look(cell)
        return image

    def _look(self, cell: tuple[int, int]) -> np.ndarray | int:
        if cell in self.at:
            return self.sprites[self.at.index(cell)]
        if cell == self.agent:
            return 255
        last = facts.ROOM - 1
        inside = all(0 <= place <= last for place in cell)
        return facts.WALL_GREY if inside and (0 in cell or last in cell) else 0


# ---- agents -----------------------------------------------------------------------------


def training(plan: Plan) -> Iterator[Figure]:
    """Yields frames a second of training with each memory: acting and learning together."""
    rivals = {name: learning(name) for name in MEMORIES}
    rivals[f"{CHUNKS}_every_tick"] = learning(CHUNKS, read_when="")
    for name, rates in take_turns(rivals, plan).items():
        what = f"collect and learn, {ROWS} rows of {TICKS} ticks"
        if name.startswith(CHUNKS):
            every = name.endswith("_every_tick")
            what += ", chunks read " + ("at every tick" if every else "where the task asks")
        yield Figure(f"train_fps_{name}", rates, None, "frames/s", what)


def run_config(memory: str, read_when: str) -> TrainConfig:
    """Returns what ``embodied train policy=hcam memory=...`` would run."""
    plain = _composed(memory)
    policy = {**plain["policy"], "config": {**plain["policy"]["config"], "read_when": read_when}}
    reinforce = {**plain.get("reinforce", {}), "rows": ROWS, "ticks": TICKS}
    task = {"task": [TASK], "level": LEVEL, "policy": policy, "reinforce": reinforce}
    return from_plain(TrainConfig, {**plain, **task}, where="bench")


@functools.cache
def _composed(memory: str) -> dict[str, Any]:
    return compose("train", {"policy": "hcam", "memory": memory})[0]


def build(config: TrainConfig) -> Policy:
    """Returns the agent of a run, with the same weights each time."""
    name = config.policy.name
    memory = {"memory": config.memory.name, "memory_config": config.memory.config}
    schema = registry.policy_config_class(name)
    options = from_plain(schema, {**config.policy.config, **memory}, where="bench")
    with closing(registry.make_vec(TASK, LEVEL)) as env:
        interface = interface_of(env)
    torch.manual_seed(0)
    return registry.policy_class(name)(options, interface)


def learning(memory: str, read_when: str = READ_WHEN) -> Slice:
    """Returns whole steps of the trainer: collect, then learn; units are frames collected."""
    config = run_config(memory, read_when)
    policy, steps = build(config), itertools.count()
    learner, own = Learner(policy, config, CPU), config.reinforce
    rollout = Rollout(policy, own, [(TASK, LEVEL)], [1.0], CPU)

    def step() -> None:
        done = next(steps)
        learner.rate(done)
        experience = rollout.collect(learner.noise)
        for _ in range(own.epochs):
            for rows in torch.randperm(own.rows).chunk(own.minibatches):
                learner.update(update_loss(policy, experience.rows(rows), own, config.algorithm)[0])
        learner.ema.update(policy, done)

    return repeat(step, own.rows * own.ticks)


def acting(plan: Plan, rows: int) -> Iterator[Figure]:
    """Yields milliseconds of an agent's step that reads a full memory, against the twin's."""
    rates = take_turns({name: stepping(name, rows) for name in MEMORIES}, plan)
    cost = {name: milliseconds(values) for name, values in rates.items()}
    for name in MEMORIES:
        if name != TWIN:
            what = f"{name} against none, observe and act, {rows} row{'s' * (rows > 1)}"
            yield Figure(f"step_ms_{rows}_{name}", cost[name], cost[TWIN], "ms", what)


def stepping(memory: str, rows: int) -> Slice:
    """Returns steps of acting in which the task asks, so that everything is read."""
    policy = build(run_config(memory, READ_WHEN)).eval()
    with closing(registry.make_vec(TASK, LEVEL, num_envs=rows)) as env:
        seen, _ = env.reset(seed=0)
    seen[READ_WHEN][:] = 1
    obs = {key: torch.from_numpy(seen[key]) for key in policy.spec.observations}
    time_s, reset = torch.full((rows,), 0.1 * PAST), torch.zeros(rows, dtype=torch.bool)
    noise, state = torch.zeros(rows, *policy.spec.noise_shape), filled(policy, rows)

    def work(seconds: float) -> tuple[float, float]:
        nonlocal state
        calls, began = 0, time.perf_counter()
        with torch.no_grad():
            while (spent := time.perf_counter() - began) < seconds or not calls:
                working, state = policy.observe_into(obs, time_s, state, reset)
                policy.act(working, noise)
                calls += 1
        return calls, spent

    return work


@torch.no_grad()
def filled(policy: Policy, rows: int) -> State:
    """Returns the memory of `rows` after `PAST` random ticks of one episode."""
    if policy.memory is None:
        return {}
    items: Tensor = torch.randn(rows, PAST, policy.memory.width)
    time_s, valid = torch.zeros(rows, PAST), torch.ones(rows, PAST).bool()
    none = torch.zeros_like(valid)
    state = policy.memory.initial(rows)
    return policy.memory.unroll(items, time_s, state, none, valid, wanted=none)[1]


def sizes() -> Iterator[Figure]:
    """Yields the bytes of state a row; the memoryless twin has none, and no figure."""
    for name in MEMORIES:
        if name != TWIN:
            policy = build(run_config(name, READ_WHEN))
            size = state_nbytes(policy.initial_state(1))
            weights = sum(p.numel() for p in policy.memory.parameters())
            what = f"{size:,} bytes of state a row; {weights:,} weights"
            yield Figure(f"state_bytes_{name}", [float(size)], None, "bytes", what)
