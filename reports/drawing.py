"""What a drawing of the report is made of: Plotly traces and layouts, coloured by names of the page's style sheet.

``"--accent"`` stands for the CSS variable of that name; the page's script fills it in, again when light turns dark.
What a drawing shows stands in a table of the page as well, for readers without scripts or without sight.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Trace = dict[str, Any]
Layout = dict[str, Any]


@dataclass(frozen=True)
class View:
    """One view of a figure, such as a cost axis; ``label`` stands on its button."""

    label: str
    data: list[Trace]
    layout: Layout


@dataclass(frozen=True)
class Figure:
    """One drawing, with one view or several.

    Attributes:
        name: identifier in the page.
        alternative: what it shows, for those who cannot see it.
        caption: how to read it.
        numbers: anchor of the table that has its numbers.
        views: the first is drawn first.
        height: pixels.
    """

    name: str
    alternative: str
    caption: str
    numbers: str
    views: tuple[View, ...]
    height: int

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "height": self.height,
            "views": [{"data": view.data, "layout": view.layout} for view in self.views],
        }


def scatter(x: Iterable[float], y: Iterable[float], name: str = "", **style: Any) -> Trace:
    """A trace of points or of a line."""
    return {"type": "scatter", "name": name, "x": list(x), "y": list(y), **style}


def stroke(colour: str, width: float = 1, **style: Any) -> Layout:
    """How a line is drawn; ``dash`` as Plotly names it."""
    return {"color": colour, "width": width, **style}


def mark(symbol: str, size: int, colour: str, edge: str = "--card", width: float = 1.5) -> Layout:
    """A marker with an edge."""
    return {"symbol": symbol, "size": size, "color": colour, "line": stroke(edge, width)}


def area(x: Sequence[float], y: Sequence[float], name: str = "", **style: Any) -> Trace:
    """A shaded area without an edge."""
    shape: Layout = {"mode": "lines", "fill": "toself", "fillcolor": "--accent-faint", "hoverinfo": "skip"}
    return scatter(x, y, name, line=stroke("--accent", 0), **shape, **style)


def escaped(*parts: str) -> str:
    """Lines of a hover; Plotly reads some HTML there, so each part is escaped."""
    return "<br>".join(html.escape(part, quote=False) for part in parts if part)


def house_axis(title: str = "", **more: Any) -> Layout:
    """Light grid, no frame, the title beside it."""
    named = {"text": title, "standoff": 10, "font": {"size": 13}}
    lines = {"gridcolor": "--grid", "zeroline": False, "linecolor": "--line", "tickcolor": "--line"}
    return {"title": named, "automargin": True, **lines, **more}


def house_layout(**more: Any) -> Layout:
    """Fonts, margins and transparent ground; the page's script adds width and height."""
    font = {"family": "--font", "size": 13}
    hover = {
        "bgcolor": "--card",
        "bordercolor": "--line",
        "font": {**font, "color": "--ink"},
        "align": "left",
    }
    clear = "rgba(0,0,0,0)"
    ground = {"paper_bgcolor": clear, "plot_bgcolor": clear, "font": {**font, "color": "--ink-soft"}}
    margin = {"l": 56, "r": 16, "t": 12, "b": 48}
    return {**ground, "margin": margin, "hoverlabel": hover, "showlegend": False, **more}


def rule(which: str, at: float, line: Layout) -> Layout:
    """A line over the whole drawing at ``at`` of the axis ``which``."""
    other = "y" if which == "x" else "x"
    ends = {f"{which}0": at, f"{which}1": at, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper"}
    return {"type": "line", "layer": "below", "line": line, **ends}


def note(text: str, colour: str = "--ink-soft", **where: Any) -> Layout:
    """Words in a drawing."""
    return {"text": escaped(text), "showarrow": False, "font": {"size": 12, "color": colour}, **where}


def bars(reach: Sequence[float], below: Sequence[float] | None = None, colour: str = "--ink-soft") -> Trace:
    """Error bars of so much up, and of ``below`` down where that differs."""
    down = {} if below is None else {"arrayminus": list(below), "symmetric": False}
    return {"type": "data", "array": list(reach), **down, "thickness": 1.3, "width": 3, "color": colour}
