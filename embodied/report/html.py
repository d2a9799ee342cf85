"""HTML pages in one file: nothing is fetched, and they read on a phone and in the dark.

Markup is made by `element` alone, which escapes whatever is not markup made before. So names that
come from files stay text. A page's policy (CSP) allows the one style and the one script of this
package by their hashes, and pictures and videos that lie beside the page; all else is refused by
the browser, what escaping might have missed included.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embodied.report.text import percent

VOID = ("img", "input", "meta")
"""Elements that have no end tag."""


class Html(str):
    """Markup that goes into a page as it stands."""


def element(name: str, /, *inside: object, **attributes: object) -> Html:
    """Returns one element.

    Args:
      name: Its tag.
      *inside: What is in it: `Html` as it stands, anything else as escaped text.
      **attributes: Escaped; an underscore is a hyphen, one at the end is dropped (``class_``).
        False and None leave an attribute out, True gives it without a value.
    """
    given = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        given += " " + key.rstrip("_").replace("_", "-")
        if value is not True:
            given += f'="{html.escape(str(value))}"'
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{together(*inside)}</{name}>")


def together(*parts: object) -> Html:
    """Returns parts one after another: `Html` as it stands, anything else escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))


def document(title: str, *body: object, data: object = None) -> str:
    """Returns a whole page.

    Args:
      title: Its title and first heading.
      *body: What follows the heading.
      data: JSON-ready data for the page's script.
    """
    style, script = _asset("style.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; "
        "img-src data: file: 'self'; media-src file: 'self'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    main = element("main", element("h1", title), *body)
    blocks = () if data is None else (_data(data),)
    page = element("body", main, *blocks, element("script", Html(script)))
    return "<!doctype html>\n" + element("html", head, page, lang="en") + "\n"


def _data(data: object) -> Html:
    """Returns JSON in a script element that is never run; no text in it can end the element."""
    packed = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        packed = packed.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Html(packed), type="application/json", id="data")


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def _source(text: str) -> str:
    """Returns the policy's name of an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# ---- parts of pages ---------------------------------------------------------------------


def link(path: str, text: str) -> Html:
    """Returns a link to a file that lies beside the page."""
    return element("a", text, href=urllib.parse.quote(path))


def video(path: str, label: str) -> Html:
    """Returns a video that lies beside the page, loaded when it is played."""
    shown = element(
        "video", src=urllib.parse.quote(path), controls=True, preload="none", aria_label=label
    )
    return element("figure", shown, element("figcaption", link(path, label)))


def picture(data: bytes, alt: str) -> Html:
    """Returns a picture inside the page; JPEG, PNG or WebP."""
    return element("p", element("img", src=data_address(data), alt=alt))


def data_address(data: bytes) -> str:
    """Returns a picture as a ``data:`` address."""
    kinds = {b"\x89PNG": "png", b"RIFF": "webp"}
    kind = kinds.get(data[:4], "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def items(lines: Sequence[object]) -> Html:
    """Returns a list."""
    return element("ul", *(element("li", line) for line in lines))


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell that sorts by `value`, not by its text; None sorts last."""

    text: object
    value: float | None


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], name: str = "") -> Html:
    """Returns a table that scrolls sideways where it is too wide; the first column heads rows.

    Args:
      header: Heads of the columns.
      rows: Text, `Html` or `Cell`.
      name: What the table is, for those who can't see it; a table with a name can be sorted.
    """
    head = element("tr", *(element("th", text, scope="col") for text in header))
    body = [element("tr", *(_cell(cell, i == 0) for i, cell in enumerate(row))) for row in rows]
    made = element(
        "table",
        *([element("caption", name)] if name else ()),
        element("thead", head),
        element("tbody", *body),
        data_sortable=bool(name),
    )
    # Reached by the keyboard, so that it can be scrolled by it.
    scrolls = {"tabindex": "0", "role": "region", "aria_label": name or " ".join(header[:3])}
    return element("div", made, class_="scroll", **scrolls)


def _cell(cell: Any, heads: bool) -> Html:
    name, scope = ("th", "row") if heads else ("td", None)
    if isinstance(cell, Cell):
        value = "" if cell.value is None else cell.value
        return element(name, cell.text, data_value=value, scope=scope)
    return element(name, cell, scope=scope)


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar of a chart: a success with its interval, and the ceiling; fractions."""

    label: str
    value: float
    low: float
    high: float
    ceiling: float
    control: bool = False


def chart(bars: Sequence[Bar]) -> Html:
    """Returns a picture: success with its interval, the ceiling as a red line."""
    width, left, line, right = 640, 8, 46, 70
    span = width - left - right
    marks: list[Html] = []
    for i, bar in enumerate(bars):
        y = i * line
        low, high, ceiling = (left + span * v for v in (bar.low, bar.high, bar.ceiling))
        middle = y + 32
        whiskers = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 5}v10"
        whiskers += f"M{high:.1f} {middle - 5}v10"
        box = {"x": left, "y": y + 24, "height": 16}
        marks += [
            element("text", bar.label, x=left, y=y + 16),
            element("rect", **box, width=span, class_="empty"),
            element(
                "rect",
                **box,
                width=f"{span * bar.value:.1f}",
                class_="control" if bar.control else "bar",
            ),
            element("path", d=whiskers, class_="whiskers"),
            element("path", d=f"M{ceiling:.1f} {y + 21}v22", class_="ceiling"),
            element("text", percent(bar.value), x=left + span + 8, y=y + 37),
        ]
    label = "success with 95 % interval for each row; the vertical line is the memoryless ceiling"
    drawn = element(
        "svg",
        *marks,
        viewBox=f"0 0 {width} {len(bars) * line + 6}",
        width="100%",
        role="img",
        aria_label=label,
    )
    region = {"tabindex": "0", "role": "region", "aria_label": "chart"}
    return together(
        element("div", drawn, class_="scroll", **region),
        element("p", f"Bars: {label}.", class_="note"),
    )
