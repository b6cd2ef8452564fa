"""Predicted against measured decode latency: two columns that are never mixed, side by side."""

from __future__ import annotations

from paretune.reports.figures.figure import Figure, Trace, Variant, axis, base_layout, lines
from paretune.reports.numerals import change, quantity, scale_of
from paretune.spaces.result import LatencyCheck

_BAND = 0.1


def latency_figure(checks: tuple[LatencyCheck, ...]) -> Figure | None:
    """A point a checked candidate, the diagonal, and a band of ten per cent; ``None`` without checks."""
    if not checks:
        return None
    values = [value for check in checks for value in (check.predicted_s, check.measured_s)]
    factor, unit = scale_of(max(values), "s")
    low, high = 0.93 * min(values) / factor, 1.07 * max(values) / factor
    points = {
        "type": "scatter",
        "x": [check.predicted_s / factor for check in checks],
        "y": [check.measured_s / factor for check in checks],
        "mode": "markers",
        "marker": {"size": 10, "color": "--accent", "line": {"width": 1, "color": "--card"}},
        "hovertext": [_hover(check) for check in checks],
        "hoverinfo": "text",
    }
    layout = base_layout(
        xaxis=axis(f"predicted ({unit} per token)", range=[low, high]),
        yaxis=axis(f"measured ({unit} per token)", range=[low, high]),
    )
    view = Variant("decode", [*_ground(low, high), points], layout)
    return Figure("latency", "Predicted against measured time per token", (view,), height=340)


def _ground(low: float, high: float) -> list[Trace]:
    """The band and the diagonal."""
    still = {"type": "scatter", "mode": "lines", "hoverinfo": "skip"}
    corners = [low * (1 - _BAND), high * (1 - _BAND), high * (1 + _BAND), low * (1 + _BAND)]
    area = {"fill": "toself", "fillcolor": "--accent-faint", "line": {"width": 0}}
    line = {"width": 1, "dash": "dot", "color": "--ink-soft"}
    return [
        {**still, **area, "x": [low, high, high, low], "y": corners},
        {**still, "x": [low, high], "y": [low, high], "line": line},
    ]


def _hover(check: LatencyCheck) -> str:
    error = change(check.predicted_s / check.measured_s) if check.measured_s > 0 else "unknown"
    return lines(
        check.name,
        f"predicted {quantity(check.predicted_s, 's')}, measured {quantity(check.measured_s, 's')}",
        f"error {error}",
        check.note,
    )
