"""The default: exact fronts of a sensitivity table that learns, and exchanges around the measured front.

First members of the additive front. Then, again and again: correct the table by what was measured, make its
exact front, and draw exchanges (one group up, others down) around measured members, whose prediction starts
from their measured loss and so carries what the table does not know. Of all these the largest predicted gains
over the measured front are proposed, at most one in each stretch of the cost axis. With several costs each round
works on one of them in turn; their product is not aimed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from paretune.search.additive import NEGLIGIBLE, FrontMaker, PrunedSize
from paretune.search.loss_table import LossTable
from paretune.search.samplers.additive import AdditiveSampler, as_points, by_gap
from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.space import Point

_FIRST = 24
_STRETCHES = 24
_BATCH = 20
_EXCHANGES = 300
_MEMBERS = 64
_DRAWS = 3
_LEAST_GAIN = -0.05
_LEAST_LOSS = 1e-9


@dataclass(frozen=True)
class _Front:
    """The measured front in one cost: costs ascending, losses descending."""

    costs: np.ndarray
    losses: np.ndarray
    points: list[Point]

    def gain(self, costs: np.ndarray, expected: np.ndarray) -> np.ndarray:
        """Log loss below the front at ``costs`` if ``expected`` comes true."""
        places = np.searchsorted(self.costs, costs, side="right") - 1
        return np.asarray(np.log(self.losses[np.maximum(places, 0)]) - np.log(np.maximum(expected, 1e-12)))


@dataclass(frozen=True)
class _Ideas:
    """Predicted cost and gain ``(ideas,)`` of points that are made when they are wanted."""

    costs: np.ndarray
    gains: np.ndarray
    point: Callable[[int], Point]


class ParetuneSampler(AdditiveSampler):
    """Learned table, exact fronts, exchanges."""

    most_cells = 2_000_000

    def _begin(self, problem: Problem) -> None:
        super()._begin(problem)
        self._ideas: list[Point] = []
        self._first: list[Point] | None = None
        self._rounds = 0

    def next_point(self, number: int) -> Point | None:
        """The next idea; new ones are thought of when the last is used up."""
        if self._first is None:
            self._first = by_gap([member.point for member in self.front(self.table(), 2 * _FIRST)])[:_FIRST]
        for queue in (self._first, self._ideas):
            found = self.take(queue)
            if found is not None:
                return found
        for attempt in range(_DRAWS * len(self.problem.costs)):
            # Before it gives up exchanges are drawn anew, for every cost.
            self._ideas = self._think(np.random.default_rng([self.seed, number, attempt]))
            found = self.take(self._ideas)
            if found is not None:
                return found
        return None

    def state(self) -> dict[str, Any]:
        """The queues, the rounds of thinking, and the pruned sizes that fronts are made of."""
        return {**super().state(), "first": self._first, "ideas": self._ideas, "rounds": self._rounds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the :meth:`state` of another."""
        super().restore(state)
        self._first, self._ideas = as_points(state["first"]), as_points(state["ideas"]) or []
        self._rounds = int(state["rounds"])

    def _think(self, random: np.random.Generator) -> list[Point]:
        axis = 1 + self._rounds % len(self.problem.costs)
        self._rounds += 1
        front = self._measured_front(axis)
        if not len(front.costs):
            return []
        table = self.table()
        table.refine(_most_telling(self.evidence.whole, front, axis))
        maker = self.maker(self.problem.costs[axis - 1])
        ideas = [self._members(maker, table, front), *self._exchanges(maker, table, front, random)]
        return self._best([part for part in ideas if len(part.gains)])

    def _measured_front(self, axis: int) -> _Front:
        """Of what meets the limits; where nothing does, of everything: what lies below it comes nearest to them."""
        observed = [o for o in self.evidence.compared if o.feasible] or self.evidence.compared
        values = np.array([((*o.values, 0.0)[axis], o.values[0]) for o in observed]).reshape(-1, 2)
        order = np.lexsort((values[:, 1], values[:, 0]))
        losses = np.maximum(values[order, 1], _LEAST_LOSS)
        lowest = np.minimum.accumulate(losses)
        kept = np.concatenate([[True], lowest[1:] < lowest[:-1]])[: len(losses)]
        return _Front(values[order[kept], 0], losses[kept], [observed[i].point for i in order[kept]])

    def _members(self, maker: FrontMaker, table: LossTable, front: _Front) -> _Ideas:
        """Members of the exact front of the corrected table."""
        members = maker.fronts(table.entries, 2 * _MEMBERS)
        points = [member.point for member in members]
        sizes = [maker.size_of(point) for point in points]
        own = np.array([0.0 if size is None else size.own for size in sizes])
        costs = np.array([member.cost for member in members])
        return _Ideas(costs, front.gain(costs, table.predict(points, own)), points.__getitem__)

    def _exchanges(
        self, maker: FrontMaker, table: LossTable, front: _Front, random: np.random.Generator
    ) -> list[_Ideas]:
        """Moves from measured members, one pruned size at a time."""
        picked = [i for i, loss in enumerate(front.losses) if loss >= NEGLIGIBLE * front.losses[0]]
        picked = picked[:: 1 + len(picked) // _MEMBERS]
        sizes: dict[Point, list[int]] = {}
        for member in picked:
            sizes.setdefault(self.problem.shape_of(front.points[member]), []).append(member)
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
    costs = np.array([(*o.values, 0.0)[axis] for o in observations])
    losses = np.array([o.values[0] for o in observations])
    return [observations[i] for i in np.argsort(-front.gain(costs, losses), kind="stable")]


def _from_moves(
    table: LossTable,
    front: _Front,
    pruned: PrunedSize,
    members: list[int],
    random: np.random.Generator,
) -> _Ideas:
    bases = np.array([front.points[member] for member in members])
    moves = draw_moves(table, pruned.cells, pruned.free_cells, bases, _EXCHANGES, random)
    sums = table.flat[table.cells(bases)].sum(axis=1) + pruned.own
    before, after = table.predict_sums(sums), table.predict_sums(sums[moves.member] + moves.loss)
    costs = front.costs[members][moves.member] + moves.cost
    expected = (front.losses[members] / before)[moves.member] * after
    return _Ideas(costs, front.gain(costs, expected), lambda move: moves.point(move, bases, table))


# -- exchanges -----------------------------------------------------------------------------------------------

_SECOND, _THIRD = 0.9, 0.35
"""How often a move has a second, and a third change."""


@dataclass(frozen=True)
class Moves:
    """Moves from members to neighbours.

    Attributes:
        member: int64 ``(moves,)``, of which member.
        cells: int64 ``(moves, 3)``, changed cells of the table; repeated where there are fewer changes.
        cost: float64 ``(moves,)``, change of cost.
        loss: float64 ``(moves,)``, change of the sum of entries.
    """

    member: np.ndarray
    cells: np.ndarray
    cost: np.ndarray
    loss: np.ndarray

    def point(self, move: int, members: np.ndarray, table: LossTable) -> Point:
        """The neighbour that a move leads to from its member."""
        changed = members[self.member[move]].copy()
        parameters = table.parameters[self.cells[move]]
        # The first change comes last, so that repeated cells change nothing.
        changed[parameters[::-1]] = (self.cells[move] - table.offsets[parameters])[::-1]
        return tuple(int(choice) for choice in changed)


def draw_moves(
    table: LossTable,
    costs: np.ndarray,
    free: np.ndarray,
    members: np.ndarray,
    count: int,
    random: np.random.Generator,
) -> Moves:
    """At most ``count`` random moves from each member: one choice for the better, none to two for the worse.

    Nothing is built for a move but its change of cost and loss; the few that are worth it become points.

    Args:
        table: of sensitivities.
        costs: float64 ``(cells,)``, what every cell of the table costs.
        free: bool ``(cells,)``, which cells may be chosen.
        members: int64 ``(members, parameters)`` points.
        count: of moves from one member; those that would change a parameter twice are dropped.
        random: the source of chance.
    """
    parameter_of = table.parameters
    drawn = [Moves(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), *[np.zeros(0)] * 2)]
    for number, now in enumerate(table.cells(members)):
        sensitivity = table.flat - table.flat[now][parameter_of]
        better, worse = np.flatnonzero((sensitivity < 0) & free), np.flatnonzero((sensitivity > 0) & free)
        if not len(better):
            continue
        cells = _draw(better, worse, count, random)
        cells = cells[~_clash(parameter_of[cells], cells)]
        fresh = np.ones(cells.shape)
        fresh[:, 1] = cells[:, 1] != cells[:, 0]
        fresh[:, 2] = (cells[:, 2] != cells[:, 1]) & (cells[:, 2] != cells[:, 0])
        changes = [
            ((values[cells] - values[now][parameter_of[cells]]) * fresh).sum(axis=1)
            for values in (costs, table.flat)
        ]
        drawn.append(Moves(np.full(len(cells), number), cells, *changes))
    return Moves(*(np.concatenate([getattr(d, f.name) for d in drawn]) for f in fields(Moves)))


def _draw(better: np.ndarray, worse: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Cells ``(count, 3)``: one for the better, then often one and sometimes two for the worse."""
    first = random.choice(better, count)
    cells = np.stack([first, first, first], axis=1)
    if len(worse):
        for column, often in ((1, _SECOND), (2, _THIRD)):
            cells[:, column] = np.where(random.random(count) < often, random.choice(worse, count), first)
    return cells


def _clash(parameters: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Whether a move gives one parameter two choices."""
    found = np.zeros(len(cells), dtype=bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        found |= (parameters[:, a] == parameters[:, b]) & (cells[:, a] != cells[:, b])
    return found
