"""Small drawings: what the members keep of each task, and predicted against measured time."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.reports.comparison import (
    dense_row,
    front_members,
    is_uniform,
    retention,
    task_names,
    uniforms,
)
from paretune.reports.drawing import (
    Figure,
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
from paretune.reports.front_figure import COMPARED, compared_members
from paretune.reports.reading import RunFolder
from paretune.spaces.numerals import change, change_with_error, digits, quantity, scale_of
from paretune.spaces.result import LatencyCheck, Member

_LATENCY_BAND = 0.1
_RETENTION_MARGIN = 0.05


def retention_figures(folder: RunFolder) -> list[tuple[str, Figure]]:
    """Score as a share of the dense model's against memory, a panel per task; empty where nothing was scored."""
    dense = dense_row(folder.front)
    if dense is None:
        return []
    # Uniform rows may be on the front; here they are squares all the same.
    rows = tuple(row for row in front_members(folder.front) if not is_uniform(row))
    column = "memory_bytes" if all(row.value("memory_bytes") for row in rows) else "weight_bytes"
    factor, unit = scale_of(max((row.value(column) or 1.0 for row in [*rows, dense]), default=1.0), "B")
    kinds = (
        (uniforms(folder.front), "uniform", "--ink-soft", "square-open"),
        (rows, "front", "--accent", "circle"),
        (compared_members(folder), COMPARED, "--good", "hexagon-open"),
    )
    drawn: dict[str, list[Trace]] = {}
    for task in task_names(folder.front):
        traces = [_kept(some, dense, task, column, factor, style) for some, *style in kinds if some]
        if any(trace["name"] == "front" and trace["x"] for trace in traces):
            drawn[task] = traces
    ends = [
        level + sign * error
        for traces in drawn.values()
        for trace in traces
        for level, error in zip(trace["y"], trace["error_y"]["array"], strict=True)
        for sign in (-1, 1)
    ]
    low = max(0.0, min([1.0, *ends]) - _RETENTION_MARGIN)
    high = max([1.0, *ends]) + _RETENTION_MARGIN
    title = f"{'memory' if column == 'memory_bytes' else 'bytes'} ({unit})"
    found = []
    for number, (task, traces) in enumerate(drawn.items()):
        shapes, notes = [rule("y", 1.0, stroke("--line"))], []
        chance, base = folder.run.tasks.get(task, {}).get("chance"), dense.value(f"task.{task}")
        if isinstance(chance, int | float) and base and chance / base >= low:
            shapes.append(rule("y", chance / base, stroke("--warm", dash="dot")))
            where = {"xref": "paper", "x": 1, "y": chance / base, "xanchor": "right", "yanchor": "bottom"}
            notes.append(note("chance", "--warm", **where))
        layout = house_layout(
            xaxis=house_axis(title, nticks=5), yaxis=house_axis(tickformat=".0%", range=[low, high], nticks=6),
            margin={"l": 48, "r": 8, "t": 6, "b": 44}, shapes=shapes, annotations=notes,
        )  # fmt: skip
        words = f"Score of {task} as a share of the dense model's, against memory"
        view = View(task, traces, layout)
        found.append((task, Figure(f"retention-{number}", words, "", "scores", (view,), 230)))
    return found


def _kept(
    rows: Sequence[Member], dense: Member, task: str, column: str, factor: float, style: Sequence[str]
) -> Trace:
    name, colour, symbol = style
    found = [
        (at, row, kept)
        for row in rows
        if (kept := retention(row, dense, task)) is not None and (at := row.value(column)) is not None
    ]
    hovers = [
        escaped(
            f"{row.name}, {quantity(at, 'B')}",
            f"{task}: {digits(kept.score)} against {digits(kept.dense)} of the dense model",
            f"beside it {change_with_error(kept.ratio, kept.stderr)}",
        )
        for at, row, kept in found
    ]
    return scatter(
        (at / factor for at, _, _ in found), (kept.ratio for _, _, kept in found), name,
        error_y=bars([kept.stderr or 0.0 for _, _, kept in found], colour=colour),
        mode="lines+markers" if name == "front" else "markers", line=stroke(colour, 1.5),
        marker={"size": 7, "symbol": symbol, "color": colour}, hovertext=hovers, hoverinfo="text",
    )  # fmt: skip


def latency_figure(checks: tuple[LatencyCheck, ...]) -> Figure | None:
    """Predicted against measured decode latency, the diagonal and a band; ``None`` without checks."""
    if not checks:
        return None
    values = [value for check in checks for value in (check.predicted_s, check.measured_s)]
    factor, unit = scale_of(max(values), "s")
    low, high = 0.93 * min(values) / factor, 1.07 * max(values) / factor
    edges = (1 - _LATENCY_BAND, 1 + _LATENCY_BAND)
    band = [low * edges[0], high * edges[0], high * edges[1], low * edges[1]]
    still = {"mode": "lines", "hoverinfo": "skip"}
    data = [
        area([low, high, high, low], band),
        scatter([low, high], [low, high], line=stroke("--ink-soft", dash="dot"), **still),
        scatter(
            (check.predicted_s / factor for check in checks), (check.measured_s / factor for check in checks),
            mode="markers", marker=mark("circle", 10, "--accent", width=1),
            hovertext=[_check_words(check) for check in checks], hoverinfo="text",
        ),
    ]  # fmt: skip
    axes = {
        f"{which}axis": house_axis(f"{word} ({unit} per token)", range=[low, high])
        for which, word in (("x", "predicted"), ("y", "measured"))
    }
    caption = f"Dotted: equal. Shaded: within {100 * _LATENCY_BAND:.0f} %."
    view = View("decode", data, house_layout(**axes))
    return Figure("latency", "Predicted against measured time per token", caption, "latencies", (view,), 340)


def _check_words(check: LatencyCheck) -> str:
    times = f"predicted {quantity(check.predicted_s, 's')}, measured {quantity(check.measured_s, 's')}"
    error = change(check.predicted_s / check.measured_s) if check.measured_s > 0 else "unknown"
    return escaped(check.name, times, f"error {error}", check.note)
