"""Limits of what is watched: broken so often in a row, and something has to be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, cast

from pydantic import Field

from paretune.spaces.errors import LimitTextError, UnknownNameError
from paretune.spaces.limits import Limit as Bound
from paretune.spaces.metrics import Metric
from paretune.spaces.schema import Frozen

Watched = Literal["drift_nats", "latency_s", "memory_bytes", "unanswered", "altered_files"]
"""``unanswered`` is 1 where the endpoint could not be asked, else 0; ``altered_files`` are those of the export that are
not what its manifest says."""


_METRICS = {
    "drift": ("drift_nats", "nat"),
    "latency": ("latency_s", "s"),
    "memory": ("memory_bytes", "B"),
    "unanswered": ("unanswered", ""),
}
"""What a user may limit: metric and unit by the word for it."""


def parse_limits(texts: Iterable[str], *, of_process: bool) -> dict[Watched, float]:
    """Bounds by metric of ``drift<=0.1`` (nat), ``latency<=2s``, ``memory<=20GiB`` and ``unanswered<=0``.

    Args:
        texts: as a user wrote them.
        of_process: whether a process is named whose memory can be read.

    Raises:
        LimitTextError: unreadable, from below, negative, or on the memory of nobody.
        UnknownNameError: nothing of that name is watched.
    """
    found: dict[Watched, float] = {}
    for text in texts:
        limit = Bound.parse(text, _watched)
        if limit.operator == ">=" or limit.bound < 0:
            raise LimitTextError(f"limit {text!r}", "must be an upper bound of 0 or more", "E.g. drift<=0.1")
        if limit.metric == "memory_bytes" and not of_process:
            raise LimitTextError(
                f"limit {text!r}", "is of a process, and none is named", "Name the server's by --pid"
            )
        found[cast("Watched", limit.metric)] = limit.bound
    return found


def _watched(name: str) -> Metric:
    if name not in _METRICS:
        raise UnknownNameError("limit of a watch", name, _METRICS)
    metric, unit = _METRICS[name]
    return Metric(name=metric, unit=unit, direction="minimize", family="cost", label=name)


class Limit(Frozen):
    """What may not be exceeded, and when it has been exceeded for long enough.

    Attributes:
        metric: that is watched.
        limit: largest value that is all right, in the metric's unit.
        in_a_row: checks that have to break it one after the other.
    """

    metric: Watched
    limit: float = Field(ge=0.0, allow_inf_nan=False)
    in_a_row: int = Field(default=3, ge=1)

    def broken_by(self, value: float) -> bool:
        """Whether one value exceeds it; one that is no number does."""
        return not value <= self.limit


class Streaks:
    """Counts, by limit, the checks that broke it since the last one that did not.

    Args:
        limits: one a metric.
    """

    def __init__(self, limits: Iterable[Limit]) -> None:
        self.limits = tuple(limits)
        self._counts = dict.fromkeys(self.limits, 0)

    def add(self, values: Mapping[str, float | None]) -> Limit | None:
        """Count one check; the first limit that has now been broken for long enough, if any.

        A value that is not known neither breaks a limit nor ends its streak.
        """
        for limit in self.limits:
            value = values.get(limit.metric)
            if value is not None:
                self._counts[limit] = self._counts[limit] + 1 if limit.broken_by(value) else 0
        return next((limit for limit in self.limits if self._counts[limit] >= limit.in_a_row), None)

    def count(self, limit: Limit) -> int:
        """Checks in a row that broke it."""
        return self._counts[limit]

    def forget(self) -> None:
        """Start again, as after a switch."""
        self._counts = dict.fromkeys(self.limits, 0)
