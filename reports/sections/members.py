"""Tables of members: every row of the front file, and the probes with their verdict."""

from __future__ import annotations

from reports.comparison import best_uniform_within, cost, dense_row, difference, mean_retention, task_names
from reports.markup import Child, Safe, element, joined, table
from reports.numerals import digits, measured, percent, quantity
from reports.reading import RunFolder
from reports.sections.section import Section, paragraph, stacked
from reports.wording import block_count, configuration_words, site_groups, sparse, student_words
from spaces.result import FrontFile, Member


def member_table(folder: RunFolder) -> Safe:
    """Every row: size, quality, latency, tasks, configuration."""
    front, dense = folder.front, dense_row(folder.front)
    tasks = task_names(front)
    groups = site_groups(front, folder.run)
    headers: list[Child] = [
        "name",
        "size",
        "bits",
        "KL (nat)",
        "KL p99",
        "same top",
        "perplexity",
        "time per token",
    ]
    headers += ["capabilities"] if tasks else []
    rows = []
    for member in front.members:
        cells: list[Child] = [_name(member, front), *_numbers(member)]
        if tasks:
            kept = None if dense is None else mean_retention(member, dense, tasks)
            cells.append("" if kept is None else percent(kept))
        words = "; ".join(configuration_words(member.config, groups, block_count(groups)))
        rows.append([*cells, element("span", words, class_="words")])
    return table([*headers, "configuration"], rows)


def _name(member: Member, front: FrontFile) -> Safe:
    badge = element("span", "pick", class_="badge") if member.name == front.pick else None
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
        "" if latency is None else quantity(latency[0].value, "s") + (" (predicted)" if latency[1] else ""),
    ]


def _plain(member: Member, column: str) -> str:
    value = member.value(column)
    return "" if value is None else digits(value)


def probe_section(folder: RunFolder) -> Section | None:
    """Why students and sparsity win or lose here."""
    probes = [member for member in folder.front.members if member.kind == "probe"]
    if not probes:
        return None
    blocks = block_count(site_groups(folder.front, folder.run))
    rows = [_probe_row(folder.front, member, blocks) for member in probes]
    headers: list[Child] = [
        "probe",
        "what it is",
        "size",
        "KL (nat)",
        "uniform of its bytes",
        "KL beside it",
        "verdict",
    ]
    words = (
        "Smaller students and zeros were tried on purpose, each beside the best uniform configuration that is no larger. "
        "Zeros are stored like any other weight, so they save no bytes; they can only pay where the engine skips them."
    )
    notes = [element("p", element("b", m.name), ": ", m.note) for m in probes if m.note]
    body = stacked(paragraph(words), table(headers, rows, numbers_from=2), *notes)
    return Section("probes", "Do students and sparsity pay?", body)


def _probe_row(front: FrontFile, member: Member, blocks: int) -> list[Child]:
    size, kl = member.measurements.get("weight_bytes"), member.measurements.get("kl")
    rival = None if size is None else best_uniform_within(front, size.value, but=member.name)
    beside, verdict = "", "no uniform configuration is that small"
    if rival is not None and kl is not None:
        gap = difference(rival.measurements["kl"], kl)
        beside = digits(kl.value / rival.measurements["kl"].value, 2) + " times" if rival.value("kl") else ""
        verdict = ("wins" if gap.value > 0 else "loses") if gap.clear else "cannot be told apart"
    badge = element("span", verdict, class_=f"badge {'good' if verdict == 'wins' else 'quiet'}")
    return [
        element("b", member.name),
        _what(member, blocks),
        "" if size is None else quantity(size.value, "B"),
        "" if kl is None else measured(kl).removesuffix(" nat"),
        "" if rival is None else rival.name,
        beside,
        badge,
    ]


def _what(member: Member, blocks: int) -> str:
    parts = []
    student = student_words(member.config, blocks)
    if student:
        parts.append(f"student: {student}")
    if sparse(member.config):
        found = next(
            choice.sparsity for choice in member.config.sites.values() if choice.sparsity is not None
        )
        parts.append(f"{found.fraction:.0%} zeros ({found.pattern}, {found.criterion})".replace("%", " %"))
    return "; ".join(parts)
