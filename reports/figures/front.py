"""The front: KL on a log axis against a cost, with uniform rows, probes and what was tried on the way."""

from __future__ import annotations

import math

from paretune.reports.comparison import uniforms
from paretune.reports.figures.axes import CostAxis, cost_axes
from paretune.reports.figures.classes import EquivalenceClass, equivalence_classes
from paretune.reports.figures.compared import compared_marks, compared_members, compared_traces
from paretune.reports.figures.figure import Figure, Layout, Trace, Variant, axis, base_layout, safe
from paretune.reports.figures.ground import marks, tried
from paretune.reports.figures.points import Points
from paretune.reports.reading import RunFolder
from paretune.reports.wording import layer_groups, sparse
from paretune.spaces.result import Member

_MINOR = {"dtick": "D1", "showgrid": False, "ticks": "outside", "ticklen": 3, "tickcolor": "--line"}


def front_figure(folder: RunFolder) -> Figure | None:
    """The front over each cost that is known; ``None`` where no member has a cost and a KL above zero."""
    views = [view for cost in cost_axes(folder.front) if (view := _Front(folder, cost)).classes]
    if not views:
        return None
    return Figure(
        name="front",
        alternative="KL to the dense model against cost: front, uniform configurations and probes",
        variants=tuple(view.variant() for view in views),
        control="buttons" if len(views) > 1 else "none",
        control_label="Cost",
        height=500,
    )


class _Front:
    """One view: everything that shares a cost axis."""

    def __init__(self, folder: RunFolder, cost: CostAxis) -> None:
        self.folder = folder
        self.cost = cost
        self.recommended = folder.front.recommended
        self.points = Points(cost, layer_groups(folder.front, folder.run))
        self.shown = [member for member in folder.front.members if self.points.at(member) is not None]
        self.classes = equivalence_classes([m for m in self.shown if m.on_front], cost, self.recommended)

    def variant(self) -> Variant:
        ground = [*tried(self.folder, self.cost), *self._bands(), *self._line()]
        reach = self._reach()
        others = compared_traces(self.folder, self.cost, reach[1])
        data = [*ground, *self._uniforms(), *self._probes(), *others, *self._members()]
        lines = [marks(self.folder, self.cost), compared_marks(self.folder, self.cost)]
        layout = base_layout(
            xaxis=axis(self.cost.title, range=reach, tickformat="~g"),
            yaxis=self._levels(),
            showlegend=True,
            legend={
                "orientation": "h",
                "traceorder": "reversed",
                "y": 1.02,
                "yanchor": "bottom",
                "x": 0,
                "font": {"size": 12},
            },
            margin={"l": 64, "r": 16, "t": 8, "b": 52},
            hovermode="closest",
            **{key: [one for found in lines for one in found[key]] for key in ("shapes", "annotations")},
        )
        return Variant(self.cost.label, data, layout)

    def _reach(self) -> list[float]:
        """From zero, so that lengths can be compared; not where that would squeeze everything aside."""
        rows = [*self.folder.front.members, *compared_members(self.folder)]
        named = [x for member in rows if (x := self.cost.position(member)) is not None]
        low, high = min(named), max(named)
        if low < 0.5 * high:
            return [0.0, 1.05 * high]
        # Room at the left for the name of the recommended configuration.
        return [low - 0.15 * (high - low), high + 0.06 * (high - low)]

    def _levels(self) -> Layout:
        """The KL axis over the decades of everything with a name; what was merely tried may lie above."""
        others = [row for row in compared_members(self.folder) if self.points.at(row) is not None]
        levels = [member.value("kl") or 1.0 for member in [*self.shown, *others]]
        # Names of compared models stand above their markers.
        ends = [math.log10(min(levels)) - 0.3, math.log10(max(levels)) + (0.7 if others else 0.4)]
        title = "KL to the dense model (nat per token)"
        return axis(title, type="log", tickformat="~g", dtick=1, minor=_MINOR, range=ends)

    def _members(self) -> list[Trace]:
        """One marker an equivalence class; the recommended configuration carries its name."""
        rest = [one for one in self.classes if not one.has(self.recommended) and one.shown.kind != "baseline"]
        found = self._markers(rest, "front", "circle", 11, "--accent")
        for trace in self._markers(
            [one for one in self.classes if one.has(self.recommended)],
            "recommended",
            "star",
            17,
            "--accent-strong",
        ):
            # Below and to the left of the front there is nothing: whatever lay there would be on it.
            trace |= {
                "mode": "markers+text",
                "text": [f"<b>{safe(self.recommended)}</b>"],
                "textposition": "bottom left",
                "textfont": {"color": "--accent-ink", "size": 14},
            }
            found.append(trace)
        return found

    def _markers(
        self, classes: list[EquivalenceClass], name: str, symbol: str, size: int, color: str
    ) -> list[Trace]:
        marker = {"size": size, "symbol": symbol, "color": color, "line": {"width": 1.5, "color": "--card"}}
        shown = [one.shown for one in classes]
        return self.points.trace(shown, name, [one.words() for one in classes], mode="markers", marker=marker)

    def _bands(self) -> list[Trace]:
        """A band over the members of a class: they cannot be told apart by two paired standard errors."""
        shown: list[Trace] = []
        for one in (one for one in self.classes if len(one.members) > 1):
            x, y = one.outline(self.cost)
            shown.append(
                {
                    "type": "scatter",
                    "name": "cannot be told apart",
                    "legendgroup": "classes",
                    "showlegend": not shown,
                    "x": x,
                    "y": y,
                    "mode": "lines",
                    "fill": "toself",
                    "fillcolor": "--accent-faint",
                    "line": {"width": 0},
                    "hoverinfo": "skip",
                }
            )
        return shown

    def _line(self) -> list[Trace]:
        """The staircase of what is reachable; over another cost not every member is on it."""
        spots = sorted(spot for one in self.classes if (spot := self.points.at(one.shown)) is not None)
        steps = [
            spot for number, spot in enumerate(spots) if all(spot[1] < other[1] for other in spots[:number])
        ]
        return [
            {
                "type": "scatter",
                "x": [x for x, _ in steps],
                "y": [y for _, y in steps],
                "mode": "lines",
                "line": {"shape": "hv", "width": 1.5, "color": "--accent"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        ]

    def _uniforms(self) -> list[Trace]:
        rows = [row for row in uniforms(self.folder.front) if row in self.shown]
        return self.points.trace(
            rows,
            "uniform",
            mode="markers+text",
            # Variants of a width lie side by side: only the plain row carries its width, hovering names the rest.
            text=[width if (width := row.name.removeprefix("uniform-")).isdigit() else "" for row in rows],
            textposition="top right",
            textfont={"color": "--ink-soft", "size": 12},
            marker={
                "size": 10,
                "symbol": "square",
                "color": "--card",
                "line": {"width": 2, "color": "--ink-soft"},
            },
        )

    def _probes(self) -> list[Trace]:
        probes = [member for member in self.shown if member.kind == "probe"]
        pruned_sizes = [member for member in probes if not member.config.pruned.whole]
        pruned = [member for member in probes if member.config.pruned.whole and sparse(member.config)]
        return [*self._warm(pruned_sizes, "pruned", "diamond"), *self._warm(pruned, "sparse", "triangle-up")]

    def _warm(self, members: list[Member], name: str, symbol: str) -> list[Trace]:
        marker = {"size": 9, "symbol": symbol, "color": "--warm", "line": {"width": 1, "color": "--card"}}
        return self.points.trace(members, name, mode="markers", marker=marker)
