"""The exact front of an additive model: for every total cost, the smallest total loss, and the union over pruned sizes.

Each parameter picks one choice; costs and losses add up. That is the multiple-choice knapsack problem (Sinha and
Zoltners, 1979), solved for all budgets at once by dynamic programming on the grid that all cost differences
share. Bytes are integers with a large common divisor, so the grid is exact; where it would be too long it is
coarsened by rounding to the nearest level, and :attr:`AdditiveFront.exact` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from paretune.search.samplers.problem import Problem
from paretune.spaces.space import Point

MOST_CELLS = 30_000_000
"""Parameters x grid levels: one byte each, and a few passes over them."""


@dataclass(frozen=True)
class AdditiveFront:
    """Every non-dominated total, ascending in cost.

    Attributes:
        costs: float64 ``(members,)``, totals of the members' choices; rounded on a coarsened grid.
        sensitivities: float64 ``(members,)``, descending.
        exact: whether the grid held every cost difference exactly.
    """

    costs: np.ndarray
    sensitivities: np.ndarray
    exact: bool
    _picked: np.ndarray
    _levels: np.ndarray
    _steps: tuple[np.ndarray, ...]
    _kept: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.costs)

    def points(self, members: np.ndarray) -> np.ndarray:
        """The choice of every parameter for some members, int64 ``(members, parameters)``."""
        levels = self._levels[members].astype(np.int64)
        chosen = np.zeros((len(levels), len(self._steps)), dtype=np.int64)
        for parameter in range(len(self._steps) - 1, -1, -1):
            picks = self._picked[parameter, levels]
            chosen[:, parameter] = self._kept[parameter][picks]
            levels -= self._steps[parameter][picks]
        return chosen


def exact_front(
    costs: Sequence[np.ndarray], sensitivities: Sequence[np.ndarray], most_cells: int = MOST_CELLS
) -> AdditiveFront:
    """All non-dominated (total cost, total sensitivity) of one choice per parameter.

    Args:
        costs: float64 or int64 ``(choices,)`` per parameter; integers for an exact grid.
        sensitivities: float64 ``(choices,)`` per parameter.
        most_cells: parameters x grid levels above which the grid is coarsened.
    """
    kept = tuple(
        undominated(cost, sensitivity) for cost, sensitivity in zip(costs, sensitivities, strict=True)
    )
    cheap = [np.asarray(cost, dtype=np.float64)[k] for cost, k in zip(costs, kept, strict=True)]
    sensitivity = [
        np.asarray(sensitivity, dtype=np.float64)[k]
        for sensitivity, k in zip(sensitivities, kept, strict=True)
    ]
    steps, unit, exact = _grid([cost - cost.min() for cost in cheap], most_cells)
    best, picked = _sweep(steps, sensitivity)
    levels = _front_levels(best)
    totals = sum(float(cost.min()) for cost in cheap) + unit * levels
    return AdditiveFront(totals, best[levels], exact, picked, levels, tuple(steps), kept)


def relaxed_front(costs: Sequence[np.ndarray], sensitivities: Sequence[np.ndarray]) -> np.ndarray:
    """Whole solutions of the linear relaxation for all budgets, int64 ``(members, parameters)``, ascending in cost.

    From the cheapest choices, one step along one parameter's lower convex hull at a time, the steepest first (Sinha
    and Zoltners, 1979). Every member is one of the exact front; what lies between is off by less than one step, which
    is little where there are many parameters.
    """
    start, steps = np.zeros(len(costs), dtype=np.int64), []
    for parameter, (cost, sensitivity) in enumerate(zip(costs, sensitivities, strict=True)):
        hull: list[int] = []
        for choice in undominated(cost, sensitivity):
            while len(hull) > 1 and _slope(cost, sensitivity, hull[-2], hull[-1]) >= _slope(
                cost, sensitivity, hull[-1], int(choice)
            ):
                hull.pop()
            hull.append(int(choice))
        start[parameter] = hull[0]
        steps += [(_slope(cost, sensitivity, a, b), parameter, b) for a, b in pairwise(hull)]
    found = np.repeat(start[None], len(steps) + 1, axis=0)
    for place, (_, parameter, choice) in enumerate(sorted(steps)):
        found[place + 1 :, parameter] = choice
    return found


def _slope(cost: np.ndarray, sensitivity: np.ndarray, first: int, second: int) -> float:
    return float((sensitivity[second] - sensitivity[first]) / (cost[second] - cost[first]))


def undominated(cost: np.ndarray, sensitivity: np.ndarray) -> np.ndarray:
    """Indices of the choices that no other choice of the parameter beats in both."""
    order = np.lexsort((sensitivity, cost))
    lowest, kept = np.inf, []
    for index in order:
        if sensitivity[index] < lowest:
            lowest = sensitivity[index]
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def _grid(differences: list[np.ndarray], most_cells: int) -> tuple[list[np.ndarray], float, bool]:
    """Cost differences in whole steps of a common grid, the step, and whether that is exact."""
    span = sum(float(difference.max()) for difference in differences)
    whole = all(np.array_equal(difference, np.rint(difference)) for difference in differences)
    unit = float(np.gcd.reduce(np.concatenate(differences).astype(np.int64))) if whole else 0.0
    most = max(16, most_cells // max(1, len(differences)))
    if span == 0.0:
        return [np.zeros(len(difference), dtype=np.int64) for difference in differences], 0.0, True
    if unit and span / unit <= most:
        return [(difference / unit).astype(np.int64) for difference in differences], unit, True
    unit = span / (most // 2)
    return [np.rint(difference / unit).astype(np.int64) for difference in differences], unit, False


def _sweep(steps: list[np.ndarray], sensitivities: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest sensitivity at exactly every level, and the choice of each parameter that reaches it."""
    levels = 1 + sum(int(step.max()) for step in steps)
    best = np.full(levels, np.inf)
    best[0] = 0.0
    most = max(len(step) for step in steps)
    picked = np.zeros((len(steps), levels), dtype=np.int8 if most <= 128 else np.int16)
    top = 0
    for parameter, (step, sensitivity) in enumerate(zip(steps, sensitivities, strict=True)):
        reached = best[: top + 1].copy()
        best[: top + 1] = np.inf
        top += int(step.max())
        for choice, (shift, loss) in enumerate(zip(step, sensitivity, strict=True)):
            window = best[shift : shift + len(reached)]
            better = reached + loss < window
            window[better] = (reached + loss)[better]
            picked[parameter, shift : shift + len(reached)][better] = choice
    return best, picked


def _front_levels(best: np.ndarray) -> np.ndarray:
    """Levels whose sensitivity is below that of every cheaper level."""
    running = np.minimum.accumulate(best)
    first = np.concatenate([[True], running[1:] < running[:-1]]) & np.isfinite(best)
    return np.flatnonzero(first)


# -- of a problem ---------------------------------------------------------------------------------------

NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Predicted:
    """A member of an additive front: point, cost and the sum of its sensitivities (a pruned model's own included)."""

    point: Point
    cost: float
    total: float


@dataclass(frozen=True)
class PrunedSize:
    """What is known about one pruned size.

    Attributes:
        base: its point with everything else dense.
        own: loss of the size alone.
        costs: what every choice of every parameter adds, one array per parameter; NaN where the size refuses the
            format.
        rest: cost of everything else.
        free: which parameters are open in it, bool ``(parameters,)``.
    """

    base: Point
    own: float
    costs: list[np.ndarray]
    rest: float
    free: np.ndarray

    @cached_property
    def cells(self) -> np.ndarray:
        """The costs of all parameters in a row, float64 ``(cells,)``."""
        return np.concatenate(self.costs)

    @cached_property
    def free_cells(self) -> np.ndarray:
        """Which choices are open, bool ``(cells,)``."""
        open_ones: np.ndarray = np.repeat(self.free, [len(cost) for cost in self.costs]) & ~np.isnan(
            self.cells
        )
        return open_ones

    def opened(self, sensitivities: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Costs and sensitivities of the open parameters' choices, refused ones too dear; zeros for the others."""
        costs, losses = [], []
        for cost, sensitivity, free in zip(self.costs, sensitivities, self.free, strict=True):
            legal = ~np.isnan(cost)
            costs.append(np.where(legal, cost, np.nanmax(cost)) if free else np.zeros(1))
            losses.append(np.where(legal, sensitivity, np.inf) if free else np.zeros(1))
        return costs, losses


Allocator = Callable[[list[np.ndarray], list[np.ndarray]], np.ndarray]
"""From costs and sensitivities of every choice, an array per parameter, to points ``(points, parameters)``."""


class FrontMaker:
    """Exact fronts of sums, one per shape, kept apart because their groups cost differently.

    Costs are computed once; entries that were refined need only the dynamic programme again.

    Args:
        problem: what is searched.
        most_cells: of the grid, see :func:`exact_front`.

    Attributes:
        exact: whether every front so far was exact in its cost.
    """

    def __init__(self, problem: Problem, most_cells: int) -> None:
        self.problem = problem
        self.exact = True
        self._most_cells = most_cells
        self._costs: dict[tuple[str, Point], tuple[list[np.ndarray], float]] = {}
        self._open: dict[Point, np.ndarray] = {}

    def size(self, base: Point, own: float, weights: Mapping[str, float]) -> PrunedSize:
        """A shape under a weighted sum of costs."""
        parts = [(weight, self._cost(metric, base)) for metric, weight in weights.items()]
        rows = [np.sum([w * costs[i] for w, (costs, _) in parts], axis=0) for i in range(len(base))]
        rest = sum(w * rest for w, (_, rest) in parts)
        return PrunedSize(base, own, rows, rest, self._free(base))

    def fronts(
        self,
        entries: Sequence[np.ndarray],
        own: Mapping[Point, float],
        weights: Mapping[str, float],
        members: int,
        shift: float = 0.0,
    ) -> list[Predicted]:
        """Members of the union, evenly thinned to ``members`` per shape, ascending in cost.

        Args:
            entries: sensitivities, one array per parameter.
            own: base point (everything else dense) of every shape, and what it loses alone.
            weights: of the costs whose sum is traded against sensitivity.
            members: at most, per shape.
            shift: of the even steps, as a share of one: where others are wanted than the last time.
        """
        found: list[Predicted] = []
        for base, loss in own.items():
            size = self.size(base, loss, weights)
            costs, losses = size.opened(entries)
            front = exact_front(costs, losses, self._most_cells)
            self.exact = self.exact and front.exact
            found += _members(size, front.points(_picked(front, members, shift)), entries)
            if not front.exact:
                points = relaxed_front(costs, losses)
                found += _members(size, points[:: 1 + len(points) // members], entries)
        return _union(found)

    def allocated(
        self, entries: Sequence[np.ndarray], own: Mapping[Point, float], metric: str, allocate: Allocator
    ) -> list[Predicted]:
        """What another method makes of the same entries, shape by shape; of all of it what nothing beats."""
        sizes = [self.size(base, loss, {metric: 1.0}) for base, loss in own.items()]
        return _union([m for size in sizes for m in _members(size, allocate(*size.opened(entries)), entries)])

    def _free(self, base: Point) -> np.ndarray:
        if base not in self._open:
            free = [not self.problem.is_shape(i) and self.problem.is_open(i, base) for i in range(len(base))]
            self._open[base] = np.array(free)
        return self._open[base]

    def _cost(self, metric: str, base: Point) -> tuple[list[np.ndarray], float]:
        if (metric, base) not in self._costs:
            self._costs[metric, base] = self.problem.additive_costs(metric, base)
        return self._costs[metric, base]


def _members(size: PrunedSize, points: np.ndarray, entries: Sequence[np.ndarray]) -> list[Predicted]:
    """What points of the open parameters cost and lose, without the rounding of a grid."""
    points = np.where(size.free, points, size.base)
    costs = size.rest + np.sum([cost[points[:, i]] for i, cost in enumerate(size.costs)], axis=0)
    lost = [entry[points[:, i]] for i, entry in enumerate(entries) if size.free[i]]
    totals = size.own + np.sum(lost, axis=0, initial=0.0)
    return [
        Predicted(tuple(point), float(cost), float(total))
        for point, cost, total in zip(
            points.tolist(), costs, np.broadcast_to(totals, len(points)), strict=True
        )
    ]


def _picked(front: AdditiveFront, members: int, shift: float) -> np.ndarray:
    """All members, or about so many at even steps of cost where they are many."""
    if len(front) <= members:
        return np.arange(len(front))
    # Beyond a ten-thousandth of the largest sensitivity a member is the dense model for every purpose.
    useful = front.sensitivities >= NEGLIGIBLE * front.sensitivities.max(initial=0.0)
    steps = np.linspace(front.costs.min(), front.costs[useful].max(), members)
    steps[1:-1] += shift * (steps[1] - steps[0])
    return np.unique(np.searchsorted(front.costs, np.append(steps, front.costs.max()), side="right") - 1)


def _union(members: list[Predicted]) -> list[Predicted]:
    kept: list[Predicted] = []
    for member in sorted(members, key=lambda m: (m.cost, m.total)):
        if not kept or member.total < kept[-1].total:
            kept.append(member)
    return kept
