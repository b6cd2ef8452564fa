"""The tables of the page that take some comparing: rows, uniform configurations, scores, probes, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paretune.reports.comparison import (
    best_member_within,
    best_uniform_within,
    dense_row,
    mean_retention,
    retention,
    task_names,
    uniforms,
)
from paretune.reports.front_figure import COMPARED
from paretune.reports.reading import RunFolder
from paretune.reports.table import cell
from paretune.reports.wording import block_count, configuration_words, pruned_words, sparse
from paretune.spaces.legality import FusedGroup
from paretune.spaces.numerals import (
    change,
    change_with_error,
    digits,
    measured,
    percent,
    quantity,
    signed,
)
from paretune.spaces.refusals import by_reason
from paretune.spaces.result import FrontFile, Member
from paretune.spaces.statistics import difference

_NAMES_SHOWN = 4


@dataclass(frozen=True)
class Cell:
    """A cell that is more than text: ``strong`` or ``code``, with badges (words and kind) after it."""

    text: str
    style: str = ""
    badges: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Table:
    """A table with a caption.

    Attributes:
        headers: one per column.
        rows: cells, one per column; one cell more stands below the others over the whole width.
        numbers_from: columns from here on are set as numbers.
        anchor: what figures point at.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numbers_from: int = 1
    anchor: str = ""


def duel_table(front: FrontFile) -> Table | None:
    """Each uniform row against the best member that is no larger, paired by window; ``None`` without members."""
    rows: list[list[Cell | str]] = []
    if not any(member.kind == "searched" for member in front.members):
        return None
    for uniform in uniforms(front):
        size, kl = uniform.measurements["weight_bytes"], uniform.measurements["kl"]
        cells: list[Cell | str] = [Cell(uniform.name, "strong"), quantity(size.value, "B"), _nat(uniform)]
        member = best_member_within(front, size.value)
        if member is None:
            rows.append([*cells, "no searched member is that small", "", "", "", ""])
            continue
        gap = difference(kl, member.measurements["kl"])
        verdict = ("better", "good") if gap.value > 0 else ("worse", "bad")
        lower = signed(gap.value, gap.stderr) + ("" if gap.paired else " (unpaired)")
        badge = Cell("", badges=(verdict if gap.clear else ("tie", "quiet"),))
        rows.append([*cells, Cell(member.name, "strong"), size_words(member), _nat(member), lower, badge])
    headers = (
        "uniform", "size", "KL (nat)", "best member no larger", "size", "KL (nat)", "KL lower by", "verdict",
    )  # fmt: skip
    compared = any(isinstance(row[-1], Cell) for row in rows)
    return Table("At the bytes of each uniform configuration", headers, rows) if compared else None


def member_columns(front: FrontFile) -> dict[str, Callable[[Member], str]]:
    """What can be said of a row, by heading; empty where nothing was measured."""
    tasks, dense = task_names(front), dense_row(front)
    return {
        "size": size_words,
        "bits": lambda row: _plain(row.value("average_bits")),
        "KL, report text (nat)": _nat,
        "KL, search text (nat)": lambda row: _plain(row.value("kl_search")),
        "report / search": lambda row: "" if (x := row.log_optimism) is None else digits(math.exp(x)),
        "KL p99": lambda row: _plain(row.value("kl_p99")),
        "same top-1": lambda row: "" if (x := row.value("top1_agreement")) is None else percent(x),
        "perplexity": lambda row: _plain(row.value("perplexity")),
        "time/token, measured": lambda row: _seconds(row, "tpot_s"),
        "time/token, predicted": lambda row: _seconds(row, "tpot_s_predicted"),
        "tasks vs dense": lambda row: (
            "" if dense is None or (kept := mean_retention(row, dense, tasks)) is None else change(kept)
        ),
    }


def row_table(folder: RunFolder, groups: tuple[FusedGroup, ...]) -> Table:
    """Every row with every number; columns that no row has a number in are left out."""
    front = folder.front
    blocks = block_count(groups)
    shown: list[tuple[Member, Cell, str]] = []
    for member in front.members:
        badge = ("recommended", "") if member.name == front.recommended else ("front", "quiet")
        badges = (badge,) if member.on_front or not badge[1] else ()
        words = "; ".join(configuration_words(member.config, groups, blocks))
        shown.append((member, Cell(member.name, "strong", badges), words))
    shown += [
        (model.as_row(), Cell(model.label, "strong", ((COMPARED, "quiet"),)), "; ".join(model.words()))
        for model in (() if folder.compared is None else folder.compared.models)
    ]
    kept = {
        name: tell for name, tell in member_columns(front).items() if any(tell(row) for row, _, _ in shown)
    }
    rows: list[list[Cell | str]] = [
        [name, *(tell(row) for tell in kept.values()), words] for row, name, words in shown
    ]
    return Table("All rows, with their configurations", ("name", *kept), rows, anchor="rows")


def _plain(value: float | None) -> str:
    return "" if value is None else digits(value)


def size_words(member: Member) -> str:
    """Bytes of a row, empty where they are unknown."""
    size = member.value("weight_bytes")
    return "" if size is None else quantity(size, "B")


def _nat(member: Member) -> str:
    kl = member.measurements.get("kl")
    return "" if kl is None else measured(kl).removesuffix(" nat")


def _seconds(member: Member, column: str) -> str:
    """Measured times in measured columns, predicted ones in predicted columns, wherever they were stored."""
    value = cell(member, column)
    return quantity(value, "s") if isinstance(value, float) else ""


def score_table(front: FrontFile) -> Table:
    """Score and retention of every row on every task."""
    tasks, dense = task_names(front), dense_row(front)
    rows: list[list[Cell | str]] = []
    for member in front.members:
        cells = []
        for task in tasks:
            found = member.measurements.get(f"task.{task}")
            kept = None if dense is None else retention(member, dense, task)
            share = "" if kept is None else f" ({change_with_error(kept.ratio, kept.stderr)})"
            cells.append("" if found is None else digits(found.value) + share)
        if any(cells):
            rows.append([Cell(member.name, "strong"), *cells])
    caption = "Scores, and in brackets how far from the dense model's, with the standard error"
    return Table(caption, ("name", *tasks), rows, anchor="scores")


def probe_table(front: FrontFile, blocks: int) -> Table | None:
    """Pruned models and sparse candidates, each beside the best uniform row that is no larger."""
    rows: list[list[Cell | str]] = []
    for member in (member for member in front.members if member.kind == "probe"):
        size, kl = member.measurements.get("weight_bytes"), member.measurements.get("kl")
        rival = None if size is None else best_uniform_within(front, size.value, but=member.name)
        beside, verdict = "", "no uniform configuration is that small"
        if rival is not None and kl is not None:
            level = rival.measurements["kl"]
            gap = difference(level, kl)
            beside = digits(kl.value / level.value, 2) + " times" if level.value else ""
            verdict = ("wins" if gap.value > 0 else "loses") if gap.clear else "tie"
        pruned = pruned_words(member.config, blocks)
        zeros = next((c.sparsity for c in member.config.layers.values() if c.sparsity is not None), None)
        what = [f"pruned: {pruned}" if pruned else ""]
        if sparse(member.config) and zeros is not None:
            what.append(f"{100 * zeros.fraction:.0f} % zeros ({zeros.pattern}, {zeros.criterion})")
        badge = Cell("", badges=((verdict, "good" if verdict == "wins" else "quiet"),))
        name = Cell(member.name, "strong")
        told = "; ".join(part for part in what if part)
        rows.append(
            [name, told, size_words(member), _nat(member), "" if rival is None else rival.name, beside, badge]
        )
    headers = ("probe", "what it is", "size", "KL (nat)", "uniform of its bytes", "KL beside it", "verdict")
    return Table("Pruned models and sparse candidates", headers, rows, 2) if rows else None


def refused_table(refused: dict[str, str]) -> Table | None:
    """What the space does not hold, by reason."""
    rows: list[list[Cell | str]] = []
    for reason, names in by_reason(refused).items():
        more = "" if len(names) <= _NAMES_SHOWN else f" and {len(names) - _NAMES_SHOWN} more"
        rows.append([", ".join(names[:_NAMES_SHOWN]) + more, reason])
    return (
        Table("Choices that are not in the space", ("not in the space", "because"), rows, 9) if rows else None
    )
