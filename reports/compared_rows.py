"""A compared model beside the member of the front that is nearest in bytes: each number, and the difference."""

from __future__ import annotations

from dataclasses import dataclass, replace

from paretune.reports.compared import ComparedFile, ComparedModel, member_bits_per_byte, nearest_member
from paretune.reports.comparison import Difference, difference, task_names
from paretune.reports.numerals import MINUS, change, measured, with_error
from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FrontFile, Member

_COSTS = {"weight_bytes": "size", "memory_bytes": "memory"}
_QUALITY = {
    "kl": "KL (nat)",
    "top1_agreement": "same top",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}
_RATIOS = (*_COSTS, "perplexity")
"""Compared by ratio: sizes are exact, and the perplexities of windows do not average to that of the text."""


@dataclass(frozen=True)
class ComparedRow:
    """One quantity of both.

    Attributes:
        heading: what it is.
        own, nearest: numbers for people, empty where nothing was measured.
        gap: compared model less member, with its paired standard error where windows or items are common.
        clear: whether that is more than two standard errors.
    """

    heading: str
    own: str
    nearest: str
    gap: str = ""
    clear: bool = False


@dataclass(frozen=True)
class Beside:
    """A compared model and its neighbour on the front, ``None`` where the front has no sizes."""

    model: ComparedModel
    member: Member | None
    rows: tuple[ComparedRow, ...]


def beside_front(file: ComparedFile, front: FrontFile, model: ComparedModel) -> Beside:
    """Everything that either was measured for."""
    member = nearest_member(front, model.value("weight_bytes") or 1.0)
    other = {} if member is None else dict(member.measurements)
    bits = None if member is None else member_bits_per_byte(file, member)
    if bits is not None:
        other["bits_per_byte"] = bits
    tasks = {f"task.{name}": name for name in task_names(front)}
    rows = [
        _row(column, heading, model.measurements.get(column), other.get(column))
        for column, heading in {**_COSTS, **_QUALITY, **tasks}.items()
        if column in model.measurements or column in other
    ]
    return Beside(model, member, tuple(rows))


def _row(column: str, heading: str, own: Measurement | None, other: Measurement | None) -> ComparedRow:
    shown = ComparedRow(heading, _text(own), _text(other))
    if own is None or other is None:
        return shown
    if column in _RATIOS:
        return replace(shown, gap=change(own.value / other.value) if other.value else "")
    gap = difference(own, other)
    return replace(shown, gap=_gap(gap), clear=gap.clear)


def _text(found: Measurement | None) -> str:
    return "" if found is None else measured(found).removesuffix(" nat").removesuffix(" bit")


def _gap(gap: Difference) -> str:
    sign = MINUS if gap.value < 0 else "+" if gap.value > 0 else ""
    words = f"{sign}{with_error(abs(gap.value), gap.stderr)}"
    return words if gap.paired or gap.stderr is None else f"{words} (unpaired)"
