"""The front: KL on a log axis against a cost, with uniform rows, probes and what was tried on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.reports.comparison import dense_row, uniforms
from paretune.reports.drawing import (
    Figure,
    Layout,
    Trace,
    View,
    area,
    bars,
    escaped,
    house_axis,
    house_layout,
    mark,
    note,
    rule,
    scatter,
    stroke,
)
from paretune.reports.reading import RunFolder
from paretune.reports.wording import block_count, configuration_words, sparse
from paretune.spaces.limits import Limit
from paretune.spaces.metrics import find_metric
from paretune.spaces.numerals import digits, measured, quantity, scale_of
from paretune.spaces.result import FrontFile, Member
from paretune.spaces.statistics import Estimate

COMPARED = "compared, not searched"


@dataclass(frozen=True)
class CostAxis:
    """One cost, in one pretty unit for the whole figure.

    Attributes:
        column: of ``front.csv``.
        label: on the button.
        title: of the axis, with the unit.
        factor: SI units in one pretty unit.
    """

    column: str
    label: str
    title: str
    factor: float

    def position(self, member: Member) -> float | None:
        """Where ``member`` lies; ``None`` where the cost is unknown."""
        value = member.value(self.column)
        return None if value is None else value / self.factor


_COSTS = {
    "weight_bytes": "Bytes",
    "memory_bytes": "Memory",
    "average_bits": "Average bits",
    "tpot_s": "Time per token",
    "ttft_s": "Time to first token",
    "energy_j_per_token": "Energy per token",
}


def cost_axes(front: FrontFile) -> tuple[CostAxis, ...]:
    """Axes that at least two rows have different values on; bytes first, measured before predicted."""
    found = []
    for base, label in _COSTS.items():
        for column, suffix in ((base, ""), (f"{base}_predicted", ", predicted")):
            known = {value for member in front.members if (value := member.value(column)) is not None}
            if len(known) >= 2:
                metric = find_metric(base)
                factor, unit = scale_of(max(known), metric.unit)
                found.append(CostAxis(column, label + suffix, f"{metric.label}{suffix} ({unit})", factor))
    return tuple(found)


@dataclass(frozen=True)
class EquivalenceClass:
    """Members with one number in ``front.json``: one marker and one band.

    Attributes:
        shown: where the marker stands: the recommended configuration where it is among them, else the cheapest.
        members: cheapest first.
    """

    shown: Member
    members: tuple[Member, ...]

    @property
    def words(self) -> str:
        """``cannot be told from mix-3.4, mix-3.5``; empty for a member alone."""
        others = [member.name for member in self.members if member.name != self.shown.name]
        return f"cannot be told from {', '.join(others)}" if others else ""


def equivalence_classes(members: Iterable[Member], front: FrontFile) -> list[EquivalenceClass]:
    """The members gathered by class; a member without a class is alone."""
    gathered: dict[object, list[Member]] = {}
    for member in members:
        known = member.equivalence_class
        gathered.setdefault(member.name if known is None else known, []).append(member)
    found = []
    for together in gathered.values():
        together.sort(key=lambda member: member.value(front.objectives[1]) or 0.0)
        shown = next((member for member in together if member.name == front.recommended), together[0])
        found.append(EquivalenceClass(shown, tuple(together)))
    return found


def compared_members(folder: RunFolder) -> tuple[Member, ...]:
    """Compared models as rows."""
    return () if folder.compared is None else tuple(model.as_row() for model in folder.compared.models)


def front_figure(folder: RunFolder) -> Figure | None:
    """KL on a log axis over each cost that is known; ``None`` where no row has a cost and a KL above zero."""
    drawn = [front for cost in cost_axes(folder.front) if (front := _Front(folder, cost)).shown]
    if not drawn:
        return None
    windows = folder.run.texts.get("report", {}).get("windows")
    quality = find_metric(folder.front.objectives[0])
    return Figure(
        "front",
        "KL to the dense model against cost: front, uniform configurations, pruned models and sparse candidates",
        f"Lower and further left is better. KL is read on {f'{windows} windows of ' if windows else ''}the report "
        "text, which the search did not see; bars are intervals of 95 %"
        f"{_clustering(folder)}. A shaded box holds members that paired intervals cannot tell apart; its marker is the "
        "cheapest of them, or the recommended configuration."
        + ("" if quality.name == "kl" else f" The search was for {quality.label}, not for KL."),
        "rows",
        tuple(front.view() for front in drawn),
        500,
    )


def _clustering(folder: RunFolder) -> str:
    """What the errors of the KL take as independent."""
    found = [member.measurements["kl"] for member in folder.front.members if "kl" in member.measurements]
    kinds = sorted({kl.clustered_by for kl in found if kl.clustered_by})
    return f" with errors clustered by {' or '.join(kinds)}" if kinds else ""


class _Front:
    """One view: everything that shares a cost axis. A KL of zero has no place on a log axis."""

    def __init__(self, folder: RunFolder, cost: CostAxis) -> None:
        self.folder = folder
        self.front = folder.front
        self.cost = cost
        self.groups = folder.run.groups
        self.shown = [member for member in self.front.members if self.at(member) is not None]
        self.others = [row for row in compared_members(folder) if self.at(row) is not None]
        members = [member for member in self.shown if member.on_front]
        self.classes = equivalence_classes(members, self.front)

    def at(self, member: Member) -> tuple[float, float] | None:
        """``(cost in the pretty unit, KL in nat)``; ``None`` where either is unknown, or the KL is zero."""
        x, kl = self.cost.position(member), member.value("kl")
        return None if x is None or kl is None or kl <= 0 else (x, kl)

    def view(self) -> View:
        reach = self.reach()
        ground = [*self.tried(), *self.bands(), self.staircase()]
        data = [*ground, *self.uniforms(), *self.probes(), *self.compared(reach[1]), *self.members()]
        shapes, notes = self.lines()
        place = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}}
        layout = house_layout(
            xaxis=house_axis(self.cost.title, range=reach, tickformat="~g"), yaxis=self.levels(),
            showlegend=True, legend={"traceorder": "reversed", **place},
            margin={"l": 64, "r": 16, "t": 8, "b": 52}, hovermode="closest", shapes=shapes, annotations=notes,
        )  # fmt: skip
        return View(self.cost.label, data, layout)

    def reach(self) -> list[float]:
        """From zero, so that lengths can be compared; not where that would squeeze everything aside."""
        rows = [*self.front.members, *compared_members(self.folder)]
        named = [x for member in rows if (x := self.cost.position(member)) is not None]
        low, high = min(named), max(named)
        if low < 0.5 * high:
            return [0.0, 1.05 * high]
        # Room at the left for the name of the recommended configuration.
        return [low - 0.15 * (high - low), high + 0.06 * (high - low)]

    def levels(self) -> Layout:
        """The KL axis over everything with a name; what was merely tried may lie above."""
        levels = [member.value("kl") or 1.0 for member in [*self.shown, *self.others]]
        # Names of compared models stand above their markers.
        ends = [math.log10(min(levels)) - 0.3, math.log10(max(levels)) + (0.7 if self.others else 0.4)]
        minor = {"dtick": "D1", "showgrid": False, "ticks": "outside", "ticklen": 3, "tickcolor": "--line"}
        title = "KL to the dense model (nat per token)"
        return house_axis(title, type="log", tickformat="~g", dtick=1, minor=minor, range=ends)

    def tried(self) -> list[Trace]:
        """Everything scored on the way; its KL is of the search text, so it is ground and not rows."""
        latest = {trial.digest: trial.values for trial in self.folder.trials if trial.text == "search"}
        both = [v for v in latest.values() if self.cost.column in v and v.get("kl", 0.0) > 0]
        marker = {"size": 4, "color": "--ink-faint"}
        x, y = [v[self.cost.column] / self.cost.factor for v in both], [v["kl"] for v in both]
        return (
            [scatter(x, y, "tried (search text)", mode="markers", marker=marker, hoverinfo="skip")]
            if x
            else []
        )

    def bands(self) -> list[Trace]:
        """A box around the members of each class, a little wider than they are."""
        found: list[Trace] = []
        for one in self.classes:
            spots = [spot for member in one.members if (spot := self.at(member)) is not None]
            if len(spots) > 1:
                x, y = zip(*spots, strict=True)
                left, right = min(x) - 0.015 * max(x), 1.015 * max(x)
                low, high = min(y) / 1.12, max(y) * 1.12
                box = area(
                    [left, right, right, left, left], [low, low, high, high, low], "cannot be told apart"
                )
                found.append({**box, "legendgroup": "classes", "showlegend": not found})
        return found

    def staircase(self) -> Trace:
        """What is reachable; over another cost than the search's not every member is on it."""
        spots = sorted(spot for one in self.classes if (spot := self.at(one.shown)) is not None)
        steps = [spot for i, spot in enumerate(spots) if all(spot[1] < other[1] for other in spots[:i])]
        line = stroke("--accent", 1.5, shape="hv")
        x, y = [x for x, _ in steps], [y for _, y in steps]
        return scatter(x, y, mode="lines", line=line, hoverinfo="skip", showlegend=False)

    def points(
        self, members: Sequence[Member], name: str, notes: Sequence[str] = (), **style: Any
    ) -> list[Trace]:
        """One trace with intervals of 95 % as error bars; nothing without members."""
        if not members:
            return []
        spots = [spot for member in members if (spot := self.at(member)) is not None]
        up = [Estimate.of(member.measurements["kl"]).reach for member in members]
        # The lower end stays above zero, for the log axis.
        down = [min(reach, 0.95 * y) for reach, (_, y) in zip(up, spots, strict=True)]
        hovers = [
            self.hover(m, note) for m, note in zip(members, notes or [m.note for m in members], strict=True)
        ]
        x, y = [x for x, _ in spots], [y for _, y in spots]
        return [scatter(x, y, name, error_y=bars(up, down), hovertext=hovers, hoverinfo="text", **style)]

    def hover(self, member: Member, *more: str) -> str:
        """Name, KL, size and the configuration in words."""
        numbers = [f"KL {measured(member.measurements['kl'])}"]
        size, bits = member.value("weight_bytes"), member.value("average_bits")
        if size is not None:
            numbers.append(
                quantity(size, "B") + (f", {digits(bits)} bits per weight" if bits is not None else "")
            )
        found = member.measurements.get(self.cost.column)
        if found is not None and self.cost.column not in ("weight_bytes", "average_bits"):
            numbers.append(f"{self.cost.label.lower()} {measured(found)}")
        words = configuration_words(member.config, self.groups, block_count(self.groups))
        return f"<b>{escaped(member.name)}</b><br>{escaped(*numbers, *words, *more)}"

    def members(self) -> list[Trace]:
        """One marker per equivalence class; the recommended configuration carries its name."""
        best = [one for one in self.classes if one.shown.name == self.front.recommended]
        rest = [one for one in self.classes if one not in best and one.shown.kind in ("searched", "probe")]
        found = self.points(
            [one.shown for one in rest], "front", [one.words for one in rest],
            mode="markers", marker=mark("circle", 11, "--accent"),
        )  # fmt: skip
        return found + self.points(
            # Below and to the left of the front there is nothing: whatever lay there would be on it.
            [one.shown for one in best], "recommended", [one.words for one in best],
            mode="markers+text", text=[f"<b>{escaped(self.front.recommended)}</b>"], textposition="bottom left",
            textfont={"color": "--accent-ink", "size": 14}, marker=mark("star", 17, "--accent-strong"),
        )  # fmt: skip

    def uniforms(self) -> list[Trace]:
        """Squares; variants of a width lie side by side, so only the plain one of each carries its width."""
        rows = [row for row in uniforms(self.front) if row in self.shown]
        texts = [
            str(row.uniform.bits) if row.uniform is not None and row.uniform.plain else "" for row in rows
        ]
        return self.points(
            rows, "uniform", mode="markers+text", text=texts, textposition="top right",
            textfont={"color": "--ink-soft", "size": 12}, marker=mark("square", 10, "--card", "--ink-soft", 2),
        )  # fmt: skip

    def probes(self) -> list[Trace]:
        probes = [member for member in self.shown if member.kind == "probe"]
        pruned = [member for member in probes if not member.config.pruned.whole]
        zeros = [member for member in probes if member.config.pruned.whole and sparse(member.config)]
        return [
            *self.points(pruned, "pruned", mode="markers", marker=mark("diamond", 10, "--warm", width=1)),
            *self.points(zeros, "sparse", mode="markers", marker=mark("triangle-up", 10, "--warm", width=1)),
        ]

    def compared(self, rightmost: float) -> list[Trace]:
        """Open hexagons with names: an export of the run itself lies on the member that it was made from."""
        if not self.others or self.folder.compared is None:
            return []
        models = {model.label: model for model in self.folder.compared.models}
        sides: list[tuple[float, float, str]] = []
        for x, y in (self.at(row) or (0.0, 1.0) for row in self.others):
            # Inside the axis, and not on the name of a neighbour.
            across, level = "left" if x > 0.6 * rightmost else "right", math.log10(y)
            near = [s for a, b, s in sides if abs(x - a) < 0.1 * rightmost and abs(level - b) < 0.5]
            free = [f"{height} {across}" for height in ("top", "bottom", "middle")]
            sides.append((x, level, next((side for side in free if side not in near), free[0])))
        words = ["; ".join([COMPARED, *models[row.name].words()]) for row in self.others]
        found = self.points(
            self.others, COMPARED, words, mode="markers+text", text=[escaped(row.name) for row in self.others],
            textposition=[side for _, _, side in sides], textfont={"color": "--good", "size": 12},
            marker=mark("hexagon-open", 22, "--good", "--good", 2.5),
        )  # fmt: skip
        for trace in found:
            trace["hovertext"] = [
                self.plain_hover(row, text) for row, text in zip(self.others, words, strict=True)
            ]
        return found

    def plain_hover(self, row: Member, words: str) -> str:
        """Without a configuration: nobody knows that of a model that was not searched."""
        size = row.value("weight_bytes")
        numbers = [f"KL {measured(row.measurements['kl'])}", "" if size is None else quantity(size, "B")]
        return f"<b>{escaped(row.name)}</b><br>{escaped(*numbers, *words.split('; '))}"

    def lines(self) -> tuple[list[Layout], list[Layout]]:
        """Where the dense model and the limits are, and compared models that have no place on the KL axis."""
        shapes, notes = [], []
        dotted = stroke("--ink-soft", dash="dot")
        dense = dense_row(self.front)
        at = None if dense is None else self.cost.position(dense)
        if at is not None:
            shapes.append(rule("x", at, dotted))
            notes.append(note("dense", x=at, y=1, yref="paper", xanchor="right", yanchor="top", xshift=-4))
        for text in self.front.limits:
            limit = Limit.parse(text)
            if limit.metric == "kl" and limit.bound > 0:
                shapes.append(rule("y", limit.bound, dotted))
                # Annotations of a log axis are placed by exponent, shapes by value.
                level = math.log10(limit.bound)
                notes.append(note(text, x=0, xref="paper", y=level, xanchor="left", xshift=6, yshift=-9))
            elif limit.metric == self.cost.column.removesuffix("_predicted"):
                where = limit.bound / self.cost.factor
                shapes.append(rule("x", where, dotted))
                notes.append(
                    note(text, x=where, y=0, yref="paper", xanchor="left", yanchor="bottom", xshift=4)
                )
        for row in compared_members(self.folder):
            x = self.cost.position(row)
            if x is not None and row not in self.others:
                why = "no KL: another tokenizer" if row.value("kl") is None else "KL 0"
                shapes.append(rule("x", x, stroke("--good", dash="dash")))
                where_ = {"x": x, "y": 0.5, "yref": "paper", "textangle": -90, "xanchor": "right"}
                notes.append(note(f"{row.name} ({why})", "--good", **where_))
        return shapes, notes
