"""Watching a task: the expert, a policy or a keyboard at work, kept as a video."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embodied import registry
from embodied.core.errors import ConfigError
from embodied.core.specs import DISCRETE
from embodied.core.task import EnvConfig, file_name
from embodied.evaluate.video import Recording, VideoRecorder, write_video

KEYS = {
    "w": (0, 1.0),
    "s": (0, -1.0),
    "a": (1, 1.0),
    "d": (1, -1.0),
    "r": (2, 1.0),
    "f": (2, -1.0),
    "q": (5, 1.0),
    "e": (5, -1.0),
}
"""Key -> (element of the action, sign): away, back, left, right, up, down, turn left, right."""
GRIP_KEY, STAY_KEY, QUIT_KEY = " ", ".", "x"
CHOICE_KEYS = "0123456789abcdef"
"""Keys of a task whose actions are choices: one each, in their order."""
KEY_HELP = "w/s away/back  a/d left/right  r/f up/down  q/e turn  space grip  . wait  x quit"
TICKS_A_KEY = 2
HELD_TICK_S = 0.05
VIDEO_FPS = 10.0
STEP = 0.4
"""Share of the largest action a key press gives: 2 cm or 0.2 rad a tick."""


@dataclasses.dataclass(frozen=True)
class Played:
    """What was seen.

    Attributes:
      video: The mp4.
      outcomes: One ``(seed, cue, success, words)`` an episode; words say commit and verdict.
    """

    video: Path
    outcomes: list[tuple[int, int, bool, str]]


def unused(who: str, task: str, level: str, seed: int) -> Path:
    """Returns ``plays/<who>-<task>-<level>-<seed>.mp4``, numbered if that is there already."""
    first = Path(f"plays/{who}-{file_name(task)}-{level}-{seed}.mp4")
    path, number = first, 1
    while path.exists():
        number += 1
        path = first.with_stem(f"{first.stem}-{number}")
    return path


def play_expert(
    task: str,
    level: str,
    config: EnvConfig,
    seeds: Sequence[int],
    out: Path,
    *,
    cue: int | None = None,
    noise: float = 0.0,
    camera: str = "front",
    size: int = 288,
) -> Played:
    """Runs the scripted expert, one episode a seed, side by side in one video.

    Args:
      task: Task name.
      level: Level name.
      config: Control, visuals and knobs; observations are not needed.
      seeds: Episode seeds.
      out: Video to write.
      cue: The cue of every episode; the seed's own when None.
      noise: Scale of the expert's noise.
      camera: Camera of the video.
      size: Side of a picture in pixels.
    """
    env = registry.make_env(task, level, dataclasses.replace(config, observation="state"))
    recordings, outcomes = [], []
    with contextlib.closing(env):
        world = env.unwrapped
        for seed in seeds:
            expert = world.make_expert(seed, noise)

            def act(expert: Any = expert) -> np.ndarray:
                return expert.perturb(expert.act())

            recording, info = _episode(env, seed, cue, act, camera, size, "expert")
            recordings.append(recording)
            outcomes.append((seed, int(info["cue"]), bool(info["success"]), _words(info)))
        fps = world.metadata["control_hz"] / recordings[0].stride
    return Played(write_video(out, recordings, fps), outcomes)


def play_policy(
    source: str,
    task: str,
    level: str,
    seeds: Sequence[int],
    out: str,
    *,
    cue: int | None = None,
    camera: str = "front",
    size: int = 288,
) -> Played:
    """Runs a checkpoint, one episode a seed, side by side in one video.

    Args:
      source: Run, checkpoint, claim, bundle or the address of a server.
      task: Task name; empty for the first that the policy was trained on.
      level: Level name; empty for the one it was trained on.
      seeds: Episode seeds; none that it was trained on.
      out: Video to write; empty for a name below ``plays/``.
      cue: The cue of every episode; the seed's own when None.
      camera: Camera of the video.
      size: Side of a picture in pixels.
    """
    from embodied.evaluate import api, remote

    config = api.EvaluateConfig(
        source, len(seeds), [task] if task else [], level, batch=len(seeds), progress=False
    )
    with remote.opened(config, source) as loaded:
        setting = api.settings(config, loaded)[0]
        api.check_fresh_seeds(loaded, min(seeds), len(seeds))
        name = f"{loaded.meta.policy}, memory: {loaded.meta.config.get('memory')}"
        recorder = VideoRecorder(range(len(seeds)), name, camera, size)
        cues = None if cue is None else [cue] * len(seeds)
        rows = api.replay(
            loaded, config, setting, "none", list(seeds), cues=cues, recorder=recorder
        )
    where = Path(out) if out else unused("policy", setting.task, setting.level, seeds[0])
    outcomes = [(row.seed, row.cue, row.success, _words(dataclasses.asdict(row))) for row in rows]
    return Played(write_video(where, list(recorder.recordings.values())), outcomes)


def play_keyboard(
    task: str,
    level: str,
    config: EnvConfig,
    seed: int,
    out: Path,
    keys: Iterator[str],
    show: Callable[[np.ndarray, dict[str, Any], str], None],
    *,
    cue: int | None = None,
    camera: str = "front",
    size: int = 288,
) -> Played:
    """Lets `keys` drive one episode; `show` gets a picture, the info and a hint each tick.

    Phases in which the arm is held pass by themselves. The episode is kept as a video also
    when it is left early.
    """
    env = registry.make_env(task, level, dataclasses.replace(config, observation="state"))
    grip, pending = -1.0, 0
    action = np.zeros(7, np.float32)

    def choose() -> int:
        if world.held:
            return 0
        key = next(keys, QUIT_KEY)
        while key not in choices:
            if key == QUIT_KEY:
                raise _LeftEarly
            key = next(keys, QUIT_KEY)
        return choices.index(key)

    def act() -> np.ndarray:
        nonlocal grip, pending, action
        if world.task.held or pending:
            pending = max(0, pending - 1)
            return action
        action = np.zeros(7, np.float32)
        action[6] = grip
        key = next(keys, QUIT_KEY)
        if key == QUIT_KEY:
            raise _LeftEarly
        if key == GRIP_KEY:
            grip = action[6] = -grip
        elif key in KEYS:
            element, sign = KEYS[key]
            action[element] = sign * STEP
        pending = TICKS_A_KEY - 1
        return action

    with contextlib.closing(env):
        world = env.unwrapped
        spec = world.action_spec
        choices = CHOICE_KEYS[: spec.size] if spec.kind == DISCRETE else ""
        offer = "  ".join(f"{k} {n}" for k, n in zip(choices, spec.names, strict=False))
        player = (choose, f"{offer}  {QUIT_KEY} quit") if choices else (act, KEY_HELP)
        recording, info = _episode(
            env, seed, cue, player[0], camera, size, "keyboard", show, player[1]
        )
        fps = world.metadata["control_hz"] / recording.stride
    outcome = (seed, int(info["cue"]), bool(info["success"]), _words(info))
    return Played(write_video(out, recording, fps), [outcome])


class _LeftEarly(Exception):
    """The player quit."""


def _episode(
    env: Any,
    seed: int,
    cue: int | None,
    act: Callable[[], Any],
    camera: str,
    size: int,
    title: str,
    show: Callable[[np.ndarray, dict[str, Any], str], None] | None = None,
    key_help: str = KEY_HELP,
) -> tuple[Recording, dict[str, Any]]:
    world = env.unwrapped
    _, info = env.reset(seed=seed, options={} if cue is None else {"cue": cue})
    stride = max(1, round(world.metadata["control_hz"] / VIDEO_FPS))
    recording = Recording(title, stride)
    recording.add(world.picture(camera, size), info)
    over = False
    while not over:
        if show:
            show(recording.frames[-1], info, key_help)
        try:
            action = act()
        except _LeftEarly:
            break
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        if recording.wanted(info) or over:
            recording.add(world.picture(camera, size), info)
        else:
            recording.skip()
    return recording, info


def _words(info: dict[str, Any]) -> str:
    commit = str(info["commit"]) or "no choice"
    verdict = "success" if info["success"] else str(info["failure_kind"]) or "left early"
    return f"{commit}: {verdict.replace('_', ' ')}"


# ---- the terminal as keyboard and screen ------------------------------------------------


def terminal_picture(frame: np.ndarray, columns: int = 64) -> str:
    """Returns a uint8 [H, W, 3] picture as coloured half blocks, two pixels a character."""
    height, width = frame.shape[:2]
    rows = columns * height // width // 2 * 2
    y = np.arange(rows) * height // rows
    x = np.arange(columns) * width // columns
    small = frame[y][:, x]
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        cells = [
            f"\x1b[38;2;{u[0]};{u[1]};{u[2]}m\x1b[48;2;{v[0]};{v[1]};{v[2]}m\u2580"
            for u, v in zip(upper, lower, strict=True)
        ]
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def show_in_terminal(frame: np.ndarray, info: dict[str, Any], hint: str) -> None:
    """Redraws picture, phase and keys at the top of the terminal, in real time while held."""
    if info["held"]:
        time.sleep(HELD_TICK_S)
    state = "the arm is held" if info["held"] else hint
    words = f"{info['phase']}  {info['time_s']:.1f} s  {info['instruction']}"
    sys.stdout.write(f"\x1b[H\x1b[2J{terminal_picture(frame)}\n{words}\n{state}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def terminal_keys() -> Iterator[Iterator[str]]:
    """Gives single key presses of this terminal, without waiting for return.

    Raises:
      ConfigError: If there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("the keyboard needs a terminal; leave out --keyboard to see the expert")
    import termios
    import tty

    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield iter(lambda: sys.stdin.read(1), "")
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
