"""The Pareto front: distinct members, hypervolume, selection under limits, members that cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from paretune.search.hypervolume import hypervolume
from paretune.search.pareto import non_dominated
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement
from paretune.spaces.statistics import difference


@dataclass(frozen=True)
class Candidate:
    """A scored configuration as a point.

    Attributes:
        values: objectives, all to be minimised, quality first.
        quality: with its windows, for paired comparison.
        metrics: every metric by name.
    """

    name: str
    digest: str
    values: tuple[float, ...]
    quality: Measurement | None = None
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

        A class grows along the front from its best member while the interval (95 %) of the paired difference to that
        first member holds zero; comparing with the first keeps a long chain from joining its ends.
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
    if first.quality is None or second.quality is None:
        return False
    gap = difference(second.quality, first.quality)
    return gap.stderr is not None and gap.paired and not gap.clear
