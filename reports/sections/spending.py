"""What the search cost: seconds by stage, records and evaluations by sampler."""

from __future__ import annotations

from paretune.reports.figures.spending import sampler_figure, stage_figure
from paretune.reports.markup import element
from paretune.reports.numerals import counted, digits, duration, percent
from paretune.reports.reading import RunFolder
from paretune.reports.sections.section import Section, paragraph, place, stacked


def spending_section(folder: RunFolder) -> Section | None:
    """Both charts side by side; ``None`` where nothing was counted."""
    titled = (("Time by stage", stage_figure(folder)), ("By sampler", sampler_figure(folder.trials)))
    drawn = [(title, figure) for title, figure in titled if figure is not None]
    if not drawn:
        return None
    halves = [element("div", element("h3", title), place(figure)) for title, figure in drawn]
    body = stacked(paragraph(_words(folder)), element("div", *halves, class_="halves"))
    return Section("cost", "What the search cost", "Cost", body, [figure for _, figure in drawn])


def _words(folder: RunFolder) -> str:
    run, total = folder.run, sum(folder.run.spent.values())
    parts = [f"{duration(total)} in all"] if total else []
    spent = run.evaluations or sum(trial.evaluations for trial in folder.trials)
    counting = f"{digits(spent)} evaluations of 16,384 tokens"
    parts.append(f"{counting} in {counted(len(folder.trials), 'record')}" if folder.trials else counting)
    if total and run.spent.get("search"):
        parts.append(f"the search itself took {percent(run.spent['search'] / total)} of the time")
    return f"{'; '.join(parts)}."
