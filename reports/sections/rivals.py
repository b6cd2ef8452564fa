"""Against uniform configurations, byte for byte: the front, and the pruned models and sparse candidates."""

from __future__ import annotations

from paretune.reports.comparison import best_member_within, best_uniform_within, difference, uniforms
from paretune.reports.markup import Child, Safe, bullet_list, element, joined, table
from paretune.reports.numerals import digits, measured, quantity, with_error
from paretune.reports.reading import RunFolder
from paretune.reports.sections.section import Section, paragraph, stacked
from paretune.reports.wording import block_count, layer_groups, pruned_words, sparse
from paretune.spaces.result import FrontFile, Member


def uniform_table(front: FrontFile) -> Safe | None:
    """Each uniform row against the best member that is no larger, paired by window."""
    rows = [_duel(front, uniform) for uniform in uniforms(front)]
    if not rows:
        return None
    headers: list[Child] = [
        "uniform",
        "size",
        "KL (nat)",
        "best member no larger",
        "size",
        "KL (nat)",
        "KL lower by",
    ]
    return stacked(element("h3", "At the bytes of each uniform configuration"), table([*headers, ""], rows))


def _duel(front: FrontFile, uniform: Member) -> list[Child]:
    size, kl = uniform.measurements["weight_bytes"], uniform.measurements["kl"]
    member = best_member_within(front, size.value)
    cells: list[Child] = [
        element("b", uniform.name),
        quantity(size.value, "B"),
        measured(kl).removesuffix(" nat"),
    ]
    if member is None:
        return [*cells, "no searched member is that small", "", "", "", ""]
    gap = difference(kl, member.measurements["kl"])
    verdict, style = "tie", "quiet"
    if gap.clear:
        verdict, style = ("better", "good") if gap.value > 0 else ("worse", "bad")
    return [
        *cells,
        element("b", member.name),
        _size(member),
        measured(member.measurements["kl"]).removesuffix(" nat"),
        with_error(gap.value, gap.stderr) + ("" if gap.paired else " (unpaired)"),
        element("span", verdict, class_=f"badge {style}"),
    ]


def _size(member: Member) -> str:
    size = member.value("weight_bytes")
    return "" if size is None else quantity(size, "B")


def probe_section(folder: RunFolder) -> Section | None:
    """Why pruned models and sparsity win or lose here."""
    probes = [member for member in folder.front.members if member.kind == "probe"]
    if not probes:
        return None
    blocks = block_count(layer_groups(folder.front, folder.run))
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
        "Smaller pruned models and zeros were tried on purpose, each beside the best uniform configuration that "
        "is no larger. Zeros are stored like any other weight, so they save no bytes; they can only pay "
        "where the engine skips them. A tie is a difference of less than two paired standard errors."
    )
    notes = [joined([element("b", m.name), ": ", m.note]) for m in probes if m.note]
    body = stacked(
        paragraph(words), table(headers, rows, numbers_from=2), bullet_list(notes) if notes else None
    )
    return Section("probes", "Do pruned models and sparsity pay?", "Pruned models and sparsity", body)


def _probe_row(front: FrontFile, member: Member, blocks: int) -> list[Child]:
    size, kl = member.measurements.get("weight_bytes"), member.measurements.get("kl")
    rival = None if size is None else best_uniform_within(front, size.value, but=member.name)
    beside, verdict = "", "no uniform configuration is that small"
    if rival is not None and kl is not None:
        gap = difference(rival.measurements["kl"], kl)
        beside = digits(kl.value / rival.measurements["kl"].value, 2) + " times" if rival.value("kl") else ""
        verdict = ("wins" if gap.value > 0 else "loses") if gap.clear else "tie"
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
    pruned = pruned_words(member.config, blocks)
    if pruned:
        parts.append(f"pruned: {pruned}")
    if sparse(member.config):
        found = next(
            choice.sparsity for choice in member.config.layers.values() if choice.sparsity is not None
        )
        parts.append(f"{found.fraction:.0%} zeros ({found.pattern}, {found.criterion})".replace("%", " %"))
    return "; ".join(parts)
