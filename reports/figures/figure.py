"""A figure before it is drawn: Plotly traces and layouts, coloured by names of the page's style sheet.

``"--accent"`` stands for the CSS variable of that name; the page fills it in, again when light turns dark.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Literal

Trace = dict[str, Any]
Layout = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One view of a figure: an axis, a member.

    Attributes:
        label: on its button or in the list.
        caption: what changes with it; plain text.
    """

    label: str
    data: list[Trace]
    layout: Layout
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """One drawing, with one view or several.

    Attributes:
        name: identifier in the page.
        alternative: what it shows, for those who cannot see it.
        variants: the first is drawn first.
        control: how one switches between them.
        control_label: what is switched.
        height: pixels.
    """

    name: str
    alternative: str
    variants: tuple[Variant, ...]
    control: Literal["none", "buttons", "list"] = "none"
    control_label: str = ""
    height: int = 420

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {
            "height": self.height,
            "variants": [
                {"data": variant.data, "layout": variant.layout, "caption": variant.caption}
                for variant in self.variants
            ],
        }


def safe(text: str) -> str:
    """Text for Plotly, which reads some HTML in labels and hovers."""
    return html.escape(text, quote=False)


def lines(*parts: str) -> str:
    """Lines of a hover; each part is escaped."""
    return "<br>".join(safe(part) for part in parts if part)


def axis(title: str = "", **more: Any) -> Layout:
    """An axis in the house style: light grid, no frame, the title beside it."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 13}},
        "gridcolor": "--grid",
        "zeroline": False,
        "linecolor": "--line",
        "tickcolor": "--line",
        "automargin": True,
        **more,
    }


def base_layout(**more: Any) -> Layout:
    """Fonts, margins and transparent ground; the page's script adds width and height."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "--font", "size": 13, "color": "--ink-soft"},
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "hoverlabel": {
            "bgcolor": "--card",
            "bordercolor": "--line",
            "font": {"family": "--font", "size": 13, "color": "--ink"},
            "align": "left",
        },
        "showlegend": False,
        **more,
    }
