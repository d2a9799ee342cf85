"""A tiny vector environment and policy that obey the contracts, without a simulator.

The task: a one-hot cue is shown for a while (held), vanishes (gap, held), then the hand must
go to the cue's target on a circle. The memory policy stores what it saw.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from embodied.core import rng
from embodied.core.policy import Policy
from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.core.types import Action, Working
from embodied.memory.base import where_rows

CUES = 3
ANGLES = 2 * np.pi * np.arange(CUES) / CUES
TARGETS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
OBSERVATIONS = {
    "position": ArraySpec((2,), "float32", "m"),
    "cue": ArraySpec((CUES,), "float32"),
    "front_image_u8": ArraySpec((8, 8, 3), "uint8", "u8"),
}


class FakeVecEnv:
    """Counts renders; `cue_ticks` and `gap_ticks` may depend on the cue (an interactive cue)."""

    metadata = {"control_hz": 20.0}

    def __init__(self, num_envs: int, interactive: bool = False, leaky: bool = False) -> None:
        self.num_envs, self.interactive, self.leaky = num_envs, interactive, leaky
        self.observation_specs = OBSERVATIONS
        self.obs = {key: spec.zeros(num_envs) for key, spec in OBSERVATIONS.items()}
        self.rows = [
            SimpleNamespace(tick=0, seed=0, cue=0, pos=np.zeros(2), done=True, commit="", go=0,
                            shown=0, fresh=False)
            for _ in range(num_envs)
        ]  # fmt: skip
        self.policy_steps = self.renders = self.steps = 0
        self.closed = False

    def reset(self, *, seed: list[int], options: dict[str, Any]):
        for i in np.flatnonzero(options["reset_mask"]):
            row, draw = self.rows[i], rng.derive(seed[i], "fake")
            order = rng.derive(seed[i] // CUES, "cues").permutation(CUES)
            cue = options["cue"][i]
            row.seed, row.cue = seed[i], int(order[seed[i] % CUES]) if cue is None else cue
            row.shown = 10 + int(draw.integers(5)) + (3 * row.cue if self.interactive else 0)
            row.go = row.shown + 7 + int(draw.integers(10))
            row.pos, row.tick, row.done, row.commit = np.zeros(2), 0, False, ""
            self._observe(i, render=True)
        return self.obs, self._infos()

    def step(self, actions, render=None, active=None):
        reward, done = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for i, row in enumerate(self.rows):
            if row.done or (active is not None and not active[i]):
                continue
            assert np.isfinite(actions[i]).all() and np.abs(actions[i]).max() <= 1
            self.steps += 1
            if row.tick >= row.go:
                row.pos = row.pos + 0.05 * actions[i, :2]
                near = np.linalg.norm(TARGETS - row.pos, axis=1) < 0.3
                if near.any():
                    row.commit = str(int(near.argmax()))
            row.tick += 1
            if row.tick == row.go:
                row.pos = np.zeros(2)
            row.done = bool(row.commit) or row.tick >= row.go + 60
            done[i], reward[i] = row.done, float(row.commit == str(row.cue))
            gate = row.tick in (row.shown, row.go)
            self._observe(i, render=bool(render is None or render[i] or gate))
        return self.obs, reward, done, np.zeros(self.num_envs, bool), self._infos()

    def call(self, name: str, row: int, *args):
        if name == "follows":
            return self.rows[row].commit == args[1]
        assert name == "picture"
        _camera, size = args
        frame = np.zeros((size, size, 3), np.uint8)
        frame[:, :, self.rows[row].cue] = min(255, 4 * self.rows[row].tick)
        return frame

    def close(self) -> None:
        self.closed = True

    def _observe(self, i: int, render: bool) -> None:
        row = self.rows[i]
        self.obs["position"][i] = row.pos
        self.obs["cue"][i] = 0.0
        if row.tick < row.shown or (self.leaky and row.tick == row.go):
            self.obs["cue"][i, row.cue] = 1.0
        row.fresh = render
        if render:
            self.renders += 1
            self.obs["front_image_u8"][i] = int(50 * np.abs(row.pos).sum()) % 256

    def _infos(self) -> dict[str, Any]:
        def phase(r):
            return "cue" if r.tick < r.shown else "gap" if r.tick < r.go else "execute"

        def failure(r):
            if not r.done or r.commit == str(r.cue):
                return ""
            return "wrong_choice" if r.commit else "timeout"

        rows = self.rows
        return {
            "phase": [phase(r) for r in rows],
            "held": np.array([r.tick < r.go for r in rows]),
            "gate": np.array([r.tick in (r.shown, r.go) for r in rows]),
            "commit": [r.commit for r in rows],
            "target": [str(r.cue) for r in rows],
            "cue": np.array([r.cue for r in rows]),
            "success": np.array([r.commit == str(r.cue) for r in rows]),
            "failure_kind": [failure(r) for r in rows],
            "instruction": ["go to the target that was shown"] * len(rows),
            "time_s": np.array([r.tick / 20 for r in rows]),
            "image_fresh": np.array([r.fresh for r in rows]),
        }


class FakePolicy(Policy):
    """Goes to the remembered target, or to a random one if nothing is remembered.

    Args:
      remember: False makes the memoryless twin.
      bad_answer: Answers NaN.
    """

    def __init__(self, remember: bool = True, images: bool = False, bad_answer: bool = False):
        super().__init__()
        self.remember, self.bad_answer = remember, bad_answer
        keys = ["position", "cue"] + (["front_image_u8"] if images else [])
        self.spec = PolicySpec(
            observations={key: OBSERVATIONS[key] for key in keys},
            action=ActionSpec(EE_DELTA_CHUNK, 7, 12),
            control_hz=20.0,
            observe_on="period",
            observe_period_s=0.4,
            noise_shape=(12, 7),
            state={"seen": ArraySpec((CUES,), "float32"), "last_s": ArraySpec((), "float32")},
        )
        self.targets = torch.nn.Linear(CUES, 2, bias=False)
        with torch.no_grad():
            self.targets.weight.copy_(torch.tensor(TARGETS.T))
        self.calls: list[dict[str, Any]] = []

    def initial_state(self, batch, capacity=None):
        return {"seen": torch.zeros(batch, CUES), "last_s": torch.full((batch,), -1.0)}

    def observe(self, obs, time_s, state, reset):
        assert obs["cue"].shape[0] == time_s.shape[0] == reset.shape[0]
        state = {
            k: where_rows(reset, v, state[k]) for k, v in self.initial_state(len(reset)).items()
        }
        self.calls.append({"time_s": time_s.clone(), "last_s": state["last_s"].clone()})
        working = Working({"seen": state["seen"] + obs["cue"], "position": obs["position"]})
        keep = 1.0 if self.remember else 0.0
        return working, {"seen": keep * (state["seen"] + obs["cue"]), "last_s": time_s.clone()}

    def act(self, working, noise):
        # Without a memory: a random target at first, then the one the hand has moved towards.
        nearest = working.features["position"] @ self.targets.weight
        seen = working.features["seen"] + 1e-3 * noise[:, 0, :CUES] + 0.1 * nearest
        goal = self.targets(torch.nn.functional.one_hot(seen.argmax(1), CUES).float())
        step = torch.clamp(goal - working.features["position"], -0.5, 0.5)
        chunk = torch.zeros(len(seen), 12, 7)
        chunk[..., :2] = step[:, None] + 0.2 * noise[..., :2]
        if self.bad_answer:
            chunk[0] = torch.nan
        return Action(chunk)
