"""Checks on what a segment tells a memory about time."""

from __future__ import annotations

from torch import Tensor

from embodied.core.errors import DataError


def check_time_order(time_s: Tensor, is_first: Tensor, valid: Tensor) -> None:
    """Refuses segments whose ticks go back in time inside an episode.

    Slots are ordered by arrival, and merging and dropping mean something only in that order.
    Call it on the host, before a batch goes to a device. Equal times are allowed.

    Args:
      time_s: [B, T] seconds.
      is_first: [B, T] bool; a new episode may start at any time.
      valid: [B, T] bool; padding is not looked at.

    Raises:
      DataError: Naming the first offending row and tick.
    """
    latest = time_s.new_full(time_s.shape[:1], -float("inf"))
    for t in range(time_s.shape[1]):
        now, used = time_s[:, t], valid[:, t]
        wrong = (used & ~is_first[:, t] & (now < latest)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"row {row}, tick {t}: time goes back from {float(latest[row]):g} s to "
                f"{float(now[row]):g} s inside an episode; memory needs ticks in order: sort "
                "them, or set is_first where another episode begins"
            )
        latest = now.where(used, latest)
