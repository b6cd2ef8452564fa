"""The default: the exact front of a damage table that learns, and exchanges around the measured front.

First members of the additive front. Then, again and again: correct the table by what was measured, make its
exact front, and take exchanges (one group up, another down) around measured members, whose prediction starts
from their measured KL and so carries what the table does not know. Of all these the largest predicted gains
over the measured front are proposed, at most one in each stretch of the cost axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.additive import NEGLIGIBLE
from search.damage import DamageTable
from search.observation import Problem
from search.proposers.additive import AdditiveProposer, by_gap
from spaces.space import Genome

_FIRST = 24
_BINS = 24
_BATCH = 12
_EXCHANGES = 200
_MEMBERS = 96
_LEAST_GAIN = -0.05


@dataclass(frozen=True)
class _Idea:
    genome: Genome
    cost: float
    gain: float


class ParetuneProposer(AdditiveProposer):
    """Learned table, exact fronts, exchanges."""

    name = "paretune"
    uses_marginals = True
    most_cells = 4_000_000

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._ideas: list[Genome] = []
        self._first: list[Genome] | None = None

    def propose(self, trial: int) -> Genome | None:
        """The next idea; new ones are thought of when the last is used up."""
        if self._first is None:
            front = [member.genome for member in self.front(self.table(), _MEMBERS)]
            self._first = by_gap(front)[:_FIRST]
        for queue in (self._first, self._ideas):
            found = self._next(queue)
            if found is not None:
                return found
        self._ideas = self._think(trial)
        return self._next(self._ideas)

    def _next(self, queue: list[Genome]) -> Genome | None:
        while queue:
            genome = queue.pop(0)
            if self.is_new(genome):
                return genome
        return None

    def _think(self, trial: int) -> list[Genome]:
        table = self.table()
        table.refine(self.evidence.whole)
        costs, kls, genomes = self._measured_front()
        ideas = self._from_front(table, costs, kls) + self._exchanges(table, costs, kls, genomes, trial)
        fresh, seen = [], set()
        for idea in sorted(ideas, key=lambda idea: -idea.gain):
            if idea.genome not in seen and self.is_new(idea.genome):
                fresh.append(idea)
                seen.add(idea.genome)
                if len(fresh) >= 4 * _BINS:
                    break
        return [idea.genome for idea in _best_by_stretch(fresh)]

    def _measured_front(self) -> tuple[np.ndarray, np.ndarray, list[Genome]]:
        """Costs ascending, KLs descending and genomes of the measured front (first cost objective)."""
        best: list[tuple[float, float, Genome]] = []
        rows = [
            (o.values[1], max(o.values[0], 1e-9), o.genome) for o in self.evidence.observations if o.feasible
        ]
        for row in sorted(rows):
            if not best or row[1] < best[-1][1]:
                best.append(row)
        return np.array([r[0] for r in best]), np.array([r[1] for r in best]), [r[2] for r in best]

    def _from_front(self, table: DamageTable, costs: np.ndarray, kls: np.ndarray) -> list[_Idea]:
        ideas = []
        for member in self.front(table, _MEMBERS):
            cost = self._cost(member.genome)
            ideas.append(
                _Idea(member.genome, cost, _gain(costs, kls, cost, float(table.predict(member.total))))
            )
        return ideas

    def _exchanges(
        self, table: DamageTable, costs: np.ndarray, kls: np.ndarray, genomes: list[Genome], trial: int
    ) -> list[_Idea]:
        random = self.random(trial)
        ideas = []
        for kl, genome in list(zip(kls, genomes, strict=True))[:_MEMBERS]:
            if kl < NEGLIGIBLE * kls[0]:
                continue
            now, law = table.total(genome), float(table.predict(table.total(genome)))
            cost = self._cost(genome)
            for changes in _exchanges(genome, table, random):
                total = now + sum(
                    float(table.entries[g][c] - table.entries[g][genome[g]]) for g, c in changes
                )
                expected = float(kl) / law * float(table.predict(total))
                there = cost + sum(self._step(g, genome[g], c) for g, c in changes)
                gain = _gain(costs, kls, there, expected)
                if gain > _LEAST_GAIN:
                    ideas.append(_Idea(_with(genome, changes), there, gain))
        return ideas

    def _step(self, gene: int, before: int, after: int) -> float:
        """Cost added by one change in the whole model."""
        steps = self._makers[self.problem.objectives[1]].whole_costs[gene]
        return float(steps[after] - steps[before])

    def _cost(self, genome: Genome) -> float:
        metric = self.problem.objectives[1]
        known = self._makers[metric].cost(genome)
        return float(self.problem.cost_of(genome)[metric]) if known is None else known


def _exchanges(
    genome: Genome, table: DamageTable, random: np.random.Generator
) -> list[tuple[tuple[int, int], ...]]:
    """Random exchanges: one or two genes change, the first of them for the better."""
    better, worse = _moves(genome, table)
    if not better:
        return []
    found = []
    for _ in range(_EXCHANGES):
        changes = [better[int(random.integers(len(better)))]]
        if worse and random.random() < 0.8:
            changes.append(worse[int(random.integers(len(worse)))])
        if len({gene for gene, _ in changes}) == len(changes):
            found.append(tuple(changes))
    return found


def _with(genome: Genome, changes: tuple[tuple[int, int], ...]) -> Genome:
    changed = list(genome)
    for gene, choice in changes:
        changed[gene] = choice
    return tuple(changed)


def _moves(genome: Genome, table: DamageTable) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Single changes that lower the damage, and single changes that raise it."""
    better: list[tuple[int, int]] = []
    worse: list[tuple[int, int]] = []
    for gene, (entries, now) in enumerate(zip(table.entries, genome, strict=True)):
        for choice, damage in enumerate(entries):
            if damage != entries[now]:
                (better if damage < entries[now] else worse).append((gene, choice))
    return better, worse


def _gain(costs: np.ndarray, kls: np.ndarray, cost: float, expected: float) -> float:
    """Log KL below the measured front at this cost."""
    place = int(np.searchsorted(costs, cost, side="right")) - 1
    now = float(kls[max(place, 0)]) if len(kls) else 1.0
    return float(np.log(now) - np.log(max(expected, 1e-12)))


def _best_by_stretch(ideas: list[_Idea]) -> list[_Idea]:
    """The best idea of each stretch of the cost axis, largest gain first, a batch at most."""
    if not ideas:
        return []
    costs = np.array([idea.cost for idea in ideas])
    edges = np.linspace(costs.min(), costs.max(), _BINS + 1)[1:-1]
    best: dict[int, _Idea] = {}
    for idea, stretch in zip(ideas, np.searchsorted(edges, costs), strict=True):
        if int(stretch) not in best or idea.gain > best[int(stretch)].gain:
            best[int(stretch)] = idea
    return sorted(best.values(), key=lambda idea: -idea.gain)[:_BATCH]
