"""The Pareto front: distinct members, hypervolume, selection under limits, members that cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from paretune.search.hypervolume import hypervolume
from paretune.search.pareto import non_dominated
from paretune.spaces.limits import Limit


@dataclass(frozen=True)
class Candidate:
    """A scored configuration as a point.

    Attributes:
        values: objectives, all to be minimised, quality first.
        per_window: of the quality, for paired comparison.
        metrics: every metric by name.
    """

    name: str
    digest: str
    values: tuple[float, ...]
    per_window: tuple[float, ...] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """The measured value of a metric, or the predicted one where nothing was measured.

        Raises:
            KeyError: neither is there.
        """
        return self.metrics[metric] if metric in self.metrics else self.metrics[f"{metric}_predicted"]

    def meets(self, limits: Sequence[Limit]) -> bool:
        """Whether every limit is met."""
        return all(limit.violation(self.value(limit.metric)) <= 0 for limit in limits)


class ParetoFront:
    """The candidates that no other beats.

    Args:
        candidates: of which the distinct (by digest) and non-dominated are kept.
        objectives: metric names, quality first.
        reference: of the hypervolume.
    """

    def __init__(
        self, candidates: Sequence[Candidate], objectives: tuple[str, ...], reference: tuple[float, ...]
    ) -> None:
        self.objectives = objectives
        self.reference = reference
        distinct = list({candidate.digest: candidate for candidate in candidates}.values())
        values = np.array([c.values for c in distinct], dtype=np.float64).reshape(-1, len(objectives))
        kept = [c for c, keep in zip(distinct, non_dominated(values), strict=True) if keep]
        self.members: tuple[Candidate, ...] = tuple(sorted(kept, key=lambda c: (c.values, c.digest)))

    @property
    def hypervolume(self) -> float:
        """Dominated volume up to the reference point, in units of the objectives."""
        return hypervolume(np.array([c.values for c in self.members]), self.reference)

    def select(self, limits: Sequence[Limit]) -> Candidate | None:
        """The member of best quality that meets every limit; ``None`` if none does."""
        return next((member for member in self.members if member.meets(limits)), None)

    def classes(self) -> dict[str, int]:
        """A number a member, by digest: members with the same number cannot be told apart.

        A class grows along the front from its best member while the paired difference to that first member lies
        within two standard errors; comparing with the first keeps a long chain from joining its ends.
        """
        found: dict[str, int] = {}
        first: Candidate | None = None
        number = -1
        for member in self.members:
            if first is None or not _alike(first, member):
                first, number = member, number + 1
            found[member.digest] = number
        return found

    def thinned(self, count: int, at: Sequence[float] = ()) -> tuple[Candidate, ...]:
        """At most ``count`` members.

        Args:
            count: at least 2.
            at: costs (in the first cost objective) at which the best member is kept, the first ones before the
                others: there the front will be compared with something.

        Returns:
            Both ends, the members at those costs, and others so that the widest gaps are filled.
        """
        last = len(self.members) - 1
        if last < count:
            return self.members
        places = {0, last}
        for cost in at:
            place = self._best_at(cost)
            if place is not None and len(places) < count:
                places.add(place)
        while len(places) < count:
            ordered = sorted(places)
            left, right = max(pairwise(ordered), key=lambda gap: gap[1] - gap[0])
            places.add((left + right) // 2)
        return tuple(self.members[place] for place in sorted(places))

    def _best_at(self, cost: float) -> int | None:
        """The member of best quality that costs at most so much."""
        return next((place for place, member in enumerate(self.members) if member.values[1] <= cost), None)


def _alike(first: Candidate, second: Candidate) -> bool:
    one, two = first.per_window, second.per_window
    if one is None or two is None or len(one) != len(two) or len(one) < 2:
        return False
    difference = np.asarray(two) - np.asarray(one)
    error = float(difference.std(ddof=1)) / np.sqrt(len(difference))
    return bool(abs(float(difference.mean())) <= 2 * error)
