"""The evidence: front, layer map, capabilities, latency."""

from __future__ import annotations

from paretune.reports.comparison import task_names
from paretune.reports.figures.axes import cost_axes
from paretune.reports.figures.classes import equivalence_classes
from paretune.reports.figures.front import front_figure
from paretune.reports.figures.latency import latency_figure
from paretune.reports.figures.layers import layer_figure
from paretune.reports.figures.retention import retention_figures
from paretune.reports.latency import latency_error, latency_words
from paretune.reports.markup import Safe, element, table, unbroken
from paretune.reports.numerals import change, counted, digits, quantity
from paretune.reports.reading import RunFolder
from paretune.reports.sections.members import member_table
from paretune.reports.sections.rivals import uniform_table
from paretune.reports.sections.section import Section, paragraph, place, stacked
from paretune.spaces.metrics import METRICS
from paretune.spaces.result import LatencyCheck


def front_section(folder: RunFolder) -> Section:
    """The front with its table."""
    figure = front_figure(folder)
    rows = element(
        "details", element("summary", "All rows as a table (~ marks a predicted time)"), member_table(folder)
    )
    if figure is None:
        body = stacked(paragraph("No member of the front has both a size and a KL above zero."), rows)
        return Section("front", "The front", "Front", body)
    windows = folder.run.texts.get("report", {}).get("windows")
    on = f"{windows} windows of the report text, which no search saw" if windows else "the report text"
    caption = (
        f"Lower and further left is better. KL is read on {on}; bars are two standard errors over windows. "
        "A shaded box holds members that two paired standard errors cannot tell apart; its marker is the "
        "cheapest of them, or the recommended configuration."
    )
    body = stacked(
        paragraph(unbroken(_front_words(folder))), place(figure, caption), uniform_table(folder.front), rows
    )
    return Section("front", "The front", "Front", body, [figure])


def _front_words(folder: RunFolder) -> str:
    members = [member for member in folder.front.members if member.on_front]
    axes = cost_axes(folder.front)
    classes = equivalence_classes(members, axes[0], folder.front.recommended) if axes else ()
    told = f", {len(classes)} of which can be told apart" if 0 < len(classes) < len(members) else ""
    candidates = len({trial.digest for trial in folder.trials})
    tried = f"Of {counted(candidates, 'candidate')} tried, nothing" if candidates else "Nothing"
    point = ", ".join(_level(name, value) for name, value in folder.front.reference_point.items())
    volume = f"Hypervolume {digits(folder.front.hypervolume, 4)} against the reference point ({point})."
    return f"{tried} beats these {len(members)}{told}. {volume}"


def _level(name: str, value: float) -> str:
    metric = METRICS.get(name)
    return f"{name} {digits(value)}" if metric is None else f"{metric.label}: {quantity(value, metric.unit)}"


def layer_section(folder: RunFolder) -> Section | None:
    """Where the bits went."""
    figure = layer_figure(folder)
    if figure is None:
        return None
    caption = (
        "Rows are groups of linears that share a choice, columns are blocks. A dot: part of the weights is "
        "zero. A cross: the block is cut."
    )
    return Section("layers", "Where the bits went", "Layers", place(figure, caption), [figure])


def capability_section(folder: RunFolder) -> Section | None:
    """What the model can still do."""
    figures = retention_figures(folder)
    if not figures:
        return None
    panels = [
        element("div", element("h3", figure.variants[0].label), place(figure), class_="panel")
        for figure in figures
    ]
    items = sorted({str(task["items"]) for task in folder.run.tasks.values() if "items" in task})
    on = f" on {' or '.join(items)} items each" if items and len(items) <= 2 else ""
    beside = "; hexagons: models that were compared and not searched" if folder.compared else ""
    words = (
        f"Score of {counted(len(task_names(folder.front)), 'task')}{on}, as a share of the dense model's, "
        f"against memory. Filled: the front; open squares: uniform configurations{beside}; bars: one standard "
        "error of the share."
    )
    body = stacked(paragraph(words), element("div", *panels, class_="panels"))
    return Section("capabilities", "What it can still do", "Capabilities", body, figures)


def latency_section(folder: RunFolder) -> Section | None:
    """Whether the latency model can be believed."""
    checks = folder.run.latency_checks
    figure, error = latency_figure(checks), latency_error(checks)
    if figure is None or error is None:
        return None
    drawing = place(figure, "Dotted: equal. Shaded: within 10 %.")
    halves = element("div", element("div", drawing), element("div", _check_table(checks)), class_="halves")
    body = stacked(paragraph(latency_words(error)), halves)
    return Section("latency", "Predicted against measured", "Latency", body, [figure])


def _check_table(checks: tuple[LatencyCheck, ...]) -> Safe:
    """Both columns, the error, and each distinct note once."""
    rows = [
        [
            element("b", check.name),
            quantity(check.predicted_s, "s"),
            quantity(check.measured_s, "s"),
            change(check.predicted_s / check.measured_s) if check.measured_s > 0 else "",
        ]
        for check in checks
    ]
    notes = dict.fromkeys(check.note for check in checks if check.note)
    return stacked(
        table(["candidate", "predicted", "measured", "error"], rows),
        *(paragraph(note, class_="described") for note in notes),
    )
