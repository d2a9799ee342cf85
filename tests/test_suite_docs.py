"""The table and pictures of the suite's README are those of the catalog and the certificates."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from embodied import registry
from embodied.core.errors import DataError
from tests.test_bench import script  # noqa: F401

RENEW = "run: python scripts/suite_docs.py"


@pytest.fixture
def docs(script):  # noqa: F811
    return script("suite_docs")


def test_the_table_is_up_to_date(docs) -> None:
    text = docs.README.read_text()
    assert docs.with_table(text) == text, RENEW
    for name in registry.suite_tasks():
        assert text.count(f"| `{name}` |") == 1
    with pytest.raises(DataError, match="needs the lines"):
        docs.with_table("# no place for a table")


def test_every_task_has_a_picture_of_its_present_self(docs) -> None:
    for info in docs.tasks():
        assert docs.stored_facts(info) == docs.facts(info), f"{info.name}; {RENEW}"
        file = docs.FOLDER / docs.PICTURES / f"{info.name}.jpg"
        assert file.stat().st_size <= docs.MOST_BYTES


def test_values_are_told_from_the_first_level_to_the_last(docs) -> None:
    color = registry.task_info("remember_color")
    assert docs.knobs(color) == "K 3, 5, 9, 12"
    measured = {"window": {"fast": {"label": "anchor-solvable"}}}
    assert docs.to_keep([measured, None]) == "anchor-solvable, –"
    assert docs.to_keep([measured, measured]) == "anchor-solvable"
    assert docs.expert([None]) == "–"


@pytest.mark.sim
@pytest.mark.render
def test_a_picture_can_be_drawn_again(docs) -> None:
    info = registry.task_info("remember_color")
    data, made = docs.draw(info)
    assert made == docs.facts(info)
    file = docs.FOLDER / docs.PICTURES / f"{info.name}.jpg"
    pair = [np.asarray(Image.open(one), np.float32) for one in (file, io.BytesIO(data))]
    assert pair[0].shape == pair[1].shape
    assert np.abs(pair[0] - pair[1]).mean() < 4.0  # of 255; drivers round otherwise
