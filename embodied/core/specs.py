"""Named, serialisable descriptions of what goes into and comes out of a policy.

A spec is plain data: it travels in datasets, checkpoints and bundles as JSON, and two
stages that meet compare their specs and refuse to go on when they differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied.core.errors import SpecMismatch
from embodied.core.rng import GAUSSIAN

EE_DELTA_CHUNK = "ee_delta_chunk"
KEYFRAME = "keyframe"
DISCRETE = "discrete"


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array: `shape` without the batch axis, numpy `dtype` name, bounds and unit.

    Attributes:
      shape: Sizes without batch and time axes.
      dtype: numpy dtype name, for example ``"uint8"``.
      unit: ``"m"``, ``"rad"``, ``"s"``, ``"u8"`` for image intensities, or ``""``.
      low: Lower bound of every element, or None.
      high: Upper bound of every element, or None.
      hole_share: Largest share of elements that may be holes, of which nothing is known: NaN,
        infinite or beyond the bounds. 0 where every element must be finite.
    """

    shape: tuple[int, ...]
    dtype: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    hole_share: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        np.dtype(self.dtype)

    def zeros(self, *leading: int) -> np.ndarray:
        """Returns a zero array with the given leading axes."""
        return np.zeros((*leading, *self.shape), self.dtype)

    def check(self, name: str, value: Any, leading: int = 0) -> None:
        """Raises SpecMismatch unless `value` fits, ignoring its first `leading` axes."""
        shape, dtype = tuple(value.shape)[leading:], str(value.dtype).removeprefix("torch.")
        if shape != self.shape or dtype != self.dtype:
            raise SpecMismatch(
                f"observation {name!r}: expected {self.dtype}{list(self.shape)}, "
                f"got {dtype}{list(shape)}; make the environment and the policy agree "
                "(cameras, image_size, observation)"
            )

    def fault(self, value: np.ndarray) -> str:
        """Returns what keeps a value that fits from being remembered; "" if nothing does.

        Args:
          value: Of `shape` and `dtype`, without further axes.
        """
        if value.dtype.kind != "f":
            return ""
        known = np.isfinite(value)
        if not self.hole_share:
            return "" if known.all() else "holds NaN or infinity"
        if self.low is not None:
            known &= value >= self.low
        if self.high is not None:
            known &= value <= self.high
        if 1.0 - known.mean() <= self.hole_share:
            return ""
        bounds = f"{self.low} to {self.high} {self.unit}".rstrip()
        return f"more than {self.hole_share:.0%} of it is NaN, infinite or not within {bounds}"


def camera_specs(name: str, size: int, depth: bool = False) -> dict[str, ArraySpec]:
    """Returns what a calibrated camera gives.

    Args:
      name: Camera name, the beginning of each key.
      size: Side of its square pictures in pixels.
      depth: Whether it also gives depth.

    Returns:
      ``<name>_image_u8`` (RGB), ``_intrinsics`` (camera matrix in pixels), ``_cam_to_world``
      (pose; x right, y down, z forward, metres), and ``_depth_m`` along z.
    """
    specs = {
        f"{name}_image_u8": ArraySpec((size, size, 3), "uint8", "u8", 0, 255),
        f"{name}_intrinsics": ArraySpec((3, 3), "float32", "px", 0.0, 1e5),
        f"{name}_cam_to_world": ArraySpec((4, 4), "float32", "", -10.0, 10.0),
    }
    if depth:
        specs[f"{name}_depth_m"] = ArraySpec((size, size), "float32", "m", 0.0, 51.0)
    return specs


@dataclasses.dataclass(frozen=True)
class ActionSpec:
    """The policy's action: what it means, its size and its limits.

    Attributes:
      kind: ``ee_delta_chunk``, ``keyframe`` or ``discrete``.
      size: A, the number of elements of one action (for ``discrete``: number of choices).
      horizon: K, actions in a chunk.
      low: Lower bound of every element.
      high: Upper bound of every element.
      names: One name an element, for humans and controllers.
    """

    kind: str
    size: int
    horizon: int
    low: float = -1.0
    high: float = 1.0
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))


@dataclasses.dataclass(frozen=True)
class PolicySpec:
    """Everything a runner, a dataset, a server or an exporter must know about a policy.

    Attributes:
      observations: Observation key -> ArraySpec. A policy reads these keys and no others.
      action: The action spec.
      control_hz: Rate at which single actions are executed.
      observe_on: ``"period"`` or ``"decision"``; see :mod:`embodied.core.ticks`.
      observe_period_s: Seconds between observation ticks under ``"period"``.
      noise_shape: Shape of the noise argument of `act`, without the batch axis.
      noise_law: ``"gaussian"``, ``"gumbel"`` or ``"none"``.
      state: Memory state name -> ArraySpec at the default capacity.
      record: What a reinforcement learner stores each tick; may be empty.
      instruction: ``"bytes"`` (UTF-8 in ``instruction_u8``) or ``"none"``.
    """

    observations: dict[str, ArraySpec]
    action: ActionSpec
    control_hz: float
    observe_on: str
    observe_period_s: float
    noise_shape: tuple[int, ...]
    noise_law: str = GAUSSIAN
    state: dict[str, ArraySpec] = dataclasses.field(default_factory=dict)
    record: dict[str, ArraySpec] = dataclasses.field(default_factory=dict)
    instruction: str = "bytes"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready plain data."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PolicySpec:
        """Rebuilds a spec from `to_json` output."""
        fields = dict(data)
        for group in ("observations", "state", "record"):
            fields[group] = {k: ArraySpec(**v) for k, v in fields.get(group, {}).items()}
        fields["action"] = ActionSpec(**fields["action"])
        fields["noise_shape"] = tuple(fields["noise_shape"])
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Interface:
    """What a policy is built for: the observations on offer, the action and the clock.

    Attributes:
      observations: All observation keys the environment or dataset offers.
      action_size: A.
      control_hz: Control ticks a second.
      observe_on: ``"period"`` or ``"decision"``.
      observe_period_s: Seconds between observation ticks.
      max_ticks: Most observation ticks of one episode; the capacity a full history needs.
      action_kind: What the environment's own actions are: ``ee_delta_chunk`` or ``discrete``.
    """

    observations: dict[str, ArraySpec]
    action_size: int = 7
    control_hz: float = 20.0
    observe_on: str = "period"
    observe_period_s: float = 0.4
    max_ticks: int = 64
    action_kind: str = EE_DELTA_CHUNK

    def to_json(self) -> dict[str, Any]:
        """Returns JSON-ready plain data."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Interface:
        """Rebuilds an interface from `to_json` output."""
        specs = {key: ArraySpec(**spec) for key, spec in data["observations"].items()}
        return cls(**{**data, "observations": specs})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def check_values(
    specs: Mapping[str, ArraySpec], obs: Mapping[str, np.ndarray], source: str
) -> None:
    """Raises SpecMismatch where a row of an observation must not be remembered.

    Args:
      specs: What is read.
      obs: Observation key -> [B, ...].
      source: Where they come from, for the message.
    """
    for key, spec in specs.items():
        for value in obs[key]:
            if wrong := spec.fault(value):
                raise SpecMismatch(f"{source}: {key}: {wrong}; look at that sensor and its unit")


def check_observations(
    needed: dict[str, ArraySpec], given: dict[str, ArraySpec], *, needs: str, gives: str
) -> None:
    """Raises SpecMismatch listing both sides unless every needed observation is given as needed.

    Args:
      needed: What the consumer reads.
      given: What the producer offers; extra keys are fine.
      needs: Name of the consumer for the message, for example a checkpoint's path.
      gives: Name of the producer for the message.
    """
    problems = []
    for key, spec in needed.items():
        if key not in given:
            problems.append(f"{key}: needed {spec.dtype}{list(spec.shape)}, not offered")
        elif (spec.shape, spec.dtype) != (given[key].shape, given[key].dtype):
            other = given[key]
            problems.append(
                f"{key}: needed {spec.dtype}{list(spec.shape)}, "
                f"offered {other.dtype}{list(other.shape)}"
            )
    if problems:
        raise SpecMismatch(
            f"{needs} needs observations that {gives} does not give: {'; '.join(problems)}; "
            f"offered keys: {', '.join(sorted(given))}. "
            "Choose the same observation, cameras and image_size on both sides"
        )
