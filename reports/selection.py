"""The best member under limits, from ``front.json`` alone; where none meets them, the nearest possible."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.reports.comparison import cost
from paretune.spaces.errors import LimitError, LimitTextError
from paretune.spaces.limits import Limit, check_limits
from paretune.spaces.metrics import find_metric
from paretune.spaces.numerals import quantity
from paretune.spaces.result import FrontFile, Member


@dataclass(frozen=True)
class Broken:
    """A limit that a member does not meet.

    Attributes:
        limit: as written.
        value: of the member, ``None`` where it was not measured.
        needed: the bound that the member would meet.
    """

    limit: Limit
    value: float | None

    @property
    def words(self) -> str:
        """``kl is 0.0123 nat, the limit is kl<=0.01``."""
        unit = find_metric(self.limit.metric).unit
        level = "not measured" if self.value is None else quantity(self.value, unit)
        return f"{self.limit.metric} is {level}, the limit is {self.limit.text}"


@dataclass(frozen=True)
class Selection:
    """What :func:`select_member` found.

    Attributes:
        member: the best that meets every limit; ``None`` where none does.
        nearest: the member that breaks the limits least; ``None`` where one meets them.
        broken: what ``nearest`` breaks.
        hopeless: limits that no member meets even alone, with the best value there is.
        metric: what "best" was measured by.
        predicted: metrics that were judged on predictions because nothing was measured.
    """

    metric: str
    member: Member | None = None
    nearest: Member | None = None
    broken: tuple[Broken, ...] = ()
    hopeless: tuple[Broken, ...] = ()
    predicted: tuple[str, ...] = ()


def select_member(front: FrontFile, limits: tuple[Limit, ...], metric: str = "") -> Selection:
    """The member with the best ``metric`` among those that meet ``limits``.

    Without limits and metric it is what the run recommends. Where every limit is on quality, the cheapest member is
    wanted, else the one of best quality. Uniform rows and the dense model take part: where one of them is best,
    that is the answer. Ties go to the smaller member.

    Args:
        front: of the run.
        limits: on any metric of the front; measured values are judged, predicted ones where none is measured.
        metric: what to optimize; chosen as said above if empty.

    Raises:
        LimitTextError: limits that contradict each other, or on something that no member has.
        UnknownNameError: no such metric.
    """
    check_limits(limits)
    target = find_metric(metric or _wanted(front, limits)).name
    for name in {target, *(limit.metric for limit in limits)}:
        _require_column(front, name)
    if not metric and not limits:
        chosen = next((member for member in front.members if member.name == front.recommended), None)
        if chosen is not None:
            return Selection(target, chosen, predicted=_predicted(chosen, {target}))
    able = [m for m in front.members if _value(m, target) is not None and not broken_limits(m, limits)]
    if able:
        best = min(able, key=lambda member: _rank(member, target))
        return Selection(
            target, best, predicted=_predicted(best, {target, *(limit.metric for limit in limits)})
        )
    return _nearest(front, limits, target)


def _wanted(front: FrontFile, limits: tuple[Limit, ...]) -> str:
    """The objective to optimize under ``limits``: the first cost if they bound nothing but quality."""
    bounds_quality = [find_metric(limit.metric).family in ("quality", "task") for limit in limits]
    return front.objectives[1] if bounds_quality and all(bounds_quality) else front.objectives[0]


def broken_limits(member: Member, limits: tuple[Limit, ...]) -> tuple[Broken, ...]:
    """The limits that ``member`` does not meet; one without a value is not met."""
    found = ((limit, _value(member, limit.metric)) for limit in limits)
    return tuple(
        Broken(limit, value) for limit, value in found if value is None or limit.violation(value) > 0
    )


def refusal(selection: Selection) -> LimitError:
    """The error that tells what is possible instead."""
    if selection.nearest is None:
        return LimitError("an empty front", "nothing was measured yet", "Run or resume `paretune search`")
    texts = " and ".join(dict.fromkeys(one.limit.text for one in (*selection.hopeless, *selection.broken)))
    rule = "no member meets all limits"
    if selection.hopeless:
        alone = "; ".join(
            one.words.replace("the limit is", "at best, and the limit is") for one in selection.hopeless
        )
        rule = f"no member meets it: {alone}"
    gaps = "; ".join(one.words for one in selection.broken)
    met = (one.limit.loosened(one.value) for one in selection.broken if one.value is not None)
    loosened = " ".join(f"--limit '{text}'" for text in met)
    return LimitError(
        f"limit {texts}", rule, f"Nearest: {selection.nearest.name} ({gaps}). It is selected by {loosened}"
    )


def _nearest(front: FrontFile, limits: tuple[Limit, ...], target: str) -> Selection:
    def distance(member: Member) -> tuple[int, float, tuple[float, float, str]]:
        broken = broken_limits(member, limits)
        unknown = sum(one.value is None for one in broken)
        excess = sum(one.limit.violation(one.value) for one in broken if one.value is not None)
        return unknown, excess, _rank(member, target)

    nearest = min((m for m in front.members if _value(m, target) is not None), key=distance, default=None)
    hopeless = tuple(best for limit in limits if (best := _best_alone(front, limit)) is not None)
    broken = () if nearest is None else broken_limits(nearest, limits)
    return Selection(target, nearest=nearest, broken=broken, hopeless=hopeless)


def _best_alone(front: FrontFile, limit: Limit) -> Broken | None:
    """How near any member comes to a limit that none meets; ``None`` where one does."""
    values = [value for member in front.members if (value := _value(member, limit.metric)) is not None]
    best = min(values, key=limit.violation)
    return Broken(limit, best) if limit.violation(best) > 0 else None


def _value(member: Member, metric: str) -> float | None:
    found = cost(member, metric)
    return None if found is None else found[0].value


def _rank(member: Member, metric: str) -> tuple[float, float, str]:
    value = _value(member, metric)
    if value is None:
        return float("inf"), 0.0, member.name
    signed = value if find_metric(metric).direction == "minimize" else -value
    return signed, member.value("weight_bytes") or 0.0, member.name


def _predicted(member: Member, metrics: set[str]) -> tuple[str, ...]:
    return tuple(name for name in sorted(metrics) if (found := cost(member, name)) is not None and found[1])


def _require_column(front: FrontFile, name: str) -> None:
    if any(cost(member, name) is not None for member in front.members):
        return
    known = sorted(
        {column.removesuffix("_predicted") for member in front.members for column in member.measurements}
    )
    raise LimitTextError(f"metric {name}", "was not measured in this run", f"Measured: {', '.join(known)}")
