"""A robot, a policy and a clock that do what a test says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from embodied.core.specs import EE_DELTA_CHUNK, ActionSpec, ArraySpec, PolicySpec
from embodied.deploy.link import Frame
from embodied.deploy.loop import ControlLoop
from embodied.deploy.robot import RobotConfig
from embodied.deploy.worker import Ask

SIDE = 4
OBSERVATIONS = {
    "eef_pos_world_m": ArraySpec((3,), "float32", "m"),
    "front_image_u8": ArraySpec((SIDE, SIDE, 3), "uint8"),
}
SPEC = PolicySpec(
    observations=OBSERVATIONS,
    action=ActionSpec(EE_DELTA_CHUNK, 7, 8),
    control_hz=20.0,
    observe_on="period",
    observe_period_s=0.4,
    noise_shape=(1,),
)


def robot(**options: Any) -> RobotConfig:
    offered = {key: dataclasses.asdict(spec) for key, spec in OBSERVATIONS.items()}
    return RobotConfig(**{"name": "fake", "observations": offered, **options})


def frame(tick: int, **options: Any) -> Frame:
    """The frame of a control tick, 50 ms apart; a picture that is not black."""
    obs = {
        "eef_pos_world_m": np.array([0.0, 0.0, 1.0], np.float32),
        "front_image_u8": np.full((SIDE, SIDE, 3), 100, np.uint8),
        **options.pop("obs", {}),
    }
    fields = {"session": 1, "episode": 0, "phase": 0, "held": False, "done": False, "outcome": ""}
    return Frame(**{**fields, "time_s": tick * 0.05, "obs": obs, "came_s": tick * 0.05, **options})


class FakeBundle:
    path = Path("bundle")


class FakeRuntime:
    spec = SPEC
    bundle = FakeBundle()


class FakeLink:
    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.sent: list[np.ndarray | None] = []

    def latest(self) -> Frame | None:
        return self.frame

    def send(self, action: np.ndarray | None) -> bool:
        self.sent.append(action)
        return True


class FakeWorker:
    """Answers `delay` control ticks after it was asked: action i of a chunk moves by i."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.delay = 0
        self.busy = False
        self._left = 0

    def ask(self, ask: Ask) -> None:
        self.asks.append(ask)
        self.busy, self._left = True, self.delay

    def answer(self, wait_s: float = 0.0) -> tuple[Ask, np.ndarray | None] | None:
        if not self.busy:
            return None
        if self._left:
            self._left -= 1
            return None
        self.busy = False
        chunk = np.zeros((8, 7), np.float32)
        chunk[:, 0] = 0.01 * np.arange(8)
        return self.asks[-1], chunk if self.asks[-1].acts else None


class Rig:
    """A loop with all of its surroundings."""

    def __init__(self, **options: Any) -> None:
        self.link, self.worker, self.now = FakeLink(), FakeWorker(), 0.0
        self.rows: list[dict[str, Any]] = []
        self.loop = ControlLoop(
            FakeRuntime(),
            robot(**options),
            self.link,
            self.worker,
            now=lambda: self.now,
            journal=self.rows.append,
        )

    def tick(self, found: Frame | None, now: float | None = None) -> np.ndarray | None:
        """Lets a tick pass in which `found` is the newest frame; returns what was sent."""
        self.link.frame = found
        self.now = (found.came_s if found is not None else self.now) if now is None else now
        self.loop.tick()
        return self.link.sent[-1]

    def play(self, ticks: range, **options: Any) -> list[float]:
        """Plays frames in time; returns the first number of each action."""
        return [round(float(self.tick(frame(t, **options))[0]), 4) for t in ticks]
