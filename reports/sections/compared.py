"""Models that were judged beside the front and not searched."""

from __future__ import annotations

from paretune.reports.compared_rows import Beside, beside_front
from paretune.reports.markup import Child, Safe, element, joined, table
from paretune.reports.reading import RunFolder
from paretune.reports.sections.section import Section, paragraph, stacked


def compared_section(folder: RunFolder) -> Section | None:
    """Each beside the member that is nearest in bytes."""
    file = folder.compared
    if file is None or not file.models:
        return None
    words = (
        "Existing checkpoints and siblings of other sizes, read on the same report text and scored on the same "
        "items as the front; nobody searched them. Each stands beside the member of the front that is nearest "
        "in bytes. Differences are paired by window or item where both have the same ones; bold: more than two "
        "standard errors. Bits per byte can be compared between tokenizers, perplexity cannot."
    )
    panels = [_panel(beside_front(file, folder.front, model)) for model in file.models]
    body = stacked(paragraph(words), *panels)
    return Section("compared", "Beside other models", "Other models", body)


def compared_badge() -> Safe:
    """What such a row is marked with wherever it stands."""
    return element("span", "compared, not searched", class_="badge quiet")


def _panel(beside: Beside) -> Safe:
    model, member = beside.model, beside.member
    headers: list[Child] = [
        "",
        model.label,
        "no front with sizes" if member is None else f"{member.name} (front)",
        "difference",
    ]
    rows: list[list[Child]] = [
        [row.heading, row.own, row.nearest, element("b", row.gap) if row.clear else row.gap]
        for row in beside.rows
    ]
    title = joined([element("h3", model.label, " ", compared_badge())])
    return stacked(title, paragraph("; ".join(model.words()), class_="described"), table(headers, rows))
