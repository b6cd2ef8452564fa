"""Every row of the front file as a table."""

from __future__ import annotations

from paretune.reports.comparison import cost, dense_row, mean_retention, task_names
from paretune.reports.markup import Child, Safe, element, joined, table
from paretune.reports.numerals import digits, measured, percent, quantity
from paretune.reports.reading import RunFolder
from paretune.reports.sections.compared import compared_badge
from paretune.reports.wording import block_count, configuration_words, layer_groups
from paretune.spaces.result import FrontFile, Member


def member_table(folder: RunFolder) -> Safe:
    """Every row: size, quality, latency, tasks, configuration."""
    front, dense = folder.front, dense_row(folder.front)
    tasks = task_names(front)
    groups = layer_groups(front, folder.run)
    headers: list[Child] = [
        "name",
        "size",
        "bits",
        "KL (nat)",
        "KL p99",
        "same top",
        "perplexity",
        "time/token",
    ]
    headers += ["tasks"] if tasks else []
    rows = []
    for member in front.members:
        cells: list[Child] = [_name(member, front), *_numbers(member)]
        if tasks:
            kept = None if dense is None else mean_retention(member, dense, tasks)
            cells.append("" if kept is None else percent(kept))
        rows.append([*cells, "; ".join(configuration_words(member.config, groups, block_count(groups)))])
    return table(headers, [*rows, *_compared(folder, dense, tasks)], below=True)


def _compared(folder: RunFolder, dense: Member | None, tasks: tuple[str, ...]) -> list[list[Child]]:
    """Models that were judged beside the front, in the same columns."""
    rows = []
    for model in () if folder.compared is None else folder.compared.models:
        row = model.as_row()
        cells: list[Child] = [joined([element("b", model.label), " ", compared_badge()]), *_numbers(row)]
        if tasks:
            kept = None if dense is None else mean_retention(row, dense, tasks)
            cells.append("" if kept is None else percent(kept))
        rows.append([*cells, "; ".join(model.words())])
    return rows


def _name(member: Member, front: FrontFile) -> Safe:
    badge = element("span", "recommended", class_="badge") if member.name == front.recommended else None
    mark = element("span", "front", class_="badge quiet") if member.on_front and badge is None else None
    return joined([element("b", member.name), " ", badge, mark])


def _numbers(member: Member) -> list[Child]:
    size, kl = member.value("weight_bytes"), member.measurements.get("kl")
    agreement, latency = member.value("top1_agreement"), cost(member, "tpot_s")
    return [
        "" if size is None else quantity(size, "B"),
        _plain(member, "average_bits"),
        "" if kl is None else measured(kl).removesuffix(" nat"),
        _plain(member, "kl_p99"),
        "" if agreement is None else percent(agreement),
        _plain(member, "perplexity"),
        "" if latency is None else ("~ " if latency[1] else "") + quantity(latency[0].value, "s"),
    ]


def _plain(member: Member, column: str) -> str:
    value = member.value(column)
    return "" if value is None else digits(value)
