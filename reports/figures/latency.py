"""Predicted against measured decode latency: two columns that are never mixed, side by side."""

from __future__ import annotations

from reports.figures.figure import Figure, Variant, axis, base_layout, lines
from reports.numerals import change, quantity, scale_of
from spaces.result import LatencyCheck

_BAND = 0.1


def latency_figure(checks: tuple[LatencyCheck, ...]) -> Figure | None:
    """A point a checked candidate, the diagonal, and a band of ten per cent; ``None`` without checks."""
    if not checks:
        return None
    values = [value for check in checks for value in (check.predicted_s, check.measured_s)]
    factor, unit = scale_of(max(values), "s")
    low, high = 0.93 * min(values) / factor, 1.07 * max(values) / factor
    # A span at least as wide as a tenth, so that equal candidates do not look scattered.
    low, high = min(low, 0.9 * high), max(high, 1.1 * low)
    band = {
        "type": "scatter",
        "x": [low, high, high, low],
        "y": [low * (1 - _BAND), high * (1 - _BAND), high * (1 + _BAND), low * (1 + _BAND)],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": "--accent-faint",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }
    diagonal = {
        "type": "scatter",
        "x": [low, high],
        "y": [low, high],
        "mode": "lines",
        "line": {"width": 1, "dash": "dot", "color": "--ink-soft"},
        "hoverinfo": "skip",
    }
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
    alternative = "Predicted against measured time per token"
    return Figure("latency", alternative, (Variant("decode", [band, diagonal, points], layout),), height=340)


def _hover(check: LatencyCheck) -> str:
    error = change(check.predicted_s / check.measured_s) if check.measured_s > 0 else "unknown"
    return lines(
        check.name,
        f"predicted {quantity(check.predicted_s, 's')}, measured {quantity(check.measured_s, 's')}",
        f"error {error}",
        check.note,
    )
