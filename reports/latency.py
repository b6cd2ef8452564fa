"""How predicted decode latency compares with measured, and whether measured times can be trusted at all."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from paretune.spaces.numerals import percent
from paretune.spaces.result import LatencyCheck

_LEAST_ORDER, _LEAST_CHECKS = 0.6, 5
"""Share of pairs in the same order, of so many candidates: below it, readings are of a busy machine or the prediction
is of another. Chance puts half of the pairs in order.
"""


@dataclass(frozen=True)
class LatencyError:
    """How predicted decode latency compares with measured.

    Attributes:
        median, worst: relative errors, ``|predicted - measured| / measured``.
        worst_name: of the candidate with the worst.
        bias: median of ``predicted / measured - 1``.
        ordered: share of pairs that the prediction puts in the measured order; ties in either are left out.
    """

    checks: int
    median: float
    worst: float
    worst_name: str
    bias: float
    ordered: float | None


def latency_error(checks: tuple[LatencyCheck, ...]) -> LatencyError | None:
    """The error over all checks; ``None`` without checks."""
    usable = [check for check in checks if check.measured_s > 0]
    if not usable:
        return None
    ratios = [check.predicted_s / check.measured_s - 1 for check in usable]
    worst = max(range(len(usable)), key=lambda i: abs(ratios[i]))
    return LatencyError(
        checks=len(usable),
        median=statistics.median(abs(ratio) for ratio in ratios),
        worst=abs(ratios[worst]),
        worst_name=usable[worst].name,
        bias=statistics.median(ratios),
        ordered=_ordered(usable),
    )


def latency_words(error: LatencyError) -> str:
    """The error in words."""
    order = (
        f"; {percent(error.ordered)} of the pairs are in the right order" if error.ordered is not None else ""
    )
    lean = "" if abs(error.bias) < 0.02 else f" (mostly too {'high' if error.bias > 0 else 'low'})"
    return (
        f"Predicted decode latency is off by {percent(error.median)} at the median{lean} and by "
        f"{percent(error.worst)} at worst ({error.worst_name}), over {error.checks} candidates{order}."
    )


def contradicts(error: LatencyError | None) -> bool:
    """Whether measured and predicted times stand in different orders: neither says which candidate is faster."""
    return (
        error is not None
        and error.ordered is not None
        and error.checks >= _LEAST_CHECKS
        and error.ordered < _LEAST_ORDER
    )


def _ordered(checks: list[LatencyCheck]) -> float | None:
    pairs = agreeing = 0
    for i, first in enumerate(checks):
        for second in checks[:i]:
            predicted, measured = first.predicted_s - second.predicted_s, first.measured_s - second.measured_s
            if predicted and measured:
                pairs += 1
                agreeing += (predicted > 0) == (measured > 0)
    return agreeing / pairs if pairs else None
