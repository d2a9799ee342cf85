"""The interval of a proportion, which every measured success is told with."""

from __future__ import annotations

import math

from embodied.core.errors import DataError

Z95 = 1.959963984540054
"""Two-sided 95 % of a normal distribution."""


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Returns Wilson's score interval of a rate, 95 % by default; (0, 1) for n = 0.

    Raises:
      DataError: If `successes` is not within 0 to `n`.

    Source: Wilson 1927; equation 4 of Brown, Cai and DasGupta 2001.
    """
    check_count(successes, n)
    if n == 0:
        return 0.0, 1.0
    rate, zz = successes / n, z * z
    centre = (rate + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(rate * (1 - rate) / n + zz / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return max(0.0, low), min(1.0, high)


def check_count(successes: int, n: int) -> None:
    """Refuses counts that no proportion can be made of, with a DataError."""
    if not 0 <= successes <= n:
        raise DataError(f"expected 0 <= successes <= n, got {successes} of {n}")
