"""What lies behind the front: everything that was tried, the dense model, the limits."""

from __future__ import annotations

import math

from paretune.reports.comparison import dense_row
from paretune.reports.figures.axes import CostAxis
from paretune.reports.figures.figure import Layout, Trace, safe
from paretune.reports.reading import RunFolder
from paretune.spaces.limits import Limit


def tried(folder: RunFolder, cost: CostAxis) -> list[Trace]:
    """Everything scored on the way; its KL is of the search text, so it is ground and not rows."""
    latest = {trial.digest: trial for trial in folder.trials if trial.text == "search"}
    spots = [
        (trial.values[cost.column] / cost.factor, trial.values["kl"])
        for trial in latest.values()
        if cost.column in trial.values and trial.values.get("kl", 0.0) > 0
    ]
    if not spots:
        return []
    return [
        {
            "type": "scatter",
            "name": "tried (search text)",
            "x": [x for x, _ in spots],
            "y": [y for _, y in spots],
            "mode": "markers",
            "marker": {"size": 4, "color": "--ink-faint"},
            "hoverinfo": "skip",
        }
    ]


def marks(folder: RunFolder, cost: CostAxis) -> Layout:
    """Lines where the dense model and the limits are."""
    shapes, notes = [], []
    dense = dense_row(folder.front)
    at = None if dense is None else cost.position(dense)
    if at is not None:
        shapes.append(_rule("x", at))
        notes.append(_label("dense", x=at, y=1, yref="paper", xanchor="right", yanchor="top", xshift=-4))
    for text in folder.front.limits:
        limit = Limit.parse(text)
        if limit.metric == "kl" and limit.bound > 0:
            shapes.append(_rule("y", limit.bound))
            level = math.log10(
                limit.bound
            )  # annotations of a log axis are placed by exponent, shapes by value
            notes.append(_label(text, x=0, xref="paper", y=level, xanchor="left", xshift=6, yshift=-9))
        elif limit.metric == cost.column.removesuffix("_predicted"):
            where = limit.bound / cost.factor
            shapes.append(_rule("x", where))
            notes.append(_label(text, x=where, y=0, yref="paper", xanchor="left", yanchor="bottom", xshift=4))
    return {"shapes": shapes, "annotations": notes}


def _rule(which: str, at: float) -> Layout:
    line = {"width": 1, "dash": "dot", "color": "--ink-soft"}
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    if which == "y":
        ends = {"y0": at, "y1": at, "x0": 0, "x1": 1, "xref": "paper"}
    return {"type": "line", "layer": "below", "line": line, **ends}


def _label(text: str, **where: object) -> Layout:
    return {"text": safe(text), "showarrow": False, "font": {"size": 12, "color": "--ink-soft"}, **where}
