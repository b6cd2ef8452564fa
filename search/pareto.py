"""The Pareto front: what no other candidate beats, the volume it dominates, a few members that stand for all of it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement
from paretune.spaces.statistics import difference

LEAST_LOSS = 1e-6
"""Below it a candidate is the dense model for every purpose; the logarithm of a loss ends there."""


@dataclass(frozen=True)
class Candidate:
    """A scored configuration as a point.

    Attributes:
        values: objectives, all to be minimised: what is lost to the dense model, then costs.
        quality: with its windows, for paired comparison.
        metrics: every metric by name.
        reaches: how far the interval (95 %) of those that have an error reaches from the value.
    """

    name: str
    digest: str
    values: tuple[float, ...]
    quality: Measurement | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    reaches: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float:
        """The measured value of a metric, or the predicted one where nothing was measured.

        Raises:
            KeyError: neither is there.
        """
        return self.metrics[metric] if metric in self.metrics else self.metrics[f"{metric}_predicted"]

    def meets(self, limits: Sequence[Limit], clearly: bool = False) -> bool:
        """Whether every limit is met; ``clearly``: by the whole interval."""
        return all(
            limit.violation(self.value(limit.metric) + sign * self.reaches.get(limit.metric, 0.0)) <= 0
            for limit in limits
            for sign in (0.0 if not clearly else 1.0 if limit.operator == "<=" else -1.0,)
        )


class ParetoFront:
    """The candidates that no other beats.

    Args:
        candidates: of which the distinct (by digest; the last reading counts) and non-dominated are kept.
        reference: loss and costs that volumes are measured from, see :func:`log_volume`.

    Attributes:
        members: best quality first.
    """

    def __init__(self, candidates: Iterable[Candidate], reference: Sequence[float]) -> None:
        self.reference = tuple(reference)
        distinct = list({candidate.digest: candidate for candidate in candidates}.values())
        values = np.array([c.values for c in distinct], dtype=np.float64).reshape(-1, len(self.reference))
        kept = [c for c, keep in zip(distinct, non_dominated(values), strict=True) if keep]
        self.members: tuple[Candidate, ...] = tuple(sorted(kept, key=lambda c: (c.values, c.digest)))

    def classes(self) -> dict[str, int]:
        """A number for every member, by digest: members with the same number cannot be told apart."""
        return equivalence_classes(self.members)

    def thinned(
        self, count: int, at: Sequence[Sequence[float]] = (), keep: Sequence[str] = ()
    ) -> tuple[Candidate, ...]:
        """At most ``count`` members, best quality first.

        With one cost: both ends, ``keep``, the best within each of ``at``, then whatever fills the widest gaps. With
        more costs a front has no such order: ``keep``, the best within each of ``at``, then greedily whatever adds
        the most volume (which is within 1 - 1/e of the best choice: Nemhauser, Wolsey and Fisher, 1978).

        Args:
            count: at least 2.
            at: costs at which the front will be compared with something; the first ones count most.
            keep: digests of members that are not to be left out.
        """
        if len(self.members) <= count:
            return self.members
        last = len(self.members) - 1
        places = dict.fromkeys(place for place, m in enumerate(self.members) if m.digest in keep)
        if len(self.reference) == 2:
            places |= dict.fromkeys((0, last))
        for costs in at:
            place = self._best_within(costs)
            if place is not None and len(places) < count:
                places.setdefault(place)
        if len(self.reference) == 2:
            while len(places) < count:
                left, right = max(pairwise(sorted(places)), key=lambda gap: gap[1] - gap[0])
                places.setdefault((left + right) // 2)
        else:
            places = dict.fromkeys(self._most_volume(list(places), count))
        return tuple(self.members[place] for place in sorted(list(places)[:count]))

    def _best_within(self, costs: Sequence[float]) -> int | None:
        """The member of best quality that exceeds none of the costs."""
        return next(
            (
                place
                for place, member in enumerate(self.members)
                if all(own <= most for own, most in zip(member.values[1:], costs, strict=True))
            ),
            None,
        )

    def _most_volume(self, chosen: list[int], count: int) -> list[int]:
        """More members, each the one that adds the most volume to those before it."""
        values = [member.values for member in self.members]

        def added(place: int) -> float:
            some = [values[i] for i in chosen]
            return log_volume([*some, values[place]], self.reference) - log_volume(some, self.reference)

        # What a member adds only falls as others are chosen, so an old number is a bound on the new one.
        bounds = [(-math.inf, place) for place in range(len(values)) if place not in chosen]
        while bounds and len(chosen) < count:
            _, place = heapq.heappop(bounds)
            gain = added(place)
            if not bounds or -gain <= bounds[0][0]:
                chosen.append(place)
            else:
                heapq.heappush(bounds, (-gain, place))
        return chosen


def equivalence_classes(members: Sequence[Candidate]) -> dict[str, int]:
    """A number for every member, by digest: members with the same number cannot be told apart.

    A class grows along the members from its first one while the interval (95 %) of the paired difference to that holds
    zero; comparing with the first keeps a long chain from joining its ends. Pairs are tested one by one, with no
    correction for their number.
    """
    found: dict[str, int] = {}
    first: Candidate | None = None
    number = -1
    for member in members:
        if first is None or not _alike(first, member):
            first, number = member, number + 1
        found[member.digest] = number
    return found


def _alike(first: Candidate, second: Candidate) -> bool:
    if first.quality is None or second.quality is None:
        return False
    gap = difference(second.quality, first.quality)
    return gap.stderr is not None and gap.paired and not gap.clear


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Mask of the points that no other point beats; of equal points the first counts.

    Args:
        values: float64 ``(points, objectives)``, all to be minimised.
    """
    points = np.asarray(values, dtype=np.float64)
    keep = np.zeros(len(points), dtype=bool)
    kept = np.empty((0, points.shape[1] if points.ndim == 2 else 0))
    # In lexicographic order a point can only be beaten by one that comes before it; lexsort is stable.
    for index in np.lexsort(points.T[::-1]) if len(points) else []:
        if not (kept <= points[index]).all(axis=1).any():
            keep[index] = True
            kept = np.vstack([kept, points[index]])
    return keep


def hypervolume(points: np.ndarray, reference: Sequence[float]) -> float:
    """Volume between the points and ``reference`` (Zitzler and Thiele, 1998), exact by slicing.

    Args:
        points: float64 ``(points, objectives)``, all to be minimised; those beyond the reference contribute nothing.
        reference: one bound per objective.
    """
    corner = np.asarray(reference, dtype=np.float64)
    inside = np.asarray(points, dtype=np.float64).reshape(-1, len(corner))
    inside = inside[(inside < corner).all(axis=1)]
    return _volume(inside, corner) if len(inside) else 0.0


def _volume(points: np.ndarray, corner: np.ndarray) -> float:
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[non_dominated(points)]
    order = points[np.argsort(points[:, -1], kind="stable")]
    if points.shape[1] == 2:
        lower = np.minimum.accumulate(order[:, 0])
        heights = np.append(order[1:, 1], corner[1]) - order[:, 1]
        return float(((corner[0] - lower) * heights).sum())
    edges = np.append(order[:, -1], corner[-1])
    return sum(
        float(edges[i + 1] - edges[i]) * _volume(order[: i + 1, :-1], corner[:-1])
        for i in range(len(order))
        if edges[i + 1] > edges[i]
    )


def log_volume(values: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume over the logarithm of the loss, and costs as shares of the reference's.

    It is the mean over all costs up to the reference's of ``log(reference loss / loss of the best within them)``,
    which counts 0 where nothing costs so little: halving every loss adds log 2 times the share of the costs that the
    front covers.

    Args:
        values: of candidates: loss, then costs.
        reference: the same, all positive.
    """
    corner = np.asarray(reference, dtype=np.float64)
    points = np.array(values, dtype=np.float64).reshape(-1, len(corner)) / np.append(1.0, corner[1:])
    points[:, 0] = np.log(np.maximum(points[:, 0], LEAST_LOSS))
    return hypervolume(points, (math.log(corner[0]), *np.ones(len(corner) - 1)))


def advantage(
    members: Sequence[Sequence[float]], rivals: Sequence[Sequence[float]]
) -> tuple[float, float, float] | None:
    """How many times less members lose than rivals that cost as much, as a geometric mean; between which costs.

    Args:
        members: loss, then costs.
        rivals: the same. With one cost the mean is over that cost, from where both have something to where the last
            rival ends that no other beats; with more it is over those rivals, each beside the members that exceed it
            in none.

    Returns:
        The ratio of losses (rival / member), and the range of the first cost; ``None`` where nothing can be compared.
    """
    ours, theirs = (np.array(points, dtype=np.float64) for points in (members, rivals))
    if not len(ours) or not len(theirs):
        return None
    theirs = theirs[non_dominated(theirs)]
    edges = theirs[:, 1:]
    if edges.shape[1] == 1:
        edges = np.unique(np.concatenate([ours[:, 1:], edges]), axis=0)
        edges = edges[(edges >= max(ours[:, 1].min(), theirs[:, 1].min())) & (edges <= theirs[:, 1].max())]
        edges = edges.reshape(-1, 1)
    at = [costs for costs in edges if (ours[:, 1:] <= costs).all(axis=1).any()]
    if not at:
        return None
    logs = np.array([_log_least(theirs, costs) - _log_least(ours, costs) for costs in at])
    first = np.array([costs[0] for costs in at])
    # A step of the curves reaches to the next edge; a single point stands for itself.
    weights = np.diff(first) if edges.shape[1] == 1 and len(first) > 1 else np.ones(len(first))
    ratio = math.exp(float(np.average(logs[: len(weights)], weights=weights)))
    return ratio, float(first.min()), float(first.max())


def _log_least(points: np.ndarray, costs: np.ndarray) -> float:
    within = points[(points[:, 1:] <= costs).all(axis=1), 0]
    return math.log(max(float(within.min()), LEAST_LOSS))
