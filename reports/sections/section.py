"""A section of the page: a heading, words, figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from paretune.reports.figures.figure import Figure
from paretune.reports.markup import Safe, element, joined


@dataclass
class Section:
    """What :mod:`paretune.reports.page` lays out.

    Attributes:
        name: anchor.
        title: heading.
        short: in the table of contents.
        body: HTML.
        figures: drawn where ``body`` has their places.
    """

    name: str
    title: str
    short: str
    body: Safe
    figures: list[Figure] = field(default_factory=list)

    def html(self) -> Safe:
        """The section."""
        return element("section", element("h2", self.title), self.body, id=self.name)


def place(figure: Figure, caption: str = "") -> Safe:
    """Where a figure is drawn, with its controls."""
    note = element("figcaption", caption) if caption else None
    described = (
        element("p", figure.variants[0].caption, class_="described") if figure.variants[0].caption else None
    )
    drawing = element(
        "div",
        class_="drawing",
        id=f"figure-{figure.name}",
        role="img",
        aria_label=figure.alternative,
        style=f"height:{figure.height}px",
    )
    return element("figure", _controls(figure), described, drawing, note, data_figure=figure.name)


def _controls(figure: Figure) -> Safe | None:
    if figure.control == "none":
        return None
    label = element("span", figure.control_label, class_="label", id=f"control-{figure.name}")
    if figure.control == "list":
        options = [element("option", v.label, value=str(i)) for i, v in enumerate(figure.variants)]
        choice = element("select", *options, aria_labelledby=f"control-{figure.name}")
        return element("div", label, choice, class_="controls")
    buttons = [
        element(
            "button", variant.label, type="button", data_variant=str(i), aria_pressed="false" if i else "true"
        )
        for i, variant in enumerate(figure.variants)
    ]
    group = element("div", *buttons, class_="switch", role="group", aria_labelledby=f"control-{figure.name}")
    return element("div", label, group, class_="controls")


def paragraph(*children: str | None, class_: str = "") -> Safe:
    """A paragraph of words and HTML."""
    return element("p", *children, class_=class_)


def stacked(*parts: Safe | None) -> Safe:
    """Parts one below the other."""
    return joined(parts)
