"""Limits on metrics, as a user writes them: ``memory<=6GiB``, ``kl<=0.1``, ``tpot<=20ms``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Literal

from paretune.spaces.errors import LimitTextError
from paretune.spaces.metrics import Metric, find_metric
from paretune.spaces.schema import Frozen

_PATTERN = re.compile(r"^\s*([A-Za-z][\w.]*)\s*(<=|>=)\s*([0-9.eE+-]+)\s*([A-Za-z/%]*)\s*$")
_SCALES: dict[str, dict[str, float]] = {
    "B": {
        "": 1, "B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
        "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40,
    },
    "s": {"": 1, "s": 1, "ms": 1e-3, "us": 1e-6},
    "J": {"": 1, "J": 1, "mJ": 1e-3, "kJ": 1e3},
    "bit": {"": 1, "bit": 1, "bits": 1},
    "nat": {"": 1, "nat": 1, "nats": 1},
    "": {"": 1, "%": 1e-2},
}  # fmt: skip


class Limit(Frozen):
    """One bound on one metric, in SI units.

    Attributes:
        metric: full metric name.
        operator: ``<=`` or ``>=``.
        bound: in the metric's unit.
        text: as the user wrote it; the name of the constraint.
    """

    metric: str
    operator: Literal["<=", ">="]
    bound: float
    text: str

    @classmethod
    def parse(cls, text: str, find: Callable[[str], Metric] = find_metric) -> Limit:
        """Read ``METRIC<=NUMBER[UNIT]``.

        Args:
            text: as a user wrote it.
            find: gives the metric of a name, where it is not one that a search knows.

        Raises:
            LimitTextError: unreadable text, an unknown unit, a bound that is not finite.
            UnknownNameError: no such metric.
        """
        match = _PATTERN.match(text)
        if match is None:
            raise LimitTextError(
                f"limit {text!r}",
                "must read METRIC<=NUMBER[UNIT] or METRIC>=NUMBER[UNIT]",
                "E.g. memory<=6GiB",
            )
        name, operator, number, unit = match.groups()
        metric = find(name)
        scales = _SCALES[metric.unit]
        if unit not in scales:
            raise LimitTextError(
                f"unit {unit!r} in limit {text!r}",
                f"{metric.name} is measured in {metric.unit or 'plain numbers'}",
                f"Use one of {', '.join(u for u in scales if u) or 'no unit'}",
            )
        bound = _number(number, text) * scales[unit]
        return cls(
            metric=metric.name, operator="<=" if operator == "<=" else ">=", bound=bound, text=_squeeze(text)
        )

    def violation(self, value: float) -> float:
        """How far ``value`` breaks the limit, relative to the bound: feasible at or below 0."""
        excess = value - self.bound if self.operator == "<=" else self.bound - value
        return excess / abs(self.bound) if self.bound else excess

    def loosened(self, value: float) -> str:
        """The limit as text, loosened just enough that a finite ``value`` meets it: whole bytes, else six digits."""
        rounding = ROUND_CEILING if self.operator == "<=" else ROUND_FLOOR
        if find_metric(self.metric).unit == "B":
            bound = f"{Decimal(value).to_integral_value(rounding):f}"
        else:
            bound = f"{float(Context(prec=6, rounding=rounding).create_decimal(value)):.6g}"
        return f"{self.metric}{self.operator}{bound}"


def check_limits(limits: tuple[Limit, ...]) -> None:
    """Refuse limits that contradict each other whatever the model.

    Raises:
        LimitTextError: two limits on one metric leave nothing between them.
    """
    for lower in (limit for limit in limits if limit.operator == ">="):
        for upper in (limit for limit in limits if limit.operator == "<=" and limit.metric == lower.metric):
            if lower.bound > upper.bound:
                raise LimitTextError(
                    f"limits {lower.text} and {upper.text}",
                    "no value meets both",
                    "Drop or loosen one of them",
                )


def _number(text: str, limit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LimitTextError(f"{text!r} in limit {limit!r}", "must be a finite number", "E.g. 0.1 or 6e9")
    return value


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)
