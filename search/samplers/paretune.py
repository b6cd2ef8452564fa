"""The default: a model of the loss that learns, searched for what adds most volume to the measured front.

First members of the exact front of what is known of single choices. Then, again and again: fit the model
(:mod:`paretune.search.loss_model`) to what was measured; take the exact fronts of its corrected sums, over every cost
and a mixture of them; search locally around those and the measured front (:mod:`paretune.search.local_search`); of all
that was found propose the few that are expected to add most volume (Emmerich et al., 2006), one after the other, each
as if those before it had come true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from paretune.search.local_search import Front, Ground, LocalSearch, Pool, expected_improvement, keeps
from paretune.search.loss_model import FLOOR, LossModel
from paretune.search.pareto import non_dominated
from paretune.search.samplers.additive import AdditiveSampler, as_points, by_gap
from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.space import Point

_FIRST = 64
_BATCH = 12
_DRAWS = 3
_MEMBERS = 96
_MOVES = 2000
_SHAPES = 3
"""That are searched at a time."""
_LEAST_GAIN = -0.05


class ParetuneSampler(AdditiveSampler):
    """Learned losses, exact fronts, local search, expected volume."""

    most_cells = 2_000_000

    def _begin(self, problem: Problem) -> None:
        super()._begin(problem)
        self._ideas: list[Point] = []

    def next_point(self, number: int) -> Point | None:
        """The next idea; new ones are thought of when the last is used up."""
        if self._queue is None:
            self._queue = by_gap(self.front(_FIRST))[:_FIRST]
        for queue in (self._queue, self._ideas):
            found = self.take(queue)
            if found is not None:
                return found
        for attempt in range(_DRAWS):
            # Before it gives up moves are drawn anew, in all shapes.
            shapes = _SHAPES if attempt == 0 else len(self.evidence.shapes)
            self._ideas = self._think(np.random.default_rng([self.seed, number, attempt]), shapes)
            found = self.take(self._ideas)
            if found is not None:
                return found
        return None

    def state(self) -> dict[str, Any]:
        """What is left of the first front and of the last batch of ideas."""
        return {**super().state(), "ideas": self._ideas}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the :meth:`state` of another."""
        super().restore(state)
        self._ideas = as_points(state["ideas"]) or []

    def _think(self, random: np.random.Generator, most: int) -> list[Point]:
        """A batch of ideas in at most so many shapes, the best first; none where nothing better is expected."""
        compared = [o for o in self.evidence.compared if o.feasible] or self.evidence.compared
        if not compared:
            return []
        front = _front(compared)
        starts = self._by_shape(_thinned(compared, front))
        shapes = self._shapes(starts, random, most)
        model = LossModel(
            self.problem, self.problem.prior(self.evidence), self.evidence.shapes, self._telling(front)
        )
        grounds = {base: self._ground(model, base) for base in shapes}
        for base, points in self._by_shape(self.pending.values()).items():
            thought = model.think(model.cells(points))
            front += Front(self._ground(model, base).of(thought), model.mean(thought))
        for base, points in self._by_shape(self._members(model, shapes, random)).items():
            starts.setdefault(base, []).extend(points)
        starts = {base: list(dict.fromkeys(points)) for base, points in starts.items() if base in shapes}
        thoughts = {base: model.think(model.cells(points)) for base, points in starts.items()}
        if not thoughts:
            return []
        known = [Front(grounds[base].of(thought), model.mean(thought)) for base, thought in thoughts.items()]
        budgets = reduce(add, known, front).budgets(random)
        search = LocalSearch(model, front, budgets, front.within(budgets), random)
        share = _MOVES / sum(map(len, starts.values()))
        pools = [search.around(t, grounds[base], round(share * len(t.sums))) for base, t in thoughts.items()]
        return self._batch(search, reduce(add, pools))

    def _telling(self, front: Front) -> list[Observation]:
        """What a model learns from, nearest to the measured front first: it has to be right there."""
        told = self.evidence.candidates
        if not told:
            return []
        every = _front(told)
        return [told[place] for place in np.argsort(every.losses - front.within(every.costs), kind="stable")]

    def _shapes(
        self, starts: Mapping[Point, list[Point]], random: np.random.Generator, most: int
    ) -> list[Point]:
        """Base points of the shapes that most of the measured front has, and of one that is drawn."""
        first = sorted(starts, key=lambda base: -len(starts[base]))[: most - 1]
        others = [base for base in self.evidence.shapes if base not in first]
        return first + [others[place] for place in random.permutation(len(others))[: most - len(first)]]

    def _members(self, model: LossModel, shapes: list[Point], random: np.random.Generator) -> list[Point]:
        """Members of exact fronts of the corrected sums, over each cost and one mixture of them."""
        mixtures = [{name: 1.0} for name in self.problem.costs]
        if len(mixtures) > 1:
            weights = random.dirichlet(np.ones(len(mixtures)))
            spans = [self._span(metric) for metric in self.problem.costs]
            mixtures.append(dict(zip(self.problem.costs, (weights / spans).tolist(), strict=True)))
        shift, own = random.uniform(-0.5, 0.5), {base: model.own[base] for base in shapes}
        fronts = [self.maker.fronts(model.entries, own, weights, _MEMBERS, shift) for weights in mixtures]
        return [member.point for members in fronts for member in members]

    def _span(self, metric: str) -> float:
        rows = self.maker.size(self.problem.origin, 0.0, {metric: 1.0}).costs
        return float(sum(np.nanmax(row) - np.nanmin(row) for row in rows)) or 1.0

    def _ground(self, model: LossModel, base: Point) -> Ground:
        sizes = [self.maker.size(base, 0.0, {metric: 1.0}) for metric in self.problem.costs]
        shapes = np.zeros(len(self.evidence.shapes))
        costs = np.column_stack([np.concatenate([size.cells, shapes]) for size in sizes])
        free = np.concatenate([np.all([size.free_cells for size in sizes], axis=0), shapes > 0])
        values = np.column_stack([model.flat, costs])
        return Ground(
            costs, np.array([size.rest for size in sizes]), _unbeaten(values, np.flatnonzero(free), model)
        )

    def _by_shape(self, points: Iterable[Point]) -> dict[Point, list[Point]]:
        """Distinct points by the base point of their shape, where that is known."""
        bases = {self.problem.shape_of(base): base for base in self.evidence.shapes}
        found: dict[Point, list[Point]] = {}
        for point in dict.fromkeys(points):
            base = bases.get(self.problem.shape_of(point))
            if base is not None:
                found.setdefault(base, []).append(point)
        return found

    def _batch(self, search: LocalSearch, pool: Pool) -> list[Point]:
        """Those that are expected to add most volume, one after the other, each as if the ones before had come true."""
        taken: list[Point] = []
        best, kept = search.best, keeps(pool.costs, search.budgets)
        left = pool.means < search.front.within(pool.costs) - _LEAST_GAIN
        while left.any() and len(taken) < _BATCH:
            places = np.flatnonzero(left)
            saved = expected_improvement(best, pool.means[places, None], pool.deviations[places, None])
            chosen = places[np.argmax((saved * kept[places]).mean(axis=1))]
            left[chosen] = False
            if self.is_new(pool.points[chosen]):
                taken.append(pool.points[chosen])
                best = np.where(kept[chosen], np.minimum(best, pool.means[chosen]), best)
        return taken


def _unbeaten(values: np.ndarray, cells: np.ndarray, model: LossModel) -> np.ndarray:
    """Those of some cells that no other of their parameter beats in all ``values``."""
    parameters = model.parameters[cells]
    first = np.searchsorted(parameters, parameters)
    beaten = np.zeros(len(cells), dtype=bool)
    for step in range(int(np.bincount(parameters, minlength=1).max(initial=0))):
        rival = np.minimum(first + step, len(cells) - 1)
        same = (parameters[rival] == parameters) & (rival != np.arange(len(cells)))
        better = np.all(values[cells[rival]] <= values[cells], axis=1)
        ahead = np.any(values[cells[rival]] < values[cells], axis=1) | (rival < np.arange(len(cells)))
        beaten |= same & better & ahead
    found: np.ndarray = cells[~beaten]
    return found


def _front(observations: list[Observation]) -> Front:
    """Of observations; one without a cost costs nothing."""
    values = np.array([o.values if len(o.values) > 1 else (*o.values, 0.0) for o in observations])
    losses = np.nan_to_num(values[:, 0], nan=1e300, posinf=1e300)
    return Front(values[:, 1:], np.log(np.maximum(losses, FLOOR)))


def _thinned(observations: list[Observation], front: Front) -> list[Point]:
    """Points that no other beats, as long as they lose more than next to nothing; not too many, evenly in cost."""
    measured = Front(front.costs[: len(observations)], front.losses[: len(observations)])
    kept = non_dominated(np.column_stack([measured.losses, measured.costs])) & measured.useful
    order = np.flatnonzero(kept)[np.argsort(measured.costs[kept, 0], kind="stable")]
    return [observations[place].point for place in order[:: 1 + len(order) // _MEMBERS]]
