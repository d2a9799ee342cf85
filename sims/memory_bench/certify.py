"""Certificates: proofs and measurements that a task needs memory and can be solved with it.

For each level of a task:

* *Aliasing.* For every pair of cues (or of 16 spread over them, where there are more), full
  rollouts of the expert (clean, noisy, and after extreme actions) with one seed arrive at go with
  every observation key bit-equal, in every mode and camera, and with the simulator's whole
  integration state, the controller and the task's variables bit-equal too, apart from those
  declared hidden (names with ``hidden_``).
* *Gate.* The same after everything was corrupted just before each gate, and, on request, what an
  attacker finds; see :mod:`sims.memory_bench.attack`.
* *Onward.* From go on, too, the same actions show the same until one is decided (where it counts
  how far one has got, without what is drawn anew for each choice); see
  :mod:`sims.memory_bench.onward`.
* *Ceiling.* The best success without memory, by exact dynamic programming on the abstract machine;
  beside it, what a policy could reach that reads a clock running since the reset.
* *Window.* What the first frame, the last N ticks, or both would suffice for; see
  :mod:`sims.memory_bench.windows`.
* *Expert.* Its success, which separates execution from memory.
* *Reactive twin.* With the cue left in sight the observations at go tell the cues apart, the
  ceiling is 1 and the expert does as well.

Rollouts of the last two, and from go on, leave out gaps and held cue phases: go makes the same
state whatever went before, which the aliasing part checks, gap included.

A task that needs no memory has one cue value and nothing to hide: it has a ceiling, whose answer
must be 1, and an expert.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embodied.core.errors import unknown_name
from embodied.core.files import write_atomic
from embodied.core.rng import EVAL_SEED_START
from embodied.core.task import TaskInfo
from sims.memory_bench import (
    aliasing,
    attack,
    measured,
    onward,
    played_rules,
    rules,
    windows,
)
from sims.memory_bench.abstract import best_memoryless, search_memoryless, with_clock
from sims.memory_bench.aliasing import Progress
from sims.memory_bench.machines import machine_of, task_class
from sims.memory_bench.mixtures import best_policy

if TYPE_CHECKING:
    from sims.gym_env import MemoryBenchEnv

FORMAT_VERSION = 1
FOLDER = pathlib.Path(__file__).parent / "certificates"
"""Where the package keeps certificates, one JSON file a task."""

ALIASING_SEED_START = EVAL_SEED_START + 900_000_000
ATTACK_SEED_START = EVAL_SEED_START + 920_000_000
EXPERT_SEED_START = EVAL_SEED_START + 950_000_000
"""Seeds far from any that data, validation or evaluation use."""

_ATTACK_IMAGE_SIZE = 32  # of pictures, which an attacker sees at every tick
_WINDOW_SEEDS = 2  # what happens differs by cue and by draw, hardly by seed

PARTS = ("aliasing", "onward", "window", "attack", "expert", "reactive")
ALIASING, ONWARD, WINDOW, ATTACK, EXPERT, REACTIVE = PARTS
"""What there is to compute beside the ceiling; the gates are checked with the aliasing."""


EXACT = ("aliasing", "gate", "onward", "reactive")
"""Parts that prove something; a level holds if each is there and holds."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to compute.

    Attributes:
      parts: Which of `PARTS`.
      pair_seeds: Seeds for which every pair of cues is compared; at most two for windows.
      attack_seeds: Seeds that the attacker's decoder learns on and is asked about; 0 for none.
      attack_sees: What the attacker sees: ``state``, ``rgb`` or ``rgbd``.
      expert_episodes: Episodes of the clean expert, for each control.
      noisy_episodes: Episodes of the noisy expert, under ``fast`` only.
      reactive_episodes: Episodes of the expert in the reactive twin.
      controls: Controllers to measure.
      image_size: Side of the compared pictures in pixels.
    """

    parts: Sequence[str] = PARTS
    pair_seeds: int = 3
    attack_seeds: int = 0
    attack_sees: Sequence[str] = ("state",)
    expert_episodes: int = 200
    noisy_episodes: int = 200
    reactive_episodes: int = 50
    controls: Sequence[str] = ("fast",)
    image_size: int = 64

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise unknown_name("part of a certificate", part, PARTS)


QUICK = Effort(pair_seeds=1, expert_episodes=10, noisy_episodes=0, reactive_episodes=5)
"""A minute or so for a level: the exact parts are as exact, the measured ones are coarse."""


def certify(
    task: str | TaskInfo, level: str, effort: Effort = QUICK, progress: Progress | None = None
) -> dict[str, Any]:
    """Computes the certificates of one level.

    Args:
      task: Task name, for example ``"put_block_back"``, or the row of a task that another
        package installs.
      level: Level name.
      effort: How much to compute.
      progress: Called now and then; see :data:`Progress`.

    Returns:
      JSON-ready data: ``knobs``, ``mjcf_sha256``, ``aliasing``, ``gate``, ``onward``, ``window``,
      ``attack``, ``ceiling``, ``expert``, ``reactive`` and ``holds`` (whether every part of
      `EXACT` is there and holds, and no attack found anything). Measured parts are keyed by
      control, the attack by what it saw as well; those that `effort` leaves out are empty. For a
      task that needs no memory also ``needs_memory`` False, and all but ``ceiling`` and ``expert``
      are empty.

    Raises:
      ConfigError: For an unknown task or level.
    """
    info = _task_info(task)
    knobs = info.knobs(level)
    report = progress or (lambda what, done, total: None)
    result: dict[str, Any] = {
        "knobs": knobs,
        "mjcf_sha256": {},
        "ceiling": ceiling(info, knobs),
        "aliasing": {},
        "gate": {},
        "onward": {},
        "window": {},
        "attack": {},
        "expert": {},
        "reactive": {},
    }
    needs_memory = info.needs_memory(knobs)
    if not needs_memory:
        result["needs_memory"] = False
    parts = set(effort.parts) if needs_memory else set(effort.parts) & {EXPERT}
    seeds = [ALIASING_SEED_START + i for i in range(effort.pair_seeds)]
    for control in effort.controls:
        if ALIASING in parts:
            env = _make(info, level, control, "rgbd", effort.image_size)
            result["aliasing"][control] = aliasing.compare(env, seeds, report)
            result["gate"][control] = aliasing.corrupt_before_gates(env, seeds)
            env.close()
        if ONWARD in parts:
            # What is drawn anew for each of a row of choices differs between them by chance alone.
            still = windows.still(task_class(info), knobs) if info.progress else {}
            env = _make(info, level, control, "rgbd", effort.image_size, still)
            result["onward"][control] = onward.measure(env, seeds[:1], report)
            env.close()
        env = _make(info, level, control, "state", effort.image_size)
        result["mjcf_sha256"][control] = env.mjcf_sha256
        if EXPERT in parts:
            result["expert"][control] = _expert(env, effort.expert_episodes, 0.0, report)
        if EXPERT in parts and control == "fast" and effort.noisy_episodes:
            result["expert"]["fast_noisy"] = _expert(env, effort.noisy_episodes, 1.0, report)
        env.close()
        if WINDOW in parts:
            still = windows.still(task_class(info), knobs)
            env = _make(info, level, control, "state", effort.image_size, still)
            result["window"][control] = windows.measure(env, seeds[:_WINDOW_SEEDS], report)
            env.close()
        if ATTACK in parts and effort.attack_seeds:
            result["attack"][control] = {
                sees: attacked(info, level, control, sees, effort.attack_seeds, report)
                for sees in effort.attack_sees
            }
        if REACTIVE in parts:
            result["reactive"][control] = reactive(info, level, control, effort, report)
    result["holds"] = _holds(result)
    return result


def certify_task(
    task: str | TaskInfo,
    levels: Sequence[str] | None = None,
    effort: Effort = QUICK,
    progress: Progress | None = None,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Computes the certificates of several levels of a task.

    Args:
      task: Task name or row.
      levels: Level names; all by default.
      effort: How much to compute.
      progress: See :data:`Progress`; the level's name is put in front.
      known: An earlier result; its other levels are kept, and, in the same levels, what it
        measured under other controls.

    Returns:
      JSON-ready data with ``task``, ``env_id``, ``versions`` and ``levels``.

    Raises:
      ConfigError: For an unknown task or level, or a task that breaks a rule of
        :mod:`sims.memory_bench.rules` or :mod:`sims.memory_bench.played_rules`.
    """
    info = _task_info(task)
    rules.check(info)
    asked = levels or tuple(info.levels)
    env = _make(info, asked[0], effort.controls[0], "state", effort.image_size)
    played_rules.check(env)
    env.close()
    done: dict[str, Any] = dict((known or {}).get("levels", {}))
    for level in asked:
        named = progress and (lambda what, i, n, level=level: progress(f"{level}: {what}", i, n))
        done[level] = _merge(done.get(level), certify(info, level, effort, named))
    return {
        "format_version": FORMAT_VERSION,
        "task": info.name,
        "env_id": info.env_id,
        "versions": _versions(),
        "levels": {level: done[level] for level in info.levels if level in done},
    }


def _merge(old: Mapping[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Adds the old parts, of other controls and those left out, to a level's new result.

    Nothing old is kept where the knobs or the simulated model have changed since.
    """
    if old is None or old["knobs"] != new["knobs"]:
        return new
    if any(old["mjcf_sha256"].get(c, sha) != sha for c, sha in new["mjcf_sha256"].items()):
        return new
    merged = dict(new)
    for part in ("mjcf_sha256", "aliasing", "gate", "onward", "window", "expert", "reactive"):
        merged[part] = {**old.get(part, {}), **new[part]}
    attacks = old.get("attack", {}), new["attack"]
    merged["attack"] = {
        control: {sees: found for part in attacks for sees, found in part.get(control, {}).items()}
        for control in attacks[0] | attacks[1]
    }
    merged["holds"] = _holds(merged)
    return merged


def _holds(level: Mapping[str, Any]) -> bool:
    if not level.get("needs_memory", True):
        return bool(level["ceiling"]["exact"] and level["ceiling"]["c_star"] == 1.0)
    exact = [list(level[name].values()) for name in EXACT]
    attacks = [
        found for by_sight in level.get("attack", {}).values() for found in by_sight.values()
    ]
    return (
        bool(level["ceiling"]["exact"])
        and all(parts and all(part["holds"] for part in parts) for parts in exact)
        and all(found["holds"] for found in attacks)
    )


def load(task: str, folder: pathlib.Path | str = FOLDER) -> dict[str, Any] | None:
    """Returns the certificates of a task stored in `folder`, or None."""
    path = pathlib.Path(folder) / f"{task}.json"
    return json.loads(path.read_text()) if path.exists() else None


def save(result: Mapping[str, Any], folder: pathlib.Path | str = FOLDER) -> pathlib.Path:
    """Writes what `certify_task` returned to ``<folder>/<task>.json``; returns the path."""
    path = pathlib.Path(folder) / f"{result['task']}.json"
    write_atomic(path, json.dumps(result, indent=1, sort_keys=True) + "\n")
    return path


# -- the ceiling ----------------------------------------------------------------------------


def ceiling(info: TaskInfo, knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Computes the exact ceiling, and what a clock since the reset would allow.

    Returns:
      ``value`` (fraction as text), ``c_star``, ``closed_form`` (the task table's), ``exact``
      (both agree and the solver proved it), ``states``, ``aliased``, and ``time_aware`` with
      bounds ``low`` and ``high``: a policy that reads the episode's clock can keep an
      interactive cue in the time at which it presses. A clock restarted at each gate tells
      nothing, since the gap's length comes from the seed: there c* stays. Where the task has
      any, ``baselines``: what it says of poor memories.
    """
    machine = machine_of(info, knobs)
    found = best_policy(machine)
    clocked = search_memoryless(with_clock(machine, 2 * info.cues(knobs)), starts=8)
    closed, baselines = info.ceiling(knobs), dict(task_class(info).baselines(knobs))
    return {
        "value": str(found.value),
        "c_star": float(found.value),
        "closed_form": closed,
        "exact": found.exact and math.isclose(closed, float(found.value), abs_tol=1e-12),
        "states": found.states,
        "aliased": found.aliased,
        "time_aware": {"low": float(clocked.value), "high": float(clocked.upper)},
        **({"baselines": baselines} if baselines else {}),
    }


# -- the reactive twin ----------------------------------------------------------------------

TELLING = {"entities", "front_image_u8"}


def reactive(
    info: TaskInfo, level: str, control: str, effort: Effort, progress: Progress | None = None
) -> dict[str, Any]:
    """Certifies the twin whose cue stays in sight (knob ``visible_cue`` 1).

    Returns:
      ``holds``: the state and the front camera, which observe by default, say what is right, and
      the ceiling is 1; ``telling``: all observation keys that say it; ``ceiling`` of the abstract
      machine; the ``expert``'s success.
    """
    knobs = {"visible_cue": 1}
    env = _make(info, level, control, "rgbd", effort.image_size, knobs)
    seeds = range(ALIASING_SEED_START, ALIASING_SEED_START + effort.pair_seeds)
    telling = measured.telling(env, seeds)
    env.close()
    env = _make(info, level, control, "state", effort.image_size, knobs)
    episodes = effort.reactive_episodes
    expert = _expert(env, episodes, 0.0, progress) if episodes else None
    env.close()
    value = best_memoryless(machine_of(info, env.knobs)).value
    return {
        "holds": set(telling) >= TELLING and value == 1 == info.ceiling(env.knobs),
        "telling": sorted(telling),
        "ceiling": float(value),
        "expert": expert,
    }


# -- the gate, and the attacker -------------------------------------------------------------


def attacked(
    info: TaskInfo, level: str, control: str, sees: str, seeds: int, progress: Progress
) -> dict[str, Any]:
    """Lets the attacker of :mod:`sims.memory_bench.attack` loose on a level.

    Args:
      info: The task's row.
      level: Level name.
      control: Controller.
      sees: Observation mode.
      seeds: Seeds of the decoder.
      progress: See :data:`Progress`.
    """
    env = _make(info, level, control, sees, _ATTACK_IMAGE_SIZE)
    first = ATTACK_SEED_START + attack.GENERATIONS
    try:
        return attack.attack(
            env, range(ATTACK_SEED_START, first), range(first, first + seeds), progress
        )
    finally:
        env.close()


def _expert(
    env: MemoryBenchEnv, episodes: int, noise: float, progress: Progress | None
) -> dict[str, Any]:
    return measured.expert_success(env, EXPERT_SEED_START, episodes, noise, progress)


def _make(
    info: TaskInfo,
    level: str,
    control: str,
    observation: str,
    image_size: int,
    knobs: Mapping[str, Any] | None = None,
) -> MemoryBenchEnv:
    from sims.gym_env import MemoryBenchEnv
    from sims.memory_bench.scene import CAMERA_NAMES

    return MemoryBenchEnv(
        info,
        level=level,
        observation=observation,
        cameras=CAMERA_NAMES,
        image_size=image_size,
        control=control,
        knobs=dict(knobs or {}),
        render_every_step=False,
    )


def _task_info(task: str | TaskInfo) -> TaskInfo:
    from sims.memory_bench.catalog import TASKS

    if isinstance(task, TaskInfo):
        return task
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    return TASKS[task]


def _versions() -> dict[str, str]:
    import importlib.metadata as metadata

    return {name: metadata.version(name) for name in ("mujoco", "robosuite", "numpy")}
