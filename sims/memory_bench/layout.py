"""Places on the table that a hand pointing down reaches, far enough apart to come down between."""

from __future__ import annotations

import numpy as np

GRID_PLACES = 12
"""Most places of a grid."""

_CELLS_X, _CELLS_Y, _CELL_M, _JITTER_M = 3, 4, 0.14, 0.018
_CENTRE_M = (0.03, 0.02)


def draw_grid(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws places in random order from a grid, each shifted a little.

    Args:
      rng: Generator to draw from.
      count: How many, at most `GRID_PLACES`.

    Returns:
      Positions in the world, float64 [count, 2], in metres.
    """
    cells = rng.permutation(GRID_PLACES)[:count]
    xy = np.stack((cells // _CELLS_Y, cells % _CELLS_Y), 1).astype(float)
    xy = (xy - ((_CELLS_X - 1) / 2, (_CELLS_Y - 1) / 2)) * _CELL_M + _CENTRE_M
    return xy + rng.uniform(-_JITTER_M, _JITTER_M, (count, 2))
