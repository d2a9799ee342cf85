"""The one place that decides when a policy observes.

Control ticks execute actions. Observation ticks feed memory: every `period` control ticks,
or at each decision. A gate (end of cue, go) starts a new grid with an observation at once.
Collecting, the dataset, the evaluation runner and the robot loop all call `advance`.
"""

from __future__ import annotations

import numpy as np

from embodied.core.errors import ConfigError

PERIOD = "period"
DECISION = "decision"

GATES = 8
"""More gates than an episode has; each restarts the grid, and so adds at most one observation."""


def period_ticks(observe_period_s: float, control_hz: float) -> int:
    """Returns the observation period in control ticks; refuses one that does not divide.

    Raises:
      ConfigError: If the period is not a positive whole number of control ticks.
    """
    ticks = observe_period_s * control_hz
    whole = round(ticks)
    if whole < 1 or abs(ticks - whole) > 1e-6:
        raise ConfigError(
            f"observe_period_s={observe_period_s} is {ticks:g} control ticks at {control_hz:g} Hz; "
            f"expected a whole number >= 1. Use a multiple of {1 / control_hz:g} s"
        )
    return whole


def most_observations(horizon: int, period: int) -> int:
    """Returns a bound on the observation ticks of an episode that observes by period.

    Args:
      horizon: Most control ticks of an episode.
      period: Observation period in control ticks.
    """
    return min(horizon, horizon // period + GATES)


def advance(
    since: np.ndarray,
    first: np.ndarray,
    gate: np.ndarray,
    decision: np.ndarray,
    *,
    observe_on: str,
    period: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Decides for each row whether this control tick is an observation tick.

    Args:
      since: int64 [B]; control ticks since the row's last observation (value on entry).
      first: bool [B]; the first tick of an episode.
      gate: bool [B]; the environment reports a gate at this tick.
      decision: bool [B]; a keyframe was reached or failed. Used when observing on decisions.
      observe_on: ``"period"`` or ``"decision"``.
      period: Observation period in control ticks.

    Returns:
      ``due`` bool [B] and the new ``since`` int64 [B] to pass at the next control tick.
    """
    restart = first | gate
    if observe_on == PERIOD:
        due = restart | (since >= period)
    elif observe_on == DECISION:
        due = restart | decision
    else:
        raise ConfigError(f"observe_on must be 'period' or 'decision', got {observe_on!r}")
    return due, np.where(due, 1, since + 1)


def observation_ticks(
    gate: np.ndarray, decision: np.ndarray, observe_on: str, period: int
) -> np.ndarray:
    """Returns the observation ticks of a whole recorded episode.

    Args:
      gate: bool [T] over control ticks.
      decision: bool [T] over control ticks.
      observe_on: ``"period"`` or ``"decision"``.
      period: Observation period in control ticks.

    Returns:
      int64 indices of the control ticks at which the policy observes.
    """
    since = np.zeros(1, np.int64)
    due_ticks = []
    for tick in range(len(gate)):
        due, since = advance(
            since,
            np.array([tick == 0]),
            gate[tick : tick + 1],
            decision[tick : tick + 1],
            observe_on=observe_on,
            period=period,
        )
        if due[0]:
            due_ticks.append(tick)
    return np.asarray(due_ticks, np.int64)
