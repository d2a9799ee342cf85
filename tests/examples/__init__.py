"""Worked examples of the README; each is one file a newcomer can start from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from embodied import registry


@contextlib.contextmanager
def installed(folder: Path, entry_points: str) -> Iterator[None]:
    """Offers entry points as an installed distribution does, while the block lasts."""
    metadata = folder / "site" / "own-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(metadata.parent)
        registry._entry_points.cache_clear()
        try:
            yield
        finally:
            registry._entry_points.cache_clear()
