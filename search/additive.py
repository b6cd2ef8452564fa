"""Costs that add up over parameters, and the union of exact fronts over pruned sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from paretune.search.knapsack import AdditiveFront, exact_front
from paretune.search.observation import Problem
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.space import Point

NEGLIGIBLE = 1e-4


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
        own: KL of the size alone.
        costs: what every choice of every parameter adds, one array a parameter; NaN where the size refuses the format.
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


def additive_costs(problem: Problem, metric: str, base: Point) -> tuple[list[np.ndarray], float]:
    """What every choice of every parameter adds to ``metric``, and the rest, around the pruned model of ``base``.

    Exact for bytes; for a predicted time it is the difference that one parameter makes alone.
    """
    space = problem.space
    pruned = space.pruned(base)
    whole = float(problem.cost_of(base)[metric])
    found, chosen = [], 0.0
    for index, parameter in enumerate(space.parameters):
        if parameter.kind in PRUNED_KINDS or not _present(problem, index, base):
            cost = np.zeros(len(parameter.choices))
        elif metric == "weight_bytes" and parameter.group is not None:
            cost = np.array(space.choice_bytes(parameter, pruned), dtype=np.float64)
        else:
            changed = [_changed(base, index, c) for c in range(len(parameter.choices))]
            cost = np.array([_cost(problem, metric, point) for point in changed]) - whole
        found.append(cost)
        chosen += float(cost[base[index]])
    return found, whole - chosen


def _cost(problem: Problem, metric: str, point: Point) -> float:
    """NaN for what the pruned size refuses."""
    return float(problem.cost_of(point)[metric]) if problem.space.ruling(point) else float("nan")


def _changed(base: Point, index: int, choice: int) -> Point:
    return (*base[:index], choice, *base[index + 1 :])


def _present(problem: Problem, index: int, base: Point) -> bool:
    """Whether the pruned model has the group that the parameter chooses for."""
    group = problem.space.parameters[index].group
    return group is None or problem.space.pruned(base).keeps_block(group.block)


def pruned_of(problem: Problem, point: Point) -> Point:
    """The parameters of the pruned size alone."""
    return tuple(
        c
        for parameter, c in zip(problem.space.parameters, point, strict=True)
        if parameter.kind in PRUNED_KINDS
    )


def is_size_parameter(problem: Problem, index: int) -> bool:
    """Whether the parameter decides the size of the pruned model."""
    return problem.space.parameters[index].kind in PRUNED_KINDS


class FrontMaker:
    """Exact fronts of a sensitivity table, one a pruned size, kept apart because their groups cost differently.

    Costs are computed once; a table that was refined needs only the dynamic programme again.

    Args:
        problem: what is searched.
        metric: the cost that is traded against sensitivity.
        pruned_sizes: base point (everything dense) of every pruned size and its own KL.
        most_cells: of the grid, see :func:`paretune.search.knapsack.exact_front`.
    """

    def __init__(
        self, problem: Problem, metric: str, pruned_sizes: Mapping[Point, float], most_cells: int
    ) -> None:
        self.problem = problem
        self.metric = metric
        self._cells = most_cells
        self._sizes = {pruned_of(problem, base): self._size(base, own) for base, own in pruned_sizes.items()}
        self.exact = True

    def _size(self, base: Point, own: float) -> PrunedSize:
        costs, rest = additive_costs(self.problem, self.metric, base)
        parameters = range(len(base))
        free = [
            not is_size_parameter(self.problem, g) and _present(self.problem, g, base) for g in parameters
        ]
        return PrunedSize(base, own, costs, rest, np.array(free))

    @property
    def own_of_sizes(self) -> list[tuple[Point, float]]:
        """The pruned sizes as they were given."""
        return [(size.base, size.own) for size in self._sizes.values()]

    def size_of(self, point: Point) -> PrunedSize | None:
        """The pruned size of a point; ``None`` if it was not given."""
        return self._sizes.get(pruned_of(self.problem, point))

    def fronts(self, entries: Sequence[np.ndarray], members: int) -> list[Predicted]:
        """Members of the union, evenly thinned to ``members`` a pruned model, ascending in cost."""
        found: list[Predicted] = []
        for size in self._sizes.values():
            front = exact_front(*size.opened(entries), self._cells)
            self.exact = self.exact and front.exact
            found += _members(front, size, members)
        return _union(found)


def _members(front: AdditiveFront, size: PrunedSize, members: int) -> list[Predicted]:
    picked = _picked(front, members)
    points = np.where(size.free, front.points(picked), size.base)
    # The grid may be coarse; what a member costs is the sum of its choices.
    parts = [cost[points[:, parameter]] for parameter, cost in enumerate(size.costs)]
    exact = size.rest + np.sum(parts, axis=0)
    return [
        Predicted(tuple(point), float(cost), float(total) + size.own)
        for point, cost, total in zip(points.tolist(), exact, front.sensitivities[picked], strict=True)
    ]


def _picked(front: AdditiveFront, members: int) -> np.ndarray:
    """All members, or about so many at even steps of cost where they are many."""
    if len(front) <= members:
        return np.arange(len(front))
    # Beyond a ten-thousandth of the largest sensitivity a member is the dense model for every purpose.
    useful = front.sensitivities >= NEGLIGIBLE * front.sensitivities.max(initial=0.0)
    steps = np.linspace(front.costs.min(), front.costs[useful].max(), members)
    return np.unique(np.searchsorted(front.costs, np.append(steps, front.costs.max()), side="right") - 1)


def _union(members: list[Predicted]) -> list[Predicted]:
    kept: list[Predicted] = []
    for member in sorted(members, key=lambda m: (m.cost, m.total)):
        if not kept or member.total < kept[-1].total:
            kept.append(member)
    return kept
