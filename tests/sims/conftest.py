"""Environments shared by the simulator's tests: building one takes half a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

KEPT = 8
"""Environments that are kept: one holds 46 MB."""
CAMERAS = ("front", "left_shoulder", "right_shoulder", "overhead", "wrist")


@pytest.fixture(scope="session")
def make_env() -> Iterator[Callable[..., Any]]:
    """Returns a function that makes an unwrapped environment, or gives one of the last `KEPT`."""
    made: dict[str, Any] = {}

    def make(task: str = "remember_color", *, copy: int = 0, **kwargs: Any) -> Any:
        from sims.gym_env import MemoryBenchEnv

        kwargs.setdefault("observation", "state")
        key = repr((task, copy, sorted(kwargs.items())))
        made[key] = made.pop(key, None) or MemoryBenchEnv(task, **kwargs)  # now the last
        if len(made) > KEPT:
            made.pop(next(iter(made))).close()
        return made[key]

    yield make
    for env in made.values():
        env.close()


def play(env: Any, seed: int, cue: int | None = None, act: Callable | None = None) -> dict:
    """Plays one episode (by the expert without `act`); returns its trace."""
    options = {} if cue is None else {"cue": cue}
    obs, info = env.reset(seed=seed, options=options)
    expert = env.make_expert(seed)
    trace = {"obs": [obs], "info": [info], "state": [env.save_state()], "reward": []}
    done = False
    while not done:
        clean = expert.act()
        action = clean if act is None or info["phase"] == "execute" else act(len(trace["reward"]))
        obs, reward, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        trace["obs"].append(obs)
        trace["info"].append(info)
        trace["state"].append(env.save_state())
        trace["reward"].append(reward)
    return trace


def changed(env: Any, act: Callable[[], None]) -> dict[str, int]:
    """Returns camera -> number of pixels that `act` changes."""
    before = env.observe()
    act()
    after = env.observe()
    return {
        c: int((before[f"{c}_image_u8"] != after[f"{c}_image_u8"]).any(-1).sum()) for c in CAMERAS
    }


def at_go(trace: dict) -> int:
    """Returns the tick of the first observation of the execute phase."""
    return next(t for t, info in enumerate(trace["info"]) if info["phase"] == "execute")


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray], skip: str = "") -> None:
    """Asserts bit equality of two dicts of arrays; keys that start with `skip` may differ."""
    assert left.keys() == right.keys()
    for key in left:
        if not (skip and key.startswith(skip)):
            np.testing.assert_array_equal(left[key], right[key], err_msg=key)
