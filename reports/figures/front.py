"""The front: KL on a log axis against a cost, with uniform rows, probes and what was tried on the way."""

from __future__ import annotations

from reports.comparison import uniforms
from reports.figures.axes import CostAxis, cost_axes
from reports.figures.classes import EquivalenceClass, equivalence_classes
from reports.figures.figure import Figure, Layout, Trace, Variant, axis, base_layout, lines, safe
from reports.numerals import digits, measured, quantity, with_error
from reports.reading import RunFolder
from reports.wording import block_count, configuration_words, site_groups, sparse
from spaces.limits import Limit
from spaces.result import Member


def front_figure(folder: RunFolder) -> Figure | None:
    """The front over each cost that is known; ``None`` where no member has both a cost and a KL."""
    axes = [cost for cost in cost_axes(folder.front) if _Front(folder, cost).classes]
    if not axes:
        return None
    return Figure(
        name="front",
        alternative="KL to the dense model against cost: front, uniform configurations and probes",
        variants=tuple(_Front(folder, cost).variant() for cost in axes),
        control="buttons" if len(axes) > 1 else "none",
        control_label="Cost",
        height=500,
    )


class _Front:
    """One view: everything that shares a cost axis."""

    def __init__(self, folder: RunFolder, cost: CostAxis) -> None:
        self.folder = folder
        self.cost = cost
        self.groups = site_groups(folder.front, folder.run)
        self.shown = {m.name: m for m in folder.front.members if self._at(m) is not None}
        self.classes = equivalence_classes(
            [m for m in self.shown.values() if m.on_front], cost, folder.front.pick
        )

    def variant(self) -> Variant:
        data = [
            *self._tried(),
            *self._bands(),
            *self._line(),
            *self._uniforms(),
            *self._probes(),
            *self._members(),
        ]
        layout = base_layout(
            xaxis=axis(self.cost.title, rangemode="tozero", tickformat="~g"),
            yaxis=axis(
                "KL to the dense model (nat per token)",
                type="log",
                tickformat="~g",
                dtick=1,
                minor={
                    "dtick": "D1",
                    "showgrid": False,
                    "ticks": "outside",
                    "ticklen": 3,
                    "tickcolor": "--line",
                },
                range=self._range(),
            ),
            showlegend=True,
            legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
            margin={"l": 64, "r": 16, "t": 8, "b": 52},
            hovermode="closest",
            **self._marks(),
        )
        return Variant(self.cost.label, data, layout)

    def _at(self, member: Member) -> tuple[float, float] | None:
        x, kl = self.cost.position(member), member.value("kl")
        return None if x is None or kl is None or kl <= 0 else (x, kl)

    def _range(self) -> list[float]:
        """Decades of everything with a name; what was merely tried may lie above."""
        import math

        levels = [member.value("kl") or 1.0 for member in self.shown.values()]
        return [math.log10(min(levels)) - 0.25, math.log10(max(levels)) + 0.25]

    def _hover(self, member: Member, *more: str) -> str:
        numbers = [f"KL {measured(member.measurements['kl'])}"]
        size, bits = member.value("weight_bytes"), member.value("average_bits")
        if size is not None:
            numbers.append(
                quantity(size, "B") + (f", {digits(bits)} bits a weight" if bits is not None else "")
            )
        words = configuration_words(member.config, self.groups, block_count(self.groups))
        return f"<b>{safe(member.name)}</b><br>{lines(*numbers, *words, *more)}"

    def _points(self, members: list[Member], name: str, **style: object) -> list[Trace]:
        spots = [(member, spot) for member in members if (spot := self._at(member)) is not None]
        if not spots:
            return []
        return [
            {
                "type": "scatter",
                "name": name,
                "x": [spot[0] for _, spot in spots],
                "y": [spot[1] for _, spot in spots],
                "error_y": _error_bars([member for member, _ in spots]),
                "hovertext": [self._hover(member, member.note) for member, _ in spots],
                "hoverinfo": "text",
                **style,
            }
        ]

    def _members(self) -> list[Trace]:
        """One marker an equivalence class; the pick carries its name."""
        found: list[Trace] = []
        for chosen in (False, True):
            classes = [one for one in self.classes if one.has(self.folder.front.pick) == chosen]
            traces = self._points(
                [one.shown for one in classes],
                "pick" if chosen else "front",
                mode="markers+text" if chosen else "markers",
                text=[f"<b>{safe(one.shown.name)}</b>" if chosen else "" for one in classes],
                textposition="top right",
                textfont={"color": "--accent-ink", "size": 14},
                marker={
                    "size": 17 if chosen else 11,
                    "symbol": "star" if chosen else "circle",
                    "color": "--accent-strong" if chosen else "--accent",
                    "line": {"width": 1.5, "color": "--card"},
                },
            )
            for trace in traces:
                trace["hovertext"] = [self._hover(one.shown, one.words()) for one in classes]
            found += traces
        return found

    def _bands(self) -> list[Trace]:
        """A band over the members of a class: they cannot be told apart by two paired standard errors."""
        wide = [one for one in self.classes if len(one.members) > 1]
        shown: list[Trace] = []
        for number, one in enumerate(wide):
            x, y = one.outline(self.cost)
            shown.append(
                {
                    "type": "scatter",
                    "name": "cannot be told apart",
                    "legendgroup": "classes",
                    "showlegend": number == 0,
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
        """The staircase between the members: what is reachable at each cost."""
        spots = sorted(
            (self.cost.position(one.shown) or 0.0, one.shown.value("kl") or 0.0) for one in self.classes
        )
        return [
            {
                "type": "scatter",
                "x": [x for x, _ in spots],
                "y": [y for _, y in spots],
                "mode": "lines",
                "line": {"shape": "hv", "width": 1.5, "color": "--accent"},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        ]

    def _uniforms(self) -> list[Trace]:
        rows = [row for row in uniforms(self.folder.front) if row.name in self.shown and not row.on_front]
        return self._points(
            rows,
            "uniform",
            mode="markers+text",
            text=[safe(row.name.removeprefix("uniform-")) for row in rows],
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
        probes = [m for m in self.shown.values() if m.kind == "probe" and not m.on_front]
        students = [m for m in probes if not m.config.student.whole]
        pruned = [m for m in probes if m.config.student.whole and sparse(m.config)]
        found: list[Trace] = []
        for members, name, symbol in ((students, "student", "diamond"), (pruned, "sparse", "triangle-up")):
            marker = {"size": 9, "symbol": symbol, "color": "--warm", "line": {"width": 1, "color": "--card"}}
            found += self._points(members, name, mode="markers", marker=marker)
        return found

    def _tried(self) -> list[Trace]:
        """Everything scored on the way; its KL is of the search text, so it is ground and not rows."""
        latest = {trial.digest: trial for trial in self.folder.trials if trial.text == "search"}
        spots = [
            (trial.values[self.cost.column] / self.cost.factor, trial.values["kl"])
            for trial in latest.values()
            if self.cost.column in trial.values and trial.values.get("kl", 0.0) > 0
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

    def _marks(self) -> Layout:
        """Lines where the dense model and the limits are."""
        shapes, notes = [], []
        dense = next((m for m in self.folder.front.members if m.name == "dense"), None)
        at = None if dense is None else self.cost.position(dense)
        if at is not None:
            shapes.append(_rule("x", at))
            notes.append(_label("dense", x=at, y=1, yref="paper", xanchor="right", yanchor="top", xshift=-4))
        for text in self.folder.front.limits:
            limit = Limit.parse(text)
            if limit.metric == "kl":
                import math

                shapes.append(_rule("y", limit.bound))
                notes.append(
                    _label(
                        text,
                        x=0,
                        xref="paper",
                        y=math.log10(limit.bound),
                        xanchor="left",
                        xshift=6,
                        yshift=-9,
                    )
                )
            elif limit.metric == self.cost.column.removesuffix("_predicted"):
                shapes.append(_rule("x", limit.bound / self.cost.factor))
                where = limit.bound / self.cost.factor
                notes.append(
                    _label(text, x=where, y=0, yref="paper", xanchor="left", yanchor="bottom", xshift=4)
                )
        return {"shapes": shapes, "annotations": notes}


def _error_bars(members: list[Member]) -> Trace:
    """Two standard errors; the lower end stays above zero, for the log axis."""
    up, down = [], []
    for member in members:
        found = member.measurements["kl"]
        reach = 2 * (found.stderr or 0.0)
        up.append(reach)
        down.append(min(reach, 0.95 * found.value))
    return {
        "type": "data",
        "array": up,
        "arrayminus": down,
        "symmetric": False,
        "thickness": 1.3,
        "width": 3,
        "color": "--ink-soft",
    }


def _rule(which: str, at: float) -> Layout:
    line = {"width": 1, "dash": "dot", "color": "--ink-soft"}
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    if which == "y":
        ends = {"y0": at, "y1": at, "x0": 0, "x1": 1, "xref": "paper"}
    return {"type": "line", "layer": "below", "line": line, **ends}


def _label(text: str, **where: object) -> Layout:
    return {"text": safe(text), "showarrow": False, "font": {"size": 12, "color": "--ink-soft"}, **where}


def class_words(one: EquivalenceClass) -> str:
    """The members of a class with their KL."""
    return "; ".join(
        f"{member.name} {with_error(member.value('kl') or 0.0, member.measurements['kl'].stderr)}"
        for member in one.members
    )
