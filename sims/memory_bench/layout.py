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


def by_place(xy_m: np.ndarray, strip_m: float = _CELL_M) -> list[int]:
    """Returns indices of places by where they are: in strips from one side, near ones first.

    Strips run away from the robot, the middle one amid them. As wide as the cells of `draw_grid`
    they let things in that grid or in a ring keep their order while they are shifted a little.

    Args:
      xy_m: Places in the world, float [n, 2 or more]; the robot looks along x.
      strip_m: Width of a strip.
    """
    xy_m = np.asarray(xy_m)
    return [int(i) for i in np.lexsort((xy_m[:, 0], np.round(xy_m[:, 1] / strip_m)))]
