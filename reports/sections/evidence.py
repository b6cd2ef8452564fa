"""The evidence: front, layer map, capabilities, latency, cost of the search."""

from __future__ import annotations

from reports.comparison import task_names
from reports.figures.axes import cost_axes
from reports.figures.classes import equivalence_classes
from reports.figures.front import front_figure
from reports.figures.latency import latency_figure
from reports.figures.layers import layer_figure
from reports.figures.retention import retention_figures
from reports.figures.spending import proposer_figure, stage_figure
from reports.markup import Safe, element
from reports.numerals import counted, digits, duration, percent
from reports.reading import RunFolder
from reports.sections.members import member_table
from reports.sections.section import Section, paragraph, place, stacked
from reports.shortfalls import latency_error, latency_words


def front_section(folder: RunFolder) -> Section | None:
    """The front with its table."""
    figure = front_figure(folder)
    table = element("details", element("summary", "All rows as a table"), member_table(folder))
    if figure is None:
        return Section("front", "The front", stacked(paragraph("No member has both a size and a KL."), table))
    windows = folder.run.texts.get("report", {}).get("windows")
    on = (
        f" on {windows} windows of the report text, which no search saw" if windows else " on the report text"
    )
    caption = (
        f"Lower and further left is better. KL is read{on}; bars are two standard errors over windows. "
        "A shaded box holds members that two paired standard errors cannot tell apart; its marker is the cheapest, or the pick."
    )
    return Section(
        "front",
        "The front",
        stacked(paragraph(_front_words(folder)), place(figure, caption), table),
        [figure],
    )


def _front_words(folder: RunFolder) -> str:
    members = [member for member in folder.front.members if member.on_front]
    axes = cost_axes(folder.front)
    classes = equivalence_classes(members, axes[0], folder.front.pick) if axes else ()
    told = f", {len(classes)} of which can be told apart" if 0 < len(classes) < len(members) else ""
    volume = f" Hypervolume {digits(folder.front.hypervolume, 4)} against the reference point "
    point = ", ".join(f"{name} {digits(value)}" for name, value in folder.front.reference_point.items())
    tried = (
        f" out of {counted(len({t.digest for t in folder.trials}), 'candidate')} tried"
        if folder.trials
        else ""
    )
    return f"Nothing beats these {counted(len(members), 'configuration')}{told}{tried}.{volume}({point})."


def layer_section(folder: RunFolder) -> Section | None:
    """Where the bits went."""
    figure = layer_figure(folder)
    if figure is None:
        return None
    caption = "Rows are groups of linears that share a choice, columns blocks. A ring: part of the weights is zero. A cross: the block is cut."
    return Section("layers", "Where the bits went", place(figure, caption), [figure])


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
    on = f" on {' or '.join(items)} items" if items and len(items) <= 2 else ""
    words = (
        f"Score of {counted(len(task_names(folder.front)), 'task')}{on}, as a share of the dense model's, against memory. "
        "Filled: the front; open squares: uniform configurations; bars: one standard error of the share."
    )
    return Section(
        "capabilities",
        "What it can still do",
        stacked(paragraph(words), element("div", *panels, class_="panels")),
        figures,
    )


def latency_section(folder: RunFolder) -> Section | None:
    """Whether the latency model can be believed."""
    figure, error = latency_figure(folder.run.latency_checks), latency_error(folder.run.latency_checks)
    if figure is None or error is None:
        return None
    notes = sorted({check.note for check in folder.run.latency_checks if check.note})
    caption = "Dotted: equal. Shaded: within 10 %. " + " ".join(notes)
    return Section(
        "latency",
        "Predicted against measured",
        stacked(paragraph(latency_words(error)), place(figure, caption)),
        [figure],
    )


def spending_section(folder: RunFolder) -> Section | None:
    """What the search cost."""
    stages, proposers = stage_figure(folder), proposer_figure(folder.trials)
    figures = [figure for figure in (stages, proposers) if figure is not None]
    if not figures:
        return None
    halves = []
    if stages is not None:
        halves.append(_half("Time by stage", place(stages)))
    if proposers is not None:
        halves.append(_half("By proposer", place(proposers)))
    return Section(
        "cost",
        "What the search cost",
        stacked(paragraph(_spent_words(folder)), element("div", *halves, class_="halves")),
        figures,
    )


def _half(title: str, body: Safe) -> Safe:
    return element("div", element("h3", title), body)


def _spent_words(folder: RunFolder) -> str:
    total, run = sum(folder.run.spent.values()), folder.run
    words = f"{duration(total)} in all; {digits(run.evaluations)} evaluations of 16,384 tokens"
    if folder.trials:
        words += f" in {counted(len(folder.trials), 'record')}"
    search = run.spent.get("search", 0.0)
    return (
        f"{words}; the search itself took {percent(search / total)} of the time."
        if total and search
        else f"{words}."
    )
