"""Strict configuration: what fits is taken as it is, what does not is named."""

from __future__ import annotations

import dataclasses
import enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embodied.config import (
    Raw,
    apply_overrides,
    dump_yaml,
    field_docs,
    from_plain,
    known_paths,
    load_yaml,
    parse_overrides,
    save_yaml,
    to_plain,
)
from embodied.core.errors import ConfigError
from embodied.core.task import EnvConfig
from embodied.train.config import ReinforceConfig


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Inner:
    """Inner.

    Attributes:
      rate: Learning rate, which may
        take two lines.
      sizes: Widths.
    """

    rate: float = 1e-3
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1, 2])

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ConfigError(f"rate must be > 0, got {self.rate}")


@dataclasses.dataclass
class Middle:
    inner: Inner = dataclasses.field(default_factory=lambda: Inner(rate=5.0, sizes=[9]))
    count: int = 1


@dataclasses.dataclass
class Whole:
    middle: Middle = dataclasses.field(default_factory=lambda: Middle(count=7))


@dataclasses.dataclass
class Outer:
    """Outer.

    Attributes:
      name: A name.
    """

    name: str
    steps: int = 3
    flag: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)
    init: str | None = None
    colour: Colour = Colour.RED
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, float] = (1, 2.0)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    many: list[Inner] = dataclasses.field(default_factory=list)
    workers: int | None = None


def test_round_trip() -> None:
    value = Outer("x", inner=Inner(0.5, [4]), colour=Colour.BLUE, options={"a": [1]}, pair=(3, 4.5))
    assert from_plain(Outer, to_plain(value)) == value
    assert to_plain(value)["colour"] == "blue"
    assert to_plain(value)["pair"] == [3, 4.5]


def test_yaml_round_trip_and_small_numbers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save_yaml(path, Outer("x", inner=Inner(1e-4)))
    assert from_plain(Outer, load_yaml(path)) == Outer("x", inner=Inner(1e-4))
    path.write_text("name: x\ninner: {rate: 5e-4}\n")
    assert from_plain(Outer, load_yaml(path)).inner.rate == 5e-4
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "stepz": 1}, r"unknown key 'stepz' in run.yaml; did you mean 'steps'\?"),
        (
            {"name": "x", "inner": {"ratee": 1}},
            r"unknown key 'inner.ratee' in run.yaml; did you mean 'inner.rate'\?",
        ),
        ({}, r"missing key 'name' in run.yaml: expected str; add name=VALUE"),
        ({"name": "x", "steps": 1.5}, r"steps in run.yaml: expected int, got 1.5 \(float\)"),
        ({"name": "x", "steps": True}, r"steps in run.yaml: expected int, got True \(bool\)"),
        ({"name": "x", "steps": "3"}, r"expected int, got '3' \(str\)"),
        ({"name": "x", "flag": 1}, r"flag in run.yaml: expected bool, got 1 \(int\)"),
        ({"name": 3}, r"name in run.yaml: expected str, got 3 \(int\)"),
        ({"name": "x", "inner": 3}, r"inner in run.yaml: expected a mapping, got 3 \(int\)"),
        (
            {"name": "x", "inner": {"sizes": [1, "b"]}},
            r"inner.sizes\[1\] in run.yaml: expected int, got 'b' \(str\)",
        ),
        ({"name": "x", "many": [{"rate": "y"}]}, r"many\[0\].rate in run.yaml: expected float"),
        ({"name": "x", "inner": {"rate": -1}}, r"inner in run.yaml: rate must be > 0, got -1"),
        ({"name": "x", "colour": "green"}, r"expected one of red, blue, got 'green'"),
        ({"name": "x", "mode": "c"}, r"expected one of a, b, got 'c'"),
        ({"name": "x", "pair": [1]}, r"pair in run.yaml: expected 2 elements"),
        ({"name": "x", "init": 3}, r"init in run.yaml: expected str or null, got 3"),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(Outer, data, source="run.yaml")


def test_overrides_are_read_by_the_type_of_their_field() -> None:
    words = [
        "name=2024",
        "steps=7",
        "flag=true",
        "inner.rate=1e-2",
        "inner.sizes=4,5",
        "init=null",
        "colour=blue",
        "options.depth=3",
        "options.names=[a, b]",
        "workers=0",
        "pair=[3, 4]",
    ]
    data = apply_overrides({}, parse_overrides(words), Outer)
    assert from_plain(Outer, data) == Outer(
        "2024",
        7,
        True,
        Inner(0.01, [4, 5]),
        None,
        Colour.BLUE,
        options={"depth": 3, "names": ["a", "b"]},
        workers=0,
        pair=(3, 4.0),
    )


def test_who_sets_one_key_of_a_default_keeps_the_rest() -> None:
    """A field's own default may differ from its class's, at any depth."""
    found = from_plain(Whole, {"middle": {"inner": {"sizes": [3]}}})
    assert found == Whole(Middle(Inner(rate=5.0, sizes=[3]), count=7))
    learning = from_plain(ReinforceConfig, {"env": {"control": "choice"}})
    assert learning.env == EnvConfig(observation="state", control="choice")


def test_a_single_word_fills_a_list() -> None:
    data = apply_overrides({"name": "x"}, {"inner.sizes": Raw("9")}, Outer)
    assert from_plain(Outer, data).inner.sizes == [9]


def test_text_keeps_what_yaml_would_change() -> None:
    for text in ("1e3", "null", "yes", "[a", "a: b", "#x", "runs/x=1"):
        assert from_plain(Outer, {"name": Raw(text)}).name == text
    assert from_plain(Outer, {"name": Raw("'quoted'")}).name == "quoted"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps"], "expected key=value, got 'steps'"),
        (["=3"], "expected key=value"),
        (["a b=3"], "expected key=value"),
        (["steps=1", "steps=2"], "key 'steps' is given twice: '1' and '2'"),
        (["rate=1"], r"unknown key 'rate'; did you mean 'inner.rate'\?"),
        (["inner.raet=1"], r"did you mean 'inner.rate'\?"),
        (["steps.deep=1"], "unknown key 'steps.deep'"),
        (["inner.sizes=[1"], "inner.sizes: not valid YAML"),
    ],
)
def test_bad_overrides(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(Outer, apply_overrides({"name": "x"}, parse_overrides(words), Outer))


def test_overrides_of_free_options_are_values_at_any_depth() -> None:
    words = ["name=x", "options.head.dit.depth=1", "options.proprio=[a,b]", "options.kind=flow"]
    found = from_plain(Outer, apply_overrides({}, parse_overrides(words), Outer))
    assert found.options == {"head": {"dit": {"depth": 1}}, "proprio": ["a", "b"], "kind": "flow"}


def test_overrides_leave_their_data_unchanged() -> None:
    data = {"name": "x", "inner": {"rate": 1.0}}
    apply_overrides(data, {"inner.rate": Raw("2")}, Outer)
    assert data == {"name": "x", "inner": {"rate": 1.0}}


def test_yaml_never_builds_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_yaml(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path / "absent.yaml")


def test_plain_data_only() -> None:
    with pytest.raises(ConfigError, match="expected plain data, got set"):
        to_plain({"a": {1, 2}})


def test_help_comes_from_docstrings() -> None:
    assert field_docs(Inner) == {
        "rate": "Learning rate, which may take two lines.",
        "sizes": "Widths.",
    }
    assert "inner.rate" in known_paths(Outer)


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)


@given(
    name=_TEXT,
    steps=st.integers(),
    rate=st.floats(min_value=1e-12, max_value=1e12),
    sizes=st.lists(st.integers(), max_size=4),
    options=st.dictionaries(_TEXT, st.one_of(st.none(), st.booleans(), st.integers(), _TEXT)),
)
def test_any_value_survives_yaml(
    name: str, steps: int, rate: float, sizes: list[int], options: dict[str, Any]
) -> None:
    import yaml

    value = Outer(name, steps, inner=Inner(rate, sizes), options=options)
    assert from_plain(Outer, yaml.safe_load(dump_yaml(value))) == value
