"""Compared models on the front: a marker with a name, or a line at its bytes where it has no KL."""

from __future__ import annotations

import math

from paretune.reports.figures.axes import CostAxis
from paretune.reports.figures.figure import Layout, Trace, lines, safe
from paretune.reports.figures.points import error_bars
from paretune.reports.numerals import measured, quantity
from paretune.reports.reading import RunFolder
from paretune.spaces.result import Member

_COLOUR = "--good"


def compared_members(folder: RunFolder) -> list[Member]:
    """Compared models as rows."""
    return [] if folder.compared is None else [model.as_row() for model in folder.compared.models]


def compared_traces(folder: RunFolder, cost: CostAxis, rightmost: float) -> list[Trace]:
    """Markers of those that have a KL above zero.

    Args:
        folder: of the run.
        cost: of the view.
        rightmost: end of the axis, in the pretty unit: names stay inside.
    """
    spots = [
        (row, x, row.measurements["kl"].value, hover)
        for row, hover in zip(compared_members(folder), _hovers(folder), strict=True)
        if (x := cost.position(row)) is not None and (row.value("kl") or 0.0) > 0
    ]
    if not spots:
        return []
    return [
        {
            "type": "scatter",
            "name": "compared, not searched",
            "x": [x for _, x, _, _ in spots],
            "y": [kl for _, _, kl, _ in spots],
            "error_y": error_bars([row for row, _, _, _ in spots]),
            "mode": "markers+text",
            "text": [safe(row.name) for row, _, _, _ in spots],
            "textposition": _sides([(x, math.log10(kl)) for _, x, kl, _ in spots], rightmost),
            "textfont": {"color": _COLOUR, "size": 12},
            "marker": {
                # Open: an export of the run itself lies on the member that it was made from.
                "size": 22,
                "symbol": "hexagon-open",
                "color": _COLOUR,
                "line": {"width": 2.5},
            },
            "hovertext": [hover for _, _, _, hover in spots],
            "hoverinfo": "text",
        }
    ]


def _sides(spots: list[tuple[float, float]], rightmost: float) -> list[str]:
    """Where each name stands: inside the axis, and not on that of a neighbour (across, decade of the KL)."""
    sides: list[str] = []
    for number, (x, level) in enumerate(spots):
        across = "left" if x > 0.6 * rightmost else "right"
        crowded = [
            sides[other]
            for other, (x_other, level_other) in enumerate(spots[:number])
            if abs(x - x_other) < 0.1 * rightmost and abs(level - level_other) < 0.5
        ]
        free = [height for height in ("top", "bottom", "middle") if f"{height} {across}" not in crowded]
        sides.append(f"{free[0] if free else 'top'} {across}")
    return sides


def compared_marks(folder: RunFolder, cost: CostAxis) -> Layout:
    """A line and a name at the cost of those that have no KL, or one of zero."""
    shapes, notes = [], []
    for row in compared_members(folder):
        x, kl = cost.position(row), row.value("kl")
        if x is None or (kl is not None and kl > 0):
            continue
        line = {"width": 1, "dash": "dash", "color": _COLOUR}
        why = "no KL: another tokenizer" if kl is None else "KL 0"
        shapes.append(
            {
                "type": "line",
                "layer": "below",
                "line": line,
                "x0": x,
                "x1": x,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
            }
        )
        notes.append(
            {
                "text": f"{safe(row.name)} ({why})",
                "showarrow": False,
                "font": {"size": 12, "color": _COLOUR},
                "x": x,
                "y": 0.5,
                "yref": "paper",
                "textangle": -90,
                "xanchor": "right",
            }
        )
    return {"shapes": shapes, "annotations": notes}


def _hovers(folder: RunFolder) -> list[str]:
    models = () if folder.compared is None else folder.compared.models
    found = []
    for model in models:
        kl, size = model.measurements.get("kl"), model.value("weight_bytes")
        numbers = [
            "compared, not searched",
            f"KL {measured(kl)}" if kl is not None else "",
            quantity(size, "B") if size is not None else "",
        ]
        found.append(f"<b>{safe(model.label)}</b><br>{lines(*numbers, *model.words())}")
    return found
