"""Retention per capability: the score as a share of the dense model's, against memory; one panel a task."""

from __future__ import annotations

from paretune.reports.comparison import dense_row, front_members, retention, task_names, uniforms
from paretune.reports.figures.compared import compared_members
from paretune.reports.figures.figure import Figure, Layout, Trace, Variant, axis, base_layout, lines
from paretune.reports.numerals import digits, quantity, scale_of, share_with_error
from paretune.reports.reading import RunFolder
from paretune.spaces.result import Member

_MARGIN = 0.05


def retention_figures(folder: RunFolder) -> list[Figure]:
    """A panel a task; empty where the dense model or the members were not scored."""
    dense = dense_row(folder.front)
    if dense is None:
        return []
    panels = [_Panel(folder, dense, task) for task in task_names(folder.front)]
    drawn = [panel for panel in panels if panel.drawable]
    reach = [end for panel in drawn for end in panel.reach()]
    low, high = max(0.0, min(reach, default=1.0) - _MARGIN), max(reach, default=1.0) + _MARGIN
    return [panel.figure(number, low, high) for number, panel in enumerate(drawn)]


class _Panel:
    """One task over memory (or bytes, where memory is unknown)."""

    def __init__(self, folder: RunFolder, dense: Member, task: str) -> None:
        self.folder = folder
        self.dense = dense
        self.task = task
        # Uniform rows may be on the front; here they are squares all the same.
        rows = tuple(row for row in front_members(folder.front) if not row.name.startswith("uniform-"))
        self.column = "memory_bytes" if all(row.value("memory_bytes") for row in rows) else "weight_bytes"
        largest = max((row.value(self.column) or 1.0 for row in [*rows, dense]), default=1.0)
        self.factor, self.unit = scale_of(largest, "B")
        self.front = self._kept(rows)
        self.uniform = self._kept(uniforms(folder.front))
        self.compared = self._kept(tuple(compared_members(folder)))

    @property
    def drawable(self) -> bool:
        return bool(self.front)

    def reach(self) -> tuple[float, float]:
        """Where the bars of this panel begin and end, the dense score included."""
        spots = [*self.front, *self.uniform, *self.compared]
        return min([1.0, *(s[2] - s[3] for s in spots)]), max([1.0, *(s[2] + s[3] for s in spots)])

    def figure(self, number: int, low: float, high: float) -> Figure:
        data = [
            self._trace(self.uniform, "uniform", "--ink-soft", "square-open"),
            self._trace(self.front, "front", "--accent", "circle"),
        ]
        if self.compared:
            data.append(self._trace(self.compared, "compared, not searched", "--good", "hexagon-open"))
        layout = base_layout(
            xaxis=axis(f"{'memory' if self.column == 'memory_bytes' else 'bytes'} ({self.unit})", nticks=5),
            yaxis=axis("", tickformat=".0%", range=[low, high], nticks=6),
            margin={"l": 48, "r": 8, "t": 6, "b": 44},
            **self._chance(low),
        )
        name = f"retention-{number}"
        return Figure(
            name, f"Retention of {self.task} against memory", (Variant(self.task, data, layout),), height=230
        )

    def _kept(self, rows: tuple[Member, ...]) -> list[tuple[float, str, float, float]]:
        found = []
        for row in rows:
            kept, at = retention(row, self.dense, self.task), row.value(self.column)
            if kept is None or at is None:
                continue
            words = lines(
                f"{row.name}, {quantity(at, 'B')}",
                f"{self.task}: {digits(kept.score)} against {digits(kept.dense)} of the dense model",
                f"retention {share_with_error(kept.ratio, kept.stderr)}",
            )
            found.append((at / self.factor, words, kept.ratio, kept.stderr or 0.0))
        return found

    def _trace(
        self, spots: list[tuple[float, str, float, float]], name: str, colour: str, symbol: str
    ) -> Trace:
        return {
            "type": "scatter",
            "name": name,
            "x": [spot[0] for spot in spots],
            "y": [spot[2] for spot in spots],
            "error_y": {
                "type": "data",
                "array": [spot[3] for spot in spots],
                "thickness": 1,
                "width": 2,
                "color": colour,
            },
            "mode": "lines+markers" if name == "front" else "markers",
            "line": {"width": 1.5, "color": colour},
            "marker": {"size": 7, "symbol": symbol, "color": colour},
            "hovertext": [spot[1] for spot in spots],
            "hoverinfo": "text",
        }

    def _chance(self, low: float) -> Layout:
        """Lines at the dense score and, where it is known and in sight, at chance."""
        shapes = [_level_line(1.0, {"width": 1, "color": "--line"})]
        notes: list[Layout] = []
        chance = self.folder.run.tasks.get(self.task, {}).get("chance")
        base = self.dense.value(f"task.{self.task}")
        if isinstance(chance, int | float) and base and chance / base >= low:
            shapes.append(_level_line(chance / base, {"width": 1, "dash": "dot", "color": "--warm"}))
            notes.append(
                {
                    "text": "chance",
                    "showarrow": False,
                    "xref": "paper",
                    "x": 1,
                    "y": chance / base,
                    "xanchor": "right",
                    "yanchor": "bottom",
                    "font": {"size": 11, "color": "--warm"},
                }
            )
        return {"shapes": shapes, "annotations": notes}


def _level_line(level: float, line: Layout) -> Layout:
    return {
        "type": "line",
        "layer": "below",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": level,
        "y1": level,
        "line": line,
    }
