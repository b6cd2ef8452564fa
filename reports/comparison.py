"""What a member is worth beside another: paired differences, ratios, the uniform configurations to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

from paretune.spaces.measurement import Measurement
from paretune.spaces.result import FrontFile, Member
from paretune.spaces.statistics import difference, ratio


def cost(member: Member, column: str) -> tuple[Measurement, bool] | None:
    """A cost and whether it is predicted; the measured one wins where both are there."""
    found = member.measurements.get(column)
    if found is not None:
        return found, found.source == "predicted"
    predicted = member.measurements.get(f"{column}_predicted")
    return None if predicted is None else (predicted, True)


def cost_ratio(member: Member, other: Member, column: str) -> tuple[float, bool] | None:
    """``member / other`` and whether it is of predictions; measured and predicted are never divided."""
    for name, predicted in ((column, False), (f"{column}_predicted", True)):
        first, second = member.measurements.get(name), other.measurements.get(name)
        if first is not None and second is not None and second.value > 0:
            return first.value / second.value, predicted or "predicted" in (first.source, second.source)
    return None


def dense_row(front: FrontFile) -> Member | None:
    """The model as it is."""
    return next((member for member in front.members if member.kind == "dense"), None)


def is_uniform(member: Member) -> bool:
    """Whether it is what nobody has to search for: one width everywhere."""
    return member.kind == "uniform"


def uniforms(front: FrontFile) -> tuple[Member, ...]:
    """Uniform rows that have a size and a KL, smallest first."""
    rows = [
        member
        for member in front.members
        if is_uniform(member) and None not in (member.value("weight_bytes"), member.value("kl"))
    ]
    return tuple(sorted(rows, key=lambda member: (_value(member, "weight_bytes"), _value(member, "kl"))))


def best_uniform_within(front: FrontFile, weight_bytes: float, but: str = "") -> Member | None:
    """The uniform row of lowest KL that is no larger: what the same bytes buy without a search."""
    within = [
        row for row in uniforms(front) if _value(row, "weight_bytes") <= weight_bytes and row.name != but
    ]
    return min(within, key=lambda row: _value(row, "kl"), default=None)


def smallest_uniform_as_good(front: FrontFile, kl: float, but: str = "") -> Member | None:
    """The smallest uniform row whose KL is no higher: what the same quality costs without a search."""
    good = [row for row in uniforms(front) if _value(row, "kl") <= kl and row.name != but]
    return min(good, key=lambda row: _value(row, "weight_bytes"), default=None)


def best_member_within(front: FrontFile, weight_bytes: float) -> Member | None:
    """The searched member (no uniform row, not dense) of lowest KL that is no larger."""
    rows = [
        member
        for member in front.members
        if member.kind in ("searched", "probe")
        and None not in (member.value("weight_bytes"), member.value("kl"))
    ]
    within = [row for row in rows if _value(row, "weight_bytes") <= weight_bytes]
    return min(within, key=lambda row: _value(row, "kl"), default=None)


def picked(front: FrontFile) -> Member | None:
    """The member that the run recommends."""
    return next((member for member in front.members if member.name == front.recommended), None)


def front_members(front: FrontFile) -> tuple[Member, ...]:
    """Everything that nothing dominates (uniform rows may be among them), smallest first."""
    rows = [
        member for member in front.members if member.on_front and member.value("weight_bytes") is not None
    ]
    return tuple(sorted(rows, key=lambda member: _value(member, "weight_bytes")))


def task_names(front: FrontFile) -> tuple[str, ...]:
    """Tasks that any member was scored on, without the ``task.`` prefix, by name."""
    names = {name for member in front.members for name in member.measurements if name.startswith("task.")}
    chosen_by = {f"{name}_search" for name in names}
    return tuple(sorted(name.removeprefix("task.") for name in names - chosen_by))


@dataclass(frozen=True)
class Retention:
    """A task's score as a share of the dense model's.

    Attributes:
        ratio: candidate / dense.
        stderr: of the ratio, paired by item where both know their items.
        drop: how far the score lies below the dense model's.
        clear: whether the interval of that drop (95 %) leaves zero out.
    """

    task: str
    score: float
    dense: float
    ratio: float
    stderr: float | None
    drop: float
    clear: bool


def retention(member: Member, dense: Member, task: str) -> Retention | None:
    """Retention of one task; ``None`` where either was not scored, or the dense model scores zero."""
    own, base = member.measurements.get(f"task.{task}"), dense.measurements.get(f"task.{task}")
    if own is None or base is None or base.value <= 0:
        return None
    kept, gap = ratio(own, base), difference(base, own)
    if kept is None:
        return None
    stderr = 0.0 if member.digest == dense.digest else kept.stderr
    return Retention(task, own.value, base.value, kept.value, stderr, gap.value, gap.clear and gap.value > 0)


def mean_retention(member: Member, dense: Member, tasks: tuple[str, ...]) -> float | None:
    """Mean over the tasks that both were scored on."""
    found = [kept.ratio for task in tasks if (kept := retention(member, dense, task)) is not None]
    return math.fsum(found) / len(found) if found else None


def _value(member: Member, column: str) -> float:
    value = member.value(column)
    assert value is not None, f"{member.name} was filtered for {column}"  # noqa: S101
    return value
