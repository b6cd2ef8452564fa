"""The default: exact fronts of a sensitivity table that learns, and exchanges around the measured front.

First members of the additive front. Then, again and again: correct the table by what was measured, make its
exact front, and draw exchanges (one group up, others down) around measured members, whose prediction starts
from their measured KL and so carries what the table does not know. Of all these the largest predicted gains
over the measured front are proposed, at most one in each stretch of the cost axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.search.additive import NEGLIGIBLE, FrontMaker, PrunedSize, pruned_of
from paretune.search.exchanges import draw_moves
from paretune.search.observation import Observation, Problem
from paretune.search.samplers.additive import AdditiveSampler, as_points, by_gap
from paretune.search.sensitivity import SensitivityTable
from paretune.spaces.space import Point

_FIRST = 24
_STRETCHES = 24
_BATCH = 20
_EXCHANGES = 300
_MEMBERS = 64
_LEAST_GAIN = -0.05
_SMALLEST_KL = 1e-9


@dataclass(frozen=True)
class _Front:
    """The measured front in one cost: costs ascending, KLs descending."""

    costs: np.ndarray
    kls: np.ndarray
    points: list[Point]

    def gain(self, costs: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Log KL below the front at ``costs`` if ``expected`` comes true."""
        places = np.searchsorted(self.costs, costs, side="right") - 1
        return np.asarray(np.log(self.kls[np.maximum(places, 0)]) - np.log(np.maximum(expected, 1e-12)))


@dataclass(frozen=True)
class _Ideas:
    """Predicted cost and gain ``(ideas,)`` of points that are made when they are wanted."""

    costs: np.ndarray
    gains: np.ndarray
    point: Callable[[int], Point]


class ParetuneSampler(AdditiveSampler):
    """Learned table, exact fronts, exchanges."""

    name = "paretune"
    uses_marginals = True
    most_cells = 2_000_000

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._ideas: list[Point] = []
        self._first: list[Point] | None = None
        self._rounds = 0

    def propose(self, trial: int) -> Point | None:
        """The next idea; new ones are thought of when the last is used up."""
        if self._first is None:
            self._first = by_gap([member.point for member in self.front(self.table(), 2 * _FIRST)])[:_FIRST]
        for queue in (self._first, self._ideas):
            found = self._next(queue)
            if found is not None:
                return found
        for _ in self.problem.objectives[1:]:
            self._ideas = self._think(trial)
            found = self._next(self._ideas)
            if found is not None:
                return found
        return None

    def state(self) -> dict[str, Any]:
        """The queues, the rounds of thinking, and the pruned sizes that fronts are made of."""
        return {**super().state(), "first": self._first, "ideas": self._ideas, "rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.restore`."""
        super().restore(state)
        self._first, self._ideas = as_points(state["first"]), as_points(state["ideas"]) or []
        self._rounds = int(state["rounds"])

    def _next(self, queue: list[Point]) -> Point | None:
        while queue:
            point = queue.pop(0)
            if self.is_new(point):
                return point
        return None

    def _think(self, trial: int) -> list[Point]:
        axis = 1 + self._rounds % (len(self.problem.objectives) - 1)
        self._rounds += 1
        front = self._measured_front(axis)
        if not len(front.costs):
            return []
        table = self.table()
        table.refine(_most_telling(self.evidence.whole, front, axis))
        maker = self.maker(self.problem.objectives[axis])
        ideas = [self._members(maker, table, front), *self._exchanges(maker, table, front, trial)]
        return self._best([part for part in ideas if len(part.gains)])

    def _measured_front(self, axis: int) -> _Front:
        """Of what meets the limits; where nothing does, of everything: what lies below it comes nearest to them."""
        observed = [o for o in self.evidence.observations if o.feasible] or self.evidence.observations
        values = np.array([(o.values[axis], o.values[0]) for o in observed]).reshape(-1, 2)
        order = np.lexsort((values[:, 1], values[:, 0]))
        kls = np.maximum(values[order, 1], _SMALLEST_KL)
        lowest = np.minimum.accumulate(kls)
        kept = np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(kls)]
        return _Front(values[order[kept], 0], kls[kept], [observed[i].point for i in order[kept]])

    def _members(self, maker: FrontMaker, table: SensitivityTable, front: _Front) -> _Ideas:
        """Members of the exact front of the corrected table."""
        members = maker.fronts(table.entries, 2 * _MEMBERS)
        points = [member.point for member in members]
        sizes = [maker.size_of(point) for point in points]
        own = np.array([0.0 if size is None else size.own for size in sizes])
        costs = np.array([member.cost for member in members])
        return _Ideas(costs, front.gain(costs, table.predict(points, own)), points.__getitem__)

    def _exchanges(
        self, maker: FrontMaker, table: SensitivityTable, front: _Front, trial: int
    ) -> list[_Ideas]:
        """Moves from measured members, one pruned size at a time."""
        random = self.random(trial)
        picked = [i for i, kl in enumerate(front.kls) if kl >= NEGLIGIBLE * front.kls[0]]
        picked = picked[:: 1 + len(picked) // _MEMBERS]
        sizes: dict[Point, list[int]] = {}
        for member in picked:
            sizes.setdefault(pruned_of(self.problem, front.points[member]), []).append(member)
        found = []
        for members in sizes.values():
            pruned = maker.size_of(front.points[members[0]])
            if pruned is not None:
                found.append(_from_moves(table, front, pruned, members, random))
        return found

    def _best(self, parts: list[_Ideas]) -> list[Point]:
        """The best new idea of each stretch of the cost axis, largest gain first, a batch at most."""
        if not parts:
            return []
        costs, gains = (np.concatenate([getattr(p, what) for p in parts]) for what in ("costs", "gains"))
        owners = np.repeat(np.arange(len(parts)), [len(part.gains) for part in parts])
        places = np.concatenate([np.arange(len(part.gains)) for part in parts])
        useful = gains > _LEAST_GAIN
        if not useful.any():
            return []
        edges = np.linspace(costs[useful].min(), costs[useful].max(), _STRETCHES + 1)[1:-1]
        stretches = np.searchsorted(edges, costs)
        taken: dict[int, Point] = {}
        for idea in np.argsort(-gains, kind="stable"):
            if not useful[idea] or len(taken) == min(_BATCH, _STRETCHES):
                break
            if int(stretches[idea]) not in taken:
                point = parts[owners[idea]].point(int(places[idea]))
                if point not in taken.values() and self.is_new(point):
                    taken[int(stretches[idea])] = point
        return list(taken.values())


def _most_telling(observations: list[Observation], front: _Front, axis: int) -> list[Observation]:
    """Nearest to the measured front first: the table has to be right there."""
    if not observations:
        return []
    costs = np.array([o.values[axis] for o in observations])
    kls = np.array([o.values[0] for o in observations])
    return [observations[i] for i in np.argsort(-front.gain(costs, kls), kind="stable")]


def _from_moves(
    table: SensitivityTable,
    front: _Front,
    pruned: PrunedSize,
    members: list[int],
    random: np.random.Generator,
) -> _Ideas:
    bases = np.array([front.points[member] for member in members])
    moves = draw_moves(table, pruned.cells, pruned.free_cells, bases, _EXCHANGES, random)
    cells = table.cells(bases)
    prior, corrected = table.flat_prior[cells].sum(axis=1), table.flat[cells].sum(axis=1)
    before = table.predict_sums(prior + pruned.own, corrected + pruned.own)
    after = table.predict_sums(
        prior[moves.member] + pruned.own + moves.prior,
        corrected[moves.member] + pruned.own + moves.corrected,
    )
    now = front.kls[members]
    costs = front.costs[members][moves.member] + moves.cost
    gains = front.gain(costs, (now / before)[moves.member] * after)
    return _Ideas(costs, gains, lambda move: moves.point(move, bases, table))
