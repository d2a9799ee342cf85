"""What one recorded episode holds: names, dtypes, shapes, and the check of all of them.

Axes: T control ticks, To observation ticks, K actions in a label chunk, A action size,
S 8-byte words of simulator state. ``control`` arrays with T+1 rows include the state after
the last action.

=================== ===================== =============================================
array               dtype, shape          meaning
=================== ===================== =============================================
control/state       f64 [T+1, S]          packed simulator state, see `pack_state`
control/action      f32 [T, A]            executed (noisy) action; zeros while held
control/expert_action f32 [T, A]          the expert's clean action
control/phase       u8 [T]                index into ``embodied.core.task.PHASES``
control/held        bool [T]              the action was checked and ignored
control/gate        bool [T]              first observation after a snap
control/decision    bool [T]              a keyframe was reached at this observation
control/time_s      f64 [T]               seconds since the episode began
control/eef_pos_world_m f32 [T+1, 3]      hand position, metres
control/gripper_opening f32 [T+1]         0 closed .. 1 open
obs/tick            i64 [To]              control tick of each observation
obs/time_s          f64 [To]              its time
obs/act_mask        bool [To]             an action is asked for (not held)
obs/instruction_u8  u8 [160]              UTF-8, zero padded; once an episode
obs/<other key>     u8|f32|bool|i64 [To, ...]  what the environment showed
label/chunk         f32 [To, K, A]        the expert's own next K clean actions
label/chunk_valid   bool [To, K]          False beyond a gate, a hold or the end
label/keyframe      f32 [To, 9]           where the hand has to be next, see `KEYFRAME_NAMES`
label/keyframe_valid bool [To]            False while held and once no keyframe is left
=================== ===================== =============================================

The last two are there exactly in episodes observed on decisions.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.errors import DataError
from embodied.core.task import PHASES
from embodied.core.text import INSTRUCTION, INSTRUCTION_BYTES
from embodied.core.ticks import DECISION

FORMAT = "embodied-memory-episodes"
FORMAT_VERSION = 1

_CONTROL = {
    "state": ("float64", "T+1", 2),
    "action": ("float32", "T", 2),
    "expert_action": ("float32", "T", 2),
    "phase": ("uint8", "T", 1),
    "held": ("bool", "T", 1),
    "gate": ("bool", "T", 1),
    "decision": ("bool", "T", 1),
    "time_s": ("float64", "T", 1),
    "eef_pos_world_m": ("float32", "T+1", 2),
    "gripper_opening": ("float32", "T+1", 1),
}
_OBS = {
    "tick": ("int64", "To", 1),
    "time_s": ("float64", "To", 1),
    "act_mask": ("bool", "To", 1),
    INSTRUCTION: ("uint8", str(INSTRUCTION_BYTES), 1),
}
_LABEL = {"chunk": ("float32", "To", 3), "chunk_valid": ("bool", "To", 2)}
_KEYFRAME_LABEL = {"keyframe": ("float32", "To", 2), "keyframe_valid": ("bool", "To", 1)}
KEYFRAME_NAMES = ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw", "gripper", "ignore_collision")
"""A keyframe label: the hand's position and orientation in the world, the gripper's command once
there (-1 open, +1 close), and 1 if the hand goes there straight, 0 if on a way around."""
KEYFRAME_SIZE = len(KEYFRAME_NAMES)
OBS_BOOKKEEPING = ("tick", "time_s", "act_mask")
"""Arrays of ``obs`` that are not observations of the environment."""
_OBS_DTYPES = ("uint8", "float32", "bool", "int64")


@dataclasses.dataclass
class EpisodeMeta:
    """Everything about an episode that is not an array; stored as HDF5 attributes.

    Attributes:
      seed: Episode seed; with `task`, `level`, `knobs` and `env` it fixes the episode.
      cue: Index of the value that had to be remembered.
      task: Snake-case task name.
      level: Level name.
      knobs: All knob values in force.
      env: ``EnvConfig`` as plain data.
      control_hz: Control ticks a second.
      observe_on: ``"period"`` or ``"decision"``.
      observe_period_s: Seconds between observation ticks under ``"period"``.
      label_horizon: K.
      noise: Noise scale of the demonstrator, 0 for clean.
      instruction: What the policy is told.
      success: Always True in collected data; failed episodes are not stored.
      failure_kind: "" on success.
      length: T.
      mjcf_sha256: Hash of the simulator model.
      state_layout: ``[[name, dtype, shape], ...]`` of `control/state`.
      versions: Package -> version.
      format_version: `FORMAT_VERSION` of the writer.
      pause_ticks: Most ticks the demonstrator waited for rest at a keyframe; not stored if 0.
      clean: Share of the dataset's episodes that are without noise; not stored if 0.
    """

    seed: int
    cue: int
    task: str
    level: str
    knobs: dict[str, Any]
    env: dict[str, Any]
    control_hz: float
    observe_on: str
    observe_period_s: float
    label_horizon: int
    noise: float
    instruction: str
    success: bool
    failure_kind: str
    length: int
    mjcf_sha256: str
    state_layout: list[list[Any]]
    versions: dict[str, str]
    format_version: int = FORMAT_VERSION
    pause_ticks: int = 0
    clean: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """Returns what is stored, as plain data; without what older episodes don't have."""
        plain = dataclasses.asdict(self)
        for name in OPTIONAL:
            if not plain[name]:
                del plain[name]
        return plain

    def to_attrs(self) -> dict[str, Any]:
        """Returns HDF5 attribute values; dictionaries and lists become JSON text."""
        return {
            key: canonical_json(value) if isinstance(value, (dict, list)) else value
            for key, value in self.to_plain().items()
        }

    @classmethod
    def from_attrs(cls, attrs: dict[str, Any], where: str) -> EpisodeMeta:
        """Rebuilds the metadata from `to_attrs` values; `where` names file and episode."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name not in attrs and field.name in OPTIONAL:
                continue
            if field.name not in attrs:
                raise DataError(
                    f"{where}: attribute {field.name!r} is missing, so this is not a complete "
                    "episode of this package; delete the file and run the same collect again"
                )
            fields[field.name] = _from_attr(field.name, str(field.type), attrs[field.name], where)
        if fields["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{where}: format_version {fields['format_version']}, this package reads "
                f"{FORMAT_VERSION}; use the package version that wrote it, or collect again"
            )
        return cls(**fields)


OPTIONAL = ("pause_ticks", "clean")
"""Settings that are stored only where they are not 0: older episodes don't have them."""


def optional(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those settings that a dataset names only where they are not 0."""
    return {name: settings[name] for name in OPTIONAL if settings.get(name)}


def _from_attr(name: str, kind: str, value: Any, where: str) -> Any:
    try:
        if kind.startswith(("dict", "list")):
            return json.loads(value)
        if kind == "str":
            return value.decode() if isinstance(value, bytes) else str(value)
        return {"int": int, "float": float, "bool": bool}[kind](value)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}: attribute {name!r} should be {kind}, found {value!r}; the file was edited "
            "or written by another program: delete it and collect again"
        ) from error


@dataclasses.dataclass
class Episode:
    """One recorded episode; see the module docstring for every array.

    Attributes:
      meta: Attributes.
      control: Arrays over control ticks.
      obs: Arrays over observation ticks.
      label: Target action chunks.
    """

    meta: EpisodeMeta
    control: dict[str, np.ndarray]
    obs: dict[str, np.ndarray]
    label: dict[str, np.ndarray]

    def groups(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the three groups by their names in the file."""
        return {"control": self.control, "obs": self.obs, "label": self.label}

    @property
    def observation_keys(self) -> list[str]:
        """Keys of ``obs`` that the environment showed, sorted."""
        return sorted(set(self.obs) - set(OBS_BOOKKEEPING))


def canonical_json(value: Any) -> str:
    """Returns one text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_sha256(episode: Episode) -> str:
    """Returns a hash of every array and attribute, independent of compression and files."""
    digest = hashlib.sha256(canonical_json(episode.meta.to_plain()).encode())
    for group, arrays in sorted(episode.groups().items()):
        for name, array in sorted(arrays.items()):
            digest.update(f"{group}/{name}:{array.dtype.name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def validate(episode: Episode, where: str) -> None:
    """Raises DataError unless every array has the name, dtype, shape and range it should.

    Args:
      episode: What was recorded or read.
      where: File and episode for the message.
    """
    meta, control, obs, label = episode.meta, episode.control, episode.obs, episode.label
    ticks = int(obs["tick"].shape[0]) if "tick" in obs and obs["tick"].ndim else 0
    sizes = {"T": meta.length, "T+1": meta.length + 1, "To": ticks}
    on_decisions = meta.observe_on == DECISION
    if on_decisions and not _KEYFRAME_LABEL.keys() & label.keys():
        raise DataError(
            f"{where}: an episode observed on decisions without keyframe labels, made by an "
            "earlier version; collect it again"
        )
    for group, table, arrays in (
        ("control", _CONTROL, control),
        ("obs", _OBS, obs),
        ("label", _LABEL | (_KEYFRAME_LABEL if on_decisions else {}), label),
    ):
        for name, (dtype, rows, ndim) in table.items():
            expected_rows = sizes.get(rows) if rows in sizes else int(rows)
            array = arrays.get(name)
            found = "nothing" if array is None else f"{array.dtype.name}{list(array.shape)}"
            if (
                array is None
                or array.dtype != np.dtype(dtype)
                or array.ndim != ndim
                or array.shape[0] != expected_rows
            ):
                raise DataError(
                    f"{where}: {group}/{name} should be {dtype} with {expected_rows} rows and "
                    f"{ndim} axes, found {found}; the file is incomplete or foreign: delete it "
                    "and run the same collect again"
                )
        unknown = set() if group == "obs" else set(arrays) - set(table)
        if unknown:
            raise DataError(f"{where}: unknown arrays in {group}: {', '.join(sorted(unknown))}")
    for name in set(obs) - set(_OBS):
        array = obs[name]
        if array.dtype.name not in _OBS_DTYPES or array.ndim < 1 or array.shape[0] != ticks:
            raise DataError(
                f"{where}: obs/{name} should have {ticks} rows of one of {', '.join(_OBS_DTYPES)}, "
                f"found {array.dtype.name}{list(array.shape)}"
            )
    _validate_values(episode, where)


def _validate_values(episode: Episode, where: str) -> None:
    meta, control, obs, label = episode.meta, episode.control, episode.obs, episode.label
    size = control["action"].shape[1]
    chunk = (len(obs["tick"]), meta.label_horizon, size)
    problems = []
    if control["expert_action"].shape[1] != size or label["chunk"].shape != chunk:
        problems.append(
            f"action sizes disagree: executed {size}, expert {control['expert_action'].shape[1]}, "
            f"chunk {list(label['chunk'].shape)} instead of {list(chunk)}"
        )
    if label["chunk_valid"].shape != chunk[:2]:
        problems.append(f"chunk_valid is {list(label['chunk_valid'].shape)}")
    if control["eef_pos_world_m"].shape[1] != 3:
        problems.append("eef_pos_world_m has no 3 columns")
    tick = obs["tick"]
    if not len(tick) or tick[0] != 0 or tick[-1] >= meta.length or (np.diff(tick) <= 0).any():
        problems.append(f"observation ticks {tick.tolist()[:8]}... do not rise from 0 below T")
    for name in ("action", "expert_action"):
        if not (np.abs(control[name]) <= 1.0).all():
            problems.append(f"{name} holds NaN or values outside [-1, 1]")
    if not np.isfinite(label["chunk"]).all():
        problems.append("label chunk holds NaN or infinity")
    if "keyframe" in label:
        problems += _keyframe_problems(episode)
    if control["phase"].size and control["phase"].max() >= len(PHASES):
        problems.append(f"phase above {len(PHASES) - 1}")
    words = sum(_words(dtype, shape) for _, dtype, shape in meta.state_layout)
    if words != control["state"].shape[1]:
        problems.append(f"state has {control['state'].shape[1]} words, its layout {words}")
    if problems:
        raise DataError(f"{where}: " + "; ".join(problems))


def _keyframe_problems(episode: Episode) -> list[str]:
    obs, keyframe = episode.obs, episode.label["keyframe"]
    valid, acting = episode.label["keyframe_valid"], obs["act_mask"]
    if keyframe.shape[1] != KEYFRAME_SIZE:
        return [f"keyframes of {keyframe.shape[1]} numbers instead of {KEYFRAME_SIZE}"]
    problems = []
    if not np.isfinite(keyframe).all():
        problems.append("keyframe label holds NaN or infinity")
    elif valid.any() and np.abs(np.linalg.norm(keyframe[valid, 3:7], axis=1) - 1).max() > 1e-3:
        problems.append("a keyframe label's quaternion is not of length 1")
    if (valid & ~acting).any():
        problems.append("keyframe labels while the arm is held")
    # After a stretch's last keyframe there is nothing left to label; before it there is.
    for _, rows in itertools.groupby(np.flatnonzero(acting), lambda row: _stretch(episode, row)):
        labelled = valid[list(rows)]
        if not labelled[0] or (labelled[1:] > labelled[:-1]).any():
            problems.append(
                "ticks at which the arm acts without a keyframe label (the demonstrator's path "
                "must hold a keyframe in each phase)"
            )
            break
    return problems


def _stretch(episode: Episode, row: int) -> int:
    """Returns how many gates and holds lie before an observation."""
    tick = episode.obs["tick"][row] + 1
    return int((episode.control["gate"] | episode.control["held"])[:tick].sum())


def _words(dtype: str, shape: list[int]) -> int:
    return -(-np.dtype(dtype).itemsize * math.prod(shape) // 8)


def state_layout(state: dict[str, np.ndarray]) -> list[list[Any]]:
    """Returns ``[[name, dtype, shape], ...]`` in packing order (sorted names).

    Raises:
      DataError: For an entry that is not a plain array of numbers or flags.
    """
    layout = []
    for name in sorted(state):
        array = np.asarray(state[name])
        if array.dtype.kind not in "biuf":
            raise DataError(f"simulator state {name!r} has dtype {array.dtype}; expected numbers")
        layout.append([name, array.dtype.str, list(array.shape)])
    return layout


def pack_state(state: dict[str, np.ndarray], layout: list[list[Any]]) -> np.ndarray:
    """Packs a simulator state into float64 words without changing a bit.

    Each array's bytes are padded to whole 8-byte words, so float64 arrays stay readable as
    numbers and every other dtype survives exactly.

    Raises:
      DataError: If `state` does not have `layout` (it must be the same at every tick).
    """
    found = state_layout(state)
    if found != layout:
        raise DataError(
            f"the simulator state changed its layout within an episode: first {layout}, "
            f"then {found}; save_state must return the same names, dtypes and shapes at every tick"
        )
    parts = []
    for name, _, _ in layout:
        raw = np.ascontiguousarray(state[name]).tobytes()
        parts.append(raw + b"\0" * (-len(raw) % 8))
    return np.frombuffer(b"".join(parts), np.float64)


def unpack_state(words: np.ndarray, layout: list[list[Any]]) -> dict[str, np.ndarray]:
    """Undoes `pack_state`; returns writable copies."""
    raw = np.ascontiguousarray(words, np.float64).tobytes()
    state, at = {}, 0
    for name, dtype, shape in layout:
        count = math.prod(shape)
        state[name] = np.frombuffer(raw, np.dtype(dtype), count, at).reshape(shape).copy()
        at += 8 * _words(dtype, shape)
    return state
