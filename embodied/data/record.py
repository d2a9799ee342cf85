"""One demonstration: the expert drives, noise disturbs it, its own clean chunks are the labels.

At every observation tick where an action is asked for, the expert's next K clean actions are
rolled out in a branch (save, K steps without rendering, restore), so that the label says how to
go on from the *disturbed* state, not what the noise did next. Without noise the main episode is
that branch and nothing is rolled out twice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from embodied.core import ticks
from embodied.core.errors import DataError
from embodied.core.rng import derive
from embodied.core.specs import ArraySpec
from embodied.core.task import PHASES
from embodied.core.text import INSTRUCTION, INSTRUCTION_BYTES
from embodied.data.schema import (
    KEYFRAME_SIZE,
    Episode,
    EpisodeMeta,
    pack_state,
    state_layout,
    unpack_state,
)


@dataclasses.dataclass(frozen=True)
class RecordPlan:
    """How episodes are demonstrated and observed.

    Attributes:
      noise: Scale of the disturbance of executed actions; 0 demonstrates cleanly.
      clean: Share of episodes that are demonstrated cleanly all the same.
      observe_on: ``"period"`` or ``"decision"``.
      observe_period_s: Seconds between observation ticks under ``"period"``.
      label_horizon: K, actions in a label chunk.
      pause_ticks: Most ticks the demonstrator waits for rest at a keyframe; 0 passes through.
    """

    noise: float = 1.0
    observe_on: str = ticks.PERIOD
    observe_period_s: float = 0.4
    label_horizon: int = 16
    pause_ticks: int = 0
    clean: float = 0.0

    def noise_of(self, seed: int) -> float:
        """Returns the noise of an episode, which its seed decides."""
        is_clean = derive(seed, "demonstrator", "clean").random() < self.clean
        return 0.0 if is_clean else float(self.noise)


def env_facts(env: Any) -> dict[str, Any]:
    """Returns what the dataset must know about an environment before its first episode.

    Returns:
      ``{task, level, knobs, control_hz, num_cues, action_size, mjcf_sha256, horizon,
      observations}``;
      `observations` maps keys to `ArraySpec`.
    """
    u = env.unwrapped
    facts = u.spec_dict()
    observations = {k: ArraySpec(s.shape, s.dtype) for k, s in u.observation_specs.items()}
    return {
        **{k: facts[k] for k in ("task", "level", "knobs", "control_hz", "num_cues")},
        "action_size": int(u.action_space.shape[0]),
        "mjcf_sha256": u.mjcf_sha256,
        "horizon": int(u.horizon),
        "observations": observations,
    }


def record_episode(
    env: Any,
    seed: int,
    plan: RecordPlan,
    *,
    env_config: dict[str, Any],
    versions: dict[str, str],
    replay: Episode | None = None,
) -> Episode | str:
    """Demonstrates and records one episode.

    Args:
      env: A single environment; its unwrapped form is driven by ``advance`` and ``observe``,
        so that nothing is drawn without need and no wrapper counts a branch's steps.
      seed: Episode seed.
      plan: Noise, observation ticks and labels.
      env_config: ``EnvConfig`` as plain data, recorded as it is.
      versions: Package -> version, recorded as they are.
      replay: Walk along this episode's stored states in place of acting, to derive other
        observations, ticks or labels from it.

    Returns:
      The episode, or the reason why the demonstrator failed.

    Raises:
      DataError: If a replayed state or expert action differs from the stored one.
    """
    u = env.unwrapped
    facts = u.spec_dict()
    period = ticks.period_ticks(plan.observe_period_s, float(facts["control_hz"]))
    obs, info = u.reset(seed=seed)
    cue, instruction = int(info["cue"]), str(info["instruction"])
    noise = plan.noise_of(seed)
    expert = u.make_expert(seed, noise, plan.pause_ticks)
    expert.reset()
    saved = u.save_state()
    layout = state_layout(saved)
    rows: dict[str, list[Any]] = {name: [] for name in _CONTROL_ROWS}
    seen: dict[str, list[Any]] = {"tick": [], "observation": [], "chunk": [], "chunk_valid": [],
                                  "keyframe": []}  # fmt: skip
    _append_pose(rows, pack_state(saved, layout), obs)
    if replay is not None:
        _compare_state(rows["state"][0], replay, 0)
    since, first = np.zeros(1, np.int64), True
    while not _decided(info):
        tick, held = len(rows["action"]), bool(info["held"])
        clean = np.asarray(expert.act(), np.float32)
        decision = bool(expert.keyframe_label)
        due, since = ticks.advance(
            since,
            np.array([first]),
            np.array([bool(info["gate"])]),
            np.array([decision]),
            observe_on=plan.observe_on,
            period=period,
        )
        if due[0]:
            seen["tick"].append(tick)
            seen["observation"].append(u.observe(draw=True))
            if plan.observe_on == ticks.DECISION:
                seen["keyframe"].append(expert.next_keyframe())
            if noise and not held:
                chunk, valid = _branch(u, expert, saved, clean, plan.label_horizon)
                seen["chunk"].append(chunk)
                seen["chunk_valid"].append(valid)
        executed = clean if held else np.clip(expert.perturb(clean), -1.0, 1.0)
        if replay is not None:
            executed = _check_expert(replay, tick, clean)
        _append_tick(rows, info, clean, executed, decision)
        first = False
        if replay is None:
            gate = u.advance(executed)
        else:
            u.restore_state(unpack_state(replay.control["state"][tick + 1], layout))
            gate = tick + 1 < replay.meta.length and bool(replay.control["gate"][tick + 1])
        info, saved = u.current_info(gate=gate), u.save_state()
        _append_pose(rows, pack_state(saved, layout), u.observe(draw=False))
    if not info["success"]:
        return str(info["failure_kind"] or "no success when the episode ended")
    control = {name: np.asarray(rows[name], dtype) for name, dtype in _CONTROL_ROWS.items()}
    meta = EpisodeMeta(
        seed=seed,
        cue=cue,
        task=facts["task"],
        level=facts["level"],
        knobs=dict(facts["knobs"]),
        env=env_config,
        control_hz=float(facts["control_hz"]),
        observe_on=plan.observe_on,
        observe_period_s=float(plan.observe_period_s),
        label_horizon=plan.label_horizon,
        noise=float(plan.noise),
        pause_ticks=plan.pause_ticks,
        clean=float(plan.clean),
        instruction=instruction,
        success=True,
        failure_kind="",
        length=len(rows["action"]),
        mjcf_sha256=u.mjcf_sha256,
        state_layout=layout,
        versions=versions,
    )
    at = np.asarray(seen["tick"], np.int64)
    label = _labels(control, at, seen, plan, noise)
    if plan.observe_on == ticks.DECISION:
        label |= _keyframes(seen["keyframe"])
    return Episode(meta, control, _observations(control, at, seen["observation"]), label)


_CONTROL_ROWS = {
    "state": np.float64,
    "action": np.float32,
    "expert_action": np.float32,
    "phase": np.uint8,
    "held": np.bool_,
    "gate": np.bool_,
    "decision": np.bool_,
    "time_s": np.float64,
    "eef_pos_world_m": np.float32,
    "gripper_opening": np.float32,
}


def _append_pose(rows: dict[str, list[Any]], packed: np.ndarray, obs: dict[str, Any]) -> None:
    rows["state"].append(packed)
    rows["eef_pos_world_m"].append(np.array(obs["eef_pos_world_m"]))
    rows["gripper_opening"].append(float(obs["gripper_opening"][0]))


def _append_tick(
    rows: dict[str, list[Any]],
    info: dict[str, Any],
    clean: np.ndarray,
    executed: np.ndarray,
    decision: bool,
) -> None:
    rows["action"].append(np.asarray(executed, np.float32))
    rows["expert_action"].append(clean)
    rows["phase"].append(PHASES.index(info["phase"]))
    rows["held"].append(bool(info["held"]))
    rows["gate"].append(bool(info["gate"]))
    rows["decision"].append(decision)
    rows["time_s"].append(float(info["time_s"]))


def _decided(info: dict[str, Any]) -> bool:
    return bool(info["success"] or info["failure_kind"])


def _branch(
    u: Any, expert: Any, saved: dict[str, np.ndarray], clean: np.ndarray, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rolls the expert out from here without noise, then puts everything back."""
    chunk = np.zeros((horizon, len(clean)), np.float32)
    valid = np.zeros(horizon, bool)
    chunk[0], valid[0] = clean, True
    expert_state = expert.state()
    for k in range(1, horizon):
        gate = u.advance(chunk[k - 1])
        info = u.current_info()
        if gate or info["held"] or _decided(info):
            break
        chunk[k], valid[k] = expert.act(), True
    u.restore_state(saved)
    expert.restore(expert_state)
    return chunk, valid


def _labels(
    control: dict[str, np.ndarray],
    at: np.ndarray,
    seen: dict[str, list[Any]],
    plan: RecordPlan,
    noise: float,
) -> dict[str, np.ndarray]:
    size = control["expert_action"].shape[1]
    chunk = np.zeros((len(at), plan.label_horizon, size), np.float32)
    valid = np.zeros((len(at), plan.label_horizon), bool)
    asked = ~control["held"][at]
    if noise:
        if asked.any():
            chunk[asked], valid[asked] = np.stack(seen["chunk"]), np.stack(seen["chunk_valid"])
        return {"chunk": chunk, "chunk_valid": valid}
    stop = control["gate"] | control["held"]
    for row in np.flatnonzero(asked):
        tick = int(at[row])
        ends = np.flatnonzero(stop[tick + 1 : tick + plan.label_horizon])
        count = 1 + int(ends[0]) if len(ends) else plan.label_horizon
        taken = control["expert_action"][tick : tick + count]
        chunk[row, : len(taken)], valid[row, : len(taken)] = taken, True
    return {"chunk": chunk, "chunk_valid": valid}


def _keyframes(found: list[np.ndarray | None]) -> dict[str, np.ndarray]:
    """Stacks what the expert called its next keyframe at each observation; zeros for none."""
    rows = np.zeros((len(found), KEYFRAME_SIZE), np.float32)
    valid = np.array([keyframe is not None for keyframe in found], bool)
    for row, keyframe in zip(rows, found, strict=True):
        if keyframe is not None:
            row[:] = keyframe
    return {"keyframe": rows, "keyframe_valid": valid}


def _observations(
    control: dict[str, np.ndarray], at: np.ndarray, seen: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    instruction = seen[0].get(INSTRUCTION, np.zeros(INSTRUCTION_BYTES, np.uint8))
    if any(not np.array_equal(row.get(INSTRUCTION, instruction), instruction) for row in seen):
        raise DataError(
            "the instruction changed within an episode, which the dataset format does not hold; "
            "an environment must show one instruction an episode"
        )
    obs = {key: np.stack([row[key] for row in seen]) for key in seen[0] if key != INSTRUCTION}
    return {
        "tick": at,
        "time_s": control["time_s"][at],
        "act_mask": ~control["held"][at],
        INSTRUCTION: instruction,
        **obs,
    }


def _compare_state(packed: np.ndarray, replay: Episode, tick: int) -> None:
    stored = replay.control["state"][tick]
    if packed.tobytes() != stored.tobytes():
        raise DataError(
            f"seed {replay.meta.seed}: the simulator state at tick {tick} is not the stored one; "
            f"the data was made with {replay.meta.versions}, model {replay.meta.mjcf_sha256[:12]}. "
            "Install those versions, or collect again"
        )


def _check_expert(replay: Episode, tick: int, clean: np.ndarray) -> np.ndarray:
    if clean.tobytes() != replay.control["expert_action"][tick].tobytes():
        raise DataError(
            f"seed {replay.meta.seed}: the expert's action at tick {tick} is not the stored one, "
            "so new labels would not fit the episode; install the versions the data was made "
            f"with ({replay.meta.versions}), or collect again"
        )
    return replay.control["action"][tick]
