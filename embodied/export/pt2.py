"""Writes a program as a torch.export archive, and runs one that was just written.

`torch.export.load` unpickles what an archive asks it to, so a .pt2 file is code: of all of this
package only the export loads one, to prove what it wrote itself a moment ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from embodied.export.program import Program
from embodied.serve.bundle import NEXT, OBS, PT2, RESET, STATE, TIME, WORK, Graph
from embodied.serve.runtime import Arrays, Runtime


def write(program: Program, file: Path) -> None:
    """Writes a program as an archive, with the weights that it needs.

    Args:
      program: From `embodied.export.program.trace`.
      file: Where it goes.
    """
    torch.export.save(program.exported, file)


class WrittenPrograms(Runtime):
    """Runs the .pt2 files of a bundle that this process wrote; never those of another."""

    def _open(self, graph: Graph, threads: int) -> _Written:
        return _Written(self.bundle.path / graph.files[PT2], graph)


class _Written:
    """One program, called with named arrays."""

    def __init__(self, file: Path, graph: Graph) -> None:
        self._call = torch.export.load(file).module()
        self._graph = graph

    @torch.no_grad()
    def __call__(self, feed: Mapping[str, np.ndarray]) -> Arrays:
        given = {n: torch.from_numpy(np.ascontiguousarray(feed[n])) for n in self._graph.inputs}

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {n.removeprefix(prefix): t for n, t in given.items() if n.startswith(prefix)}

        if TIME in given:
            work, after = self._call(part(OBS), given[TIME], part(STATE), given[RESET])
            named = {WORK + n: t for n, t in work.items()}
            named |= {NEXT + n: t for n, t in after.items()}
        else:
            loose = [t for n, t in given.items() if not n.startswith(WORK)]
            named = dict(zip(self._graph.outputs, self._call(part(WORK), *loose), strict=True))
        return {name: tensor.numpy() for name, tensor in named.items()}
