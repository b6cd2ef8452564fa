"""HTML that is escaped unless it was made here."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_UNITS = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?B|[mµ]?s|[mµ]?J|min|h|nats?|bits?)(?!\w))|(?<=±) | (?=±)")


class Safe(str):
    """Text that is HTML already."""

    __slots__ = ()


Child = str | None


def element(name: str, /, *children: Child, **attributes: str | bool | None) -> Safe:
    """An element; children that are not :class:`Safe` are escaped.

    Attributes ``class_`` and ``data_x`` become ``class`` and ``data-x``. One that is ``None`` or ``False`` is
    left out, ``True`` stands without a value.
    """
    shown = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in ("br", "hr", "input", "meta", "link"):
        return Safe(f"<{name}{shown}>")
    return Safe(f"<{name}{shown}>{joined(children)}</{name}>")


def joined(children: Iterable[Child], separator: str = "") -> Safe:
    """Children side by side; those that are not :class:`Safe` are escaped."""
    parts = (
        child if isinstance(child, Safe) else html.escape(child) for child in children if child is not None
    )
    return Safe(separator.join(parts))


def unbroken(text: str) -> Safe:
    """Escaped text in which a number stays on a line with its unit, and a name with its hyphens."""
    kept = _UNITS.sub("\u00a0", text)
    words = (element("span", word, class_="whole") if "-" in word[1:-1] else word for word in kept.split(" "))
    return joined(words, " ")


def table(
    headers: Sequence[Child], rows: Iterable[Sequence[Child]], numbers_from: int = 1, below: bool = False
) -> Safe:
    """A table in a scrolling frame.

    Args:
        headers: one a column.
        rows: cells, one a column.
        numbers_from: columns from here on are set as numbers.
        below: rows have one cell more, which stands below the others over the whole width.
    """
    head = element(
        "tr", *(element("th", h, scope="col", class_=_kind(i, numbers_from)) for i, h in enumerate(headers))
    )
    width = len(headers)
    lines = []
    for row in rows:
        cells = (element("td", cell, class_=_kind(i, numbers_from)) for i, cell in enumerate(row[:width]))
        lines.append(element("tr", *cells, class_="above" if below else ""))
        lines += [
            element("tr", element("td", cell, colspan=str(width), class_="below")) for cell in row[width:]
        ]
    inner = element("table", element("thead", head), element("tbody", *lines))
    return element("div", inner, class_="scroll", tabindex="0")


def bullet_list(items: Iterable[Child]) -> Safe:
    """An unordered list."""
    return element("ul", *(element("li", item) for item in items))


def command(text: str) -> Safe:
    """A command to copy, with its button."""
    button = element("button", "copy", type="button", class_="copy", aria_label=f"Copy: {text}")
    return element("div", element("code", text), button, class_="command")


def json_script(identifier: str, value: Any) -> Safe:
    """Data for the page's script; nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Safe(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')


def _attribute(key: str, value: str | bool | None) -> str:
    if value is None or value is False or value == "":
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(value)}"'


def _kind(column: int, numbers_from: int) -> str:
    return "number" if column >= numbers_from else ""
