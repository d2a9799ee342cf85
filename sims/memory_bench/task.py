"""What a MemoryBench task is: hooks around one phase machine.

An episode runs cue -> (gate) -> gap -> (gate) -> execute. At a gate the scene *snaps*: it is
emptied, the arm is put to a canonical pose drawn from the seed alone, at rest, and the hook of
the next phase puts what belongs there. So nothing of the cue survives but what a policy
remembers. A *commit* latches the outcome. A task that needs no memory has the execute phase alone.

To write a task, subclass :class:`Task` in one file of ``tasks/``: declare `info` and
`instructions`, then override the hooks in the order they stand below; `machine` is what the
ceiling is computed from. Episode variables that change while it runs live in ``self.vars``
(numbers and numpy arrays), so that they are saved; what follows from the seed alone lives in
``self.plan`` and is redrawn on restore.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from embodied.core.errors import ConfigError
from embodied.core.rng import derive
from embodied.core.task import CUE, EXECUTE, FAILURE_KINDS, GAP, PHASES, TaskInfo
from embodied.core.text import encode_instruction
from sims.memory_bench.action import CONTROL_HZ
from sims.memory_bench.saved import check_fits

if TYPE_CHECKING:
    from sims.memory_bench.abstract import Machine
    from sims.memory_bench.entities import Entity
    from sims.memory_bench.parts import Part
    from sims.memory_bench.scene import Scene

TICKS_PER_S = CONTROL_HZ

# Lamp colours before lighting: greys, black and pastels, none near a colour of parts.PALETTE.
LAMP_CUE = (0.66, 0.66, 0.66)
LAMP_GAP = (0.02, 0.02, 0.02)
LAMP_EXECUTE = (0.36, 0.52, 0.68)
LAMP_STEPS = (
    (0.62, 0.52, 0.40),
    (0.40, 0.60, 0.50),
    (0.54, 0.44, 0.66),
    (0.66, 0.64, 0.36),
    (0.38, 0.38, 0.38),
)
"""Shown by a cue phase with steps after its first, second, ... fifth step is done."""
LAMP_BLINK = (0.20, 0.20, 0.20)

HOME_JITTER_RAD = 0.04

OPEN, CLOSE = -1.0, 1.0

_SAVED = ("task_", "hidden_")  # how names of a task's saved state begin


@dataclasses.dataclass(frozen=True)
class Waypoint:
    """One place on the expert's path.

    Attributes:
      pos_world_m: Grip point to reach [3].
      yaw_rad: Turn of the downward hand about world z, from the home orientation.
      gripper: -1 open, +1 close, 0 leave as it is.
      tol_m: Distance at which it counts as reached.
      dwell_ticks: Ticks to stay there once reached (closing the gripper, pressing).
      speed: Largest speed, in units of 5 cm a tick (1 m/s); OSC reaches about 0.3.
      keyframe: Whether reaching it ends a keyframe.
      stage: What the expert is about while it heads here; :meth:`Task.replan` gets it.
    """

    pos_world_m: tuple[float, float, float]
    yaw_rad: float = 0.0
    gripper: float = 0.0
    tol_m: float = 0.01
    dwell_ticks: int = 0
    speed: float = 0.45
    keyframe: bool = True
    stage: int = 0


class Task:
    """Base of all tasks; see the module's text. One instance serves one environment.

    Args:
      knobs: All knobs of a level, as :meth:`TaskInfo.knobs` returns them.

    Attributes:
      info: The task's row in the task table.
      instructions: Paraphrases; one is drawn from the seed. They never hold the answer.
      phases: The phases that an episode runs through.
      cue_held: Whether the arm is held during the cue phase.
      gap_held: Whether it is held during the gap; otherwise there is something to do meanwhile.
      hidden_vars: Names in `vars` that may differ between cues at go (aliasing).
      later_plan: Names in `plan` of what the first frame doesn't show: what happens later in the
        cue phase (what suffices is found by varying it).
      still_knobs: Values of knobs that turn off what varies for no reason of the answer's, so that
        what suffices is not judged by it.
      shortest_sight_ticks: Control ticks for which the most fleeting thing to remember shows; who
        looks less often could miss it.
      plan: What :meth:`draw` drew from the seed.
      vars: Mutable episode variables, saved with the state.
    """

    info: ClassVar[TaskInfo]
    instructions: ClassVar[tuple[str, ...]]
    phases: ClassVar[tuple[str, ...]] = PHASES
    cue_held: ClassVar[bool] = True
    gap_held: ClassVar[bool] = True
    hidden_vars: ClassVar[tuple[str, ...]] = ()
    later_plan: ClassVar[tuple[str, ...]] = ()
    still_knobs: ClassVar[Mapping[str, float]] = {}
    shortest_sight_ticks: int = 10**9

    def __init__(self, knobs: Mapping[str, Any]) -> None:
        self.knobs = types.SimpleNamespace(**knobs)
        self._check_common()
        self.n_cues = self.info.cues(knobs)
        self.plan: dict[str, Any] = {}
        self.vars: dict[str, Any] = {}

    def _check_common(self) -> None:
        for name, value in vars(self.knobs).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected a finite number, got {value}"
                )
        for name in ("cue_s", "execute_s"):
            if not getattr(self.knobs, name, 1.0) > 0:
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected > 0, got "
                    f"{getattr(self.knobs, name)}"
                )
        for name in ("visible_cue", "hidden_phase"):
            if getattr(self.knobs, name, 0) not in (0, 1):
                raise ConfigError(
                    f"knob {name} of {self.info.name}: expected 0 or 1, got "
                    f"{getattr(self.knobs, name)}"
                )
        if GAP not in self.phases:
            return
        if not 0 < self.knobs.gap_min_s <= self.knobs.gap_max_s:
            raise ConfigError(
                f"knobs of {self.info.name}: expected 0 < gap_min_s <= gap_max_s, got "
                f"{self.knobs.gap_min_s} and {self.knobs.gap_max_s}"
            )
        if not 0 <= self.knobs.busy <= 1:
            raise ConfigError(f"knob busy: expected 0 to 1, got {self.knobs.busy}")

    @classmethod
    def machine(cls, knobs: Mapping[str, Any]) -> Machine:
        """Returns the task's abstract machine at `knobs`, for its ceiling.

        The reactive twin's follows from it. Builders that several tasks share are in
        :mod:`sims.memory_bench.machines`.
        """
        raise NotImplementedError(f"{cls.__name__} names no abstract machine")

    # -- hooks: what a task overrides -----------------------------------------------------

    def parts(self) -> Sequence[Part]:
        """Returns the parts to build into the scene, for the present knobs."""
        raise NotImplementedError

    def entities(self) -> Sequence[Entity]:
        """Returns the rows of ``entities``, without the lamp."""
        raise NotImplementedError

    def phrase(self, template: str) -> str:
        """Returns what one of `instructions` says in this episode; fills in what it leaves open."""
        return template

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draws the episode's plan (poses, colours, choices) from the seed, never the cue."""
        raise NotImplementedError

    def start_vars(self) -> dict[str, Any]:
        """Returns the initial `vars` of an episode."""
        return {}

    def setup_cue(self) -> None:
        """Puts the scene of the cue phase into the emptied scene; the arm is at home."""
        raise NotImplementedError

    def setup_gap(self) -> None:
        """Puts the scene of the gap into the emptied scene."""

    def setup_execute(self) -> None:
        """Puts the scene at go into the emptied scene. Must not depend on the cue."""
        raise NotImplementedError

    def cue_tick(self) -> bool | str:
        """Runs after each tick of the cue phase.

        Returns:
          Whether the phase is complete, or ``CUE`` to snap within it, where another try follows.
        """
        return self.phase_tick >= self.cue_ticks

    def gap_tick(self) -> None:
        """Runs after each tick of the gap, for what moves in a busy gap."""

    def execute_tick(self) -> str | None:
        """Runs after each tick of the execute phase; calls :meth:`commit` or :meth:`fail`.

        Returns:
          The phase to snap to, where another choice follows (progress tasks); else None.
        """
        raise NotImplementedError

    def target(self) -> str:
        """Returns what a right commit is called, in the words of :meth:`commit`."""
        raise NotImplementedError

    def follows(self, cue: int, target: str) -> bool:
        """Returns whether what was done is what the memory of another episode demanded here.

        Tasks with several commits override it: where the two cues ask for the same at first,
        only what comes after that tells which memory was followed.

        Args:
          cue: Of the episode whose memory was swapped in.
          target: Its `target` when its memory was taken.
        """
        return self.committed == target

    def potential(self) -> float:
        """Returns progress towards success in [0, 1], for the dense reward."""
        raise NotImplementedError

    def covered(self) -> frozenset[str]:
        """Returns names of entities that are present but not visible now."""
        return frozenset()

    def entity_scalars(self) -> Mapping[str, float]:
        """Returns entity name -> its own state in 0..1 (a drawer's opening, a button's press)."""
        return {}

    def waypoints(self) -> Sequence[Waypoint]:
        """Returns the expert's path for the present phase, from privileged knowledge."""
        raise NotImplementedError

    def replan(self, stage: int, goal_world_m: np.ndarray) -> Sequence[Waypoint] | None:
        """Returns a new path when the present one no longer fits (a dropped block), or None.

        Asked at every tick while the expert heads for a waypoint, not while it dwells there.

        Args:
          stage: The waypoint's `stage`.
          goal_world_m: The waypoint's position [3].
        """
        return None

    def choice_order(self) -> Sequence[int]:
        """Returns the cues in the order in which control by choice numbers what to choose.

        A permutation that whoever sees the scene can tell (`layout.by_place`), for tasks whose
        cues are things at places; others don't override it and have no such control.
        """
        raise NotImplementedError(f"{type(self).__name__} does not number its choices")

    def swap_points(self) -> Mapping[str, bool]:
        """Returns `swap_point` and `donor_point` of the info, where go isn't the moment to swap."""
        return {}

    def upcoming(self) -> Sequence[Waypoint]:
        """Returns what the expert will do in this phase after its present path, if anything.

        Only for labels that say where the hand has to be next; asked when the present path
        holds no keyframe any more.
        """
        return ()

    # -- help for experts --------------------------------------------------------------------

    def strayed(self, xy: Sequence[float], safe_z_m: float, far_m: float = 0.04) -> bool:
        """Returns whether the hand is low and not over `xy`: going there would hit things."""
        here = self.scene.eef_pos()
        return bool(here[2] < safe_z_m - 0.04 and np.hypot(*(here[:2] - xy)) > far_m)

    # -- lengths, in ticks ----------------------------------------------------------------

    @property
    def gap_range_ticks(self) -> tuple[int, int]:
        """Shortest and longest gap."""
        limits_s = (self.knobs.gap_min_s, self.knobs.gap_max_s)
        low, high = (max(round(s * TICKS_PER_S), 1) for s in limits_s)
        return low, high

    def gap_length(self) -> int:
        """Returns the length of the present gap."""
        return self.gap_ticks

    @property
    def cue_ticks(self) -> int:
        """Length of a held cue phase, or the time limit of an interactive one."""
        return round(self.knobs.cue_s * TICKS_PER_S)

    @property
    def execute_ticks(self) -> int:
        """Time limit of the execute phase."""
        return round(self.knobs.execute_s * TICKS_PER_S)

    @property
    def horizon(self) -> int:
        """Longest possible episode in ticks."""
        if GAP not in self.phases:
            return self.execute_ticks
        return self.cue_ticks + round(self.knobs.gap_max_s * TICKS_PER_S) + self.execute_ticks

    # -- the episode ----------------------------------------------------------------------

    def bind(self, scene: Scene, controller: Any) -> None:
        """Connects the task to its scene and controller, once."""
        self.scene, self.controller = scene, controller

    def reset(self, seed: int, cue: int | None) -> None:
        """Starts the episode of `seed`; without `cue` the seed's own balanced cue is used.

        Raises:
          ConfigError: If `cue` is not one of the task's cue values.
        """
        if cue is not None and not 0 <= int(cue) < self.n_cues:
            raise ConfigError(
                f"cue of {self.info.name}: expected 0 to {self.n_cues - 1}, got {cue}"
            )
        self._begin(int(seed), balanced_cue(self.info.name, seed, self.n_cues, cue))
        self.vars.update(self.start_vars())
        self._snap(self.phases[0])

    def restart_otherwise(self, index: int) -> None:
        """Starts the episode of the last reset again, with its `later_plan` drawn anew.

        Args:
          index: Which draw.
        """
        drawn = self.draw(derive(self.seed, self.info.name, "later", index))
        self.plan |= {name: drawn[name] for name in self.later_plan}
        self._snap(self.phases[0])

    def _begin(self, seed: int, cue: int) -> None:
        self.seed, self.cue = seed, cue
        name = self.info.name
        rng = derive(seed, name, "episode")
        self.instruction = self.phrase(self.instructions[rng.integers(len(self.instructions))])
        self.instruction_u8 = encode_instruction(self.instruction)
        self.gap_ticks = 0
        if GAP in self.phases:
            low, high = self.gap_range_ticks
            self.gap_ticks = int(rng.integers(low, high + 1))
        # The canonical joints of the start, of the end of cue and of go.
        home = np.array(self.scene.arm.home_qpos_rad)
        self.homes = home + rng.uniform(-HOME_JITTER_RAD, HOME_JITTER_RAD, (3, len(home)))
        self._gap_path = rng.uniform(-1, 1, (3, 3))
        self.plan = self.draw(derive(seed, name, "plan"))
        self.phase, self.phase_tick, self.tick = self.phases[0], 0, 0
        self.committed, self.success, self.failure_kind = "", False, ""
        self.vars = {}

    def _snap(self, phase: str) -> None:
        """Empties the scene, puts the arm to the phase's canonical pose and sets the phase up."""
        self.phase, self.phase_tick = phase, 0
        scene, index = self.scene, PHASES.index(phase)
        scene.clear()
        scene.set_arm(self.homes[index])
        lamp = (LAMP_CUE, LAMP_GAP, LAMP_EXECUTE)[index]
        self.set_lamp(lamp)
        (self.setup_cue, self.setup_gap, self.setup_execute)[index]()
        scene.settle()
        self.controller.reset(self.homes[index])

    def set_lamp(self, rgb: Sequence[float]) -> None:
        """Shows `rgb` on the lamp, unless the phase is to be hidden."""
        hidden = GAP in self.phases and self.knobs.hidden_phase
        self.scene.set_lamp(LAMP_GAP if hidden else rgb)

    @property
    def held(self) -> bool:
        """Whether the next action will be ignored because the arm is held."""
        return {CUE: self.cue_held, GAP: self.gap_held, EXECUTE: False}[self.phase]

    @property
    def leg(self) -> str:
        """Names the stretch of the episode between two gates; the expert plans anew for each."""
        return self.phase

    @property
    def n_choices(self) -> int:
        """Number of choices that success takes; progress tasks have several."""
        return 1

    @property
    def decided(self) -> bool:
        """Whether the outcome is latched."""
        return self.success or bool(self.failure_kind)

    def held_action(self) -> np.ndarray:
        """Returns what a held arm does: nothing, or a smooth random path in a busy gap."""
        action = np.zeros(7)
        if self.phase == GAP and self.knobs.busy > 0:
            # Sums of sines: smooth, bounded, starting at rest; the gate undoes what is left.
            rate_hz = np.array([0.25, 0.5, 0.75])[:, None]
            time_s = (self.phase_tick + 1) / TICKS_PER_S
            velocity = (self._gap_path * np.sin(2 * np.pi * rate_hz * time_s)).mean(0)
            action[:3] = 0.4 * self.knobs.busy * velocity
        return action

    def advance(self) -> bool:
        """Runs the phase machine after a tick; returns whether the scene snapped (a gate)."""
        self.tick += 1
        self.phase_tick += 1
        if self.phase == CUE:
            following = self.cue_tick()
            if following and not self.decided:
                self._snap(GAP if following is True else CUE)
                return True
            if not self.cue_held and self.phase_tick >= self.cue_ticks and not self.decided:
                self.fail("timeout")
        elif self.phase == GAP:
            self.gap_tick()
            if self.knobs.busy > 0:
                blinks = (self.phase_tick // 6) % 2 and self.knobs.busy >= 0.5
                self.set_lamp(LAMP_BLINK if blinks else LAMP_GAP)
            if self.phase_tick >= self.gap_length() and not self.decided:
                self._snap(EXECUTE)
                return True
        else:
            following = self.execute_tick()
            if following is not None:
                self._snap(following)
                return True
            if self.phase_tick >= self.execute_ticks and not self.decided:
                self.fail("timeout")
        return False

    def commit(self, what: str, correct: bool, failure_kind: str = "wrong_choice") -> None:
        """Latches the outcome, once: `what` was committed, rightly or not."""
        if self.decided:
            return
        self.committed = what
        self.success = bool(correct)
        self.failure_kind = "" if correct else failure_kind

    def fail(self, kind: str) -> None:
        """Latches a failure of one of ``FAILURE_KINDS``."""
        if kind not in FAILURE_KINDS:
            raise ValueError(f"unknown failure kind {kind!r}; expected one of {FAILURE_KINDS}")
        if not self.decided:
            self.failure_kind = kind

    @classmethod
    def baselines(cls, knobs: Mapping[str, Any]) -> Mapping[str, float]:
        """Returns name -> best success of a poor memory, in closed form, to stand beside c*."""
        return {}

    # -- saving ---------------------------------------------------------------------------

    def save(self) -> dict[str, np.ndarray]:
        """Returns the task's state as arrays.

        Names that start with ``hidden_`` may differ between cues at go; no others.
        """
        state = {
            "task_seed": np.array(self.seed, np.int64),
            "task_phase": np.array([PHASES.index(self.phase), self.phase_tick], np.int64),
            "task_outcome": np.array(
                [self.success, FAILURE_KINDS.index(self.failure_kind)], np.int64
            ),
            "task_commit": np.frombuffer(self.committed.encode().ljust(32, b"\0")[:32], np.uint8),
            "hidden_cue": np.array(self.cue, np.int64),
            "hidden_tick": np.array(self.tick, np.int64),
        }
        for name, value in self.vars.items():
            state[self._saved_name(name)] = np.array(value)
        return state

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Puts back what `save` returned; the scene is restored separately.

        Raises:
          ConfigError: If it is another task's or level's; this one is then as it was.
        """
        before = dict(vars(self))
        try:
            self._begin_as(state)
        except ConfigError:
            vars(self).clear()
            vars(self).update(before)
            raise
        phase, self.phase_tick = (int(v) for v in state["task_phase"])
        self.phase, self.tick = PHASES[phase], int(state["hidden_tick"])
        success, failure = (int(v) for v in state["task_outcome"])
        self.success, self.failure_kind = bool(success), FAILURE_KINDS[failure]
        self.committed = bytes(np.asarray(state["task_commit"], np.uint8)).rstrip(b"\0").decode()
        for name, value in self.vars.items():
            saved = np.array(state[self._saved_name(name)])
            self.vars[name] = saved if isinstance(value, np.ndarray) else saved.item()

    def _begin_as(self, state: Mapping[str, np.ndarray]) -> None:
        """Begins the episode of a saved state; refuses a state of other names or shapes."""
        check_fits({name: np.zeros(()) for name in ("task_seed", "hidden_cue")}, state)
        cue = int(state["hidden_cue"])
        if not 0 <= cue < self.n_cues:
            raise ConfigError(
                f"simulator state: expected a cue of {self.info.name}, 0 to {self.n_cues - 1}, "
                f"got {cue}; restore it into the environment that saved it"
            )
        self._begin(int(state["task_seed"]), cue)
        self.vars = self.start_vars()
        own = self.save()
        given = {name: value for name, value in state.items() if name.startswith(_SAVED)}
        check_fits(own, given)
        check_fits(given, own)

    def _saved_name(self, name: str) -> str:
        """Returns what one of `vars` is called in a saved state."""
        return ("hidden_var_" if name in self.hidden_vars else "task_var_") + name


def balanced_cue(name: str, seed: int, n_cues: int, cue: int | None = None) -> int:
    """Returns the cue of `seed`: each block of `n_cues` seeds in a row holds every cue once."""
    if cue is not None:
        return int(cue)
    order = derive(int(seed) // n_cues, name, "cue").permutation(n_cues)
    return int(order[int(seed) % n_cues])
