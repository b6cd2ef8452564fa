"""How predicted decode latency compares with measured, and whether measured times can be trusted at all."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import combinations

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
        pairs: of candidates with different times, in prediction and measurement.
        ordered: share of them that the prediction puts in the measured order; ``None`` without pairs.
    """

    checks: int
    median: float
    worst: float
    worst_name: str
    bias: float
    pairs: int
    ordered: float | None

    @property
    def tells_order(self) -> bool:
        """Whether there are candidates enough for their order to say anything."""
        return self.ordered is not None and self.checks >= _LEAST_CHECKS


def latency_error(checks: tuple[LatencyCheck, ...]) -> LatencyError | None:
    """The error over all checks; ``None`` without checks."""
    usable = [check for check in checks if check.measured_s > 0]
    if not usable:
        return None
    ratios = [check.predicted_s / check.measured_s - 1 for check in usable]
    worst = max(range(len(usable)), key=lambda i: abs(ratios[i]))
    pairs = _in_order(usable)
    return LatencyError(
        checks=len(usable),
        median=statistics.median(abs(ratio) for ratio in ratios),
        worst=abs(ratios[worst]),
        worst_name=usable[worst].name,
        bias=statistics.median(ratios),
        pairs=len(pairs),
        ordered=statistics.fmean(pairs) if pairs else None,
    )


def latency_words(error: LatencyError) -> str:
    """The error in words."""
    if error.checks == 1:
        way = "high" if error.bias > 0 else "low"
        return f"Predicted decode latency of {error.worst_name} is {percent(error.worst)} too {way}."
    order = ""
    if error.tells_order and error.ordered is not None:
        right = round(error.ordered * error.pairs)
        order = f"; of {error.pairs} pairs of candidates it puts {right} in the right order"
    lean = "" if abs(error.bias) < 0.02 else f" (mostly too {'high' if error.bias > 0 else 'low'})"
    return (
        f"Predicted decode latency is off by {percent(error.median)} at the median{lean} and by "
        f"{percent(error.worst)} at worst ({error.worst_name}), over {error.checks} candidates{order}."
    )


def contradicts(error: LatencyError | None) -> bool:
    """Whether measured and predicted times stand in different orders: neither says which candidate is faster."""
    return (
        error is not None and error.tells_order and error.ordered is not None and error.ordered < _LEAST_ORDER
    )


def _in_order(checks: list[LatencyCheck]) -> list[bool]:
    """For each pair whether the prediction puts it in the measured order; ties in either are left out."""
    gaps = [
        (first.predicted_s - second.predicted_s, first.measured_s - second.measured_s)
        for first, second in combinations(checks, 2)
    ]
    return [(predicted > 0) == (measured > 0) for predicted, measured in gaps if predicted and measured]
