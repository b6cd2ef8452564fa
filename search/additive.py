"""Costs that add up over genes, and the union of exact fronts over student sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.knapsack import AdditiveFront, exact_front
from search.observation import Problem
from spaces.space import Genome

NEGLIGIBLE = 1e-4
_STUDENT_KINDS = ("blocks", "kv_heads", "ffn_channels")


@dataclass(frozen=True)
class Predicted:
    """A member of an additive front: genome, cost and the sum of its damages (a student's own included)."""

    genome: Genome
    cost: float
    total: float


def additive_costs(problem: Problem, metric: str, base: Genome) -> tuple[list[np.ndarray], float]:
    """What every choice of every gene adds to ``metric``, and the rest, around the student of ``base``.

    Exact for bytes; for a predicted time it is the difference that one gene makes alone.
    """
    space = problem.space
    student = space.student(base)
    whole = float(problem.cost_of(base)[metric])
    found, chosen = [], 0.0
    for index, gene in enumerate(space.genes):
        if gene.kind in _STUDENT_KINDS or not _present(problem, index, base):
            cost = np.zeros(len(gene.choices))
        elif metric == "weight_bytes" and gene.group is not None:
            cost = np.array(space.choice_bytes(gene, student), dtype=np.float64)
        else:
            changed = [_changed(base, index, c) for c in range(len(gene.choices))]
            cost = np.array([float(problem.cost_of(genome)[metric]) for genome in changed]) - whole
        found.append(cost)
        chosen += float(cost[base[index]])
    return found, whole - chosen


def _changed(base: Genome, index: int, choice: int) -> Genome:
    return (*base[:index], choice, *base[index + 1 :])


def _free_genes(problem: Problem, base: Genome) -> list[bool]:
    """Whether each gene is open in the student of ``base``: neither the size itself nor a group that was cut."""
    return [
        not is_student_gene(problem, index) and _present(problem, index, base) for index in range(len(base))
    ]


def _present(problem: Problem, index: int, base: Genome) -> bool:
    """Whether the student has the group that the gene chooses for."""
    group = problem.space.genes[index].group
    return group is None or problem.space.student(base).keeps_block(group.block)


def student_of(problem: Problem, genome: Genome) -> Genome:
    """The genes of the student size alone."""
    return tuple(
        c for gene, c in zip(problem.space.genes, genome, strict=True) if gene.kind in _STUDENT_KINDS
    )


def is_student_gene(problem: Problem, index: int) -> bool:
    """Whether the gene decides the size of the student."""
    return problem.space.genes[index].kind in _STUDENT_KINDS


class FrontMaker:
    """Exact fronts of a damage table, one a student size, kept apart because their groups cost differently.

    Costs are computed once; a table that was refined needs only the dynamic programme again.

    Args:
        problem: what is searched.
        metric: the cost that is traded against damage.
        students: base genome (everything dense) of every student size and its own KL.
        most_cells: of the grid, see :func:`search.knapsack.exact_front`.
    """

    def __init__(
        self, problem: Problem, metric: str, students: Mapping[Genome, float], most_cells: int
    ) -> None:
        self.problem = problem
        self.metric = metric
        self._cells = most_cells
        self._students = [(base, kl, *additive_costs(problem, metric, base)) for base, kl in students.items()]
        self._free = {base: _free_genes(problem, base) for base in students}
        self._by_student = {student_of(problem, row[0]): row for row in self._students}
        self.whole_costs = self._students[0][2]
        self.exact = True

    def cost(self, genome: Genome) -> float | None:
        """The additive cost of a genome; ``None`` for a student size that was not given."""
        row = self._by_student.get(student_of(self.problem, genome))
        if row is None:
            return None
        return row[3] + sum(float(cost[c]) for cost, c in zip(row[2], genome, strict=True))

    def fronts(self, entries: Sequence[np.ndarray], members: int) -> list[Predicted]:
        """Members of the union, evenly thinned to ``members`` a student, ascending in cost."""
        found: list[Predicted] = []
        for base, own, costs, rest in self._students:
            front = exact_front(
                [self._only(costs, base, i) for i in range(len(costs))],
                [self._only(list(entries), base, i) for i in range(len(costs))],
                self._cells,
            )
            self.exact = self.exact and front.exact
            found += self._members(front, base, own, rest, members)
        return _union(found)

    def _only(self, values: list[np.ndarray], base: Genome, index: int) -> np.ndarray:
        """All choices of a gene, or only the base's where the student fixes it."""
        return values[index] if self._free[base][index] else np.zeros(1)

    def _members(
        self, front: AdditiveFront, base: Genome, own: float, rest: float, members: int
    ) -> list[Predicted]:
        # Beyond a ten-thousandth of the largest damage a member is the dense model for every purpose.
        useful = front.damages >= NEGLIGIBLE * front.damages.max(initial=0.0)
        spread = np.append(
            np.linspace(front.costs.min(), front.costs[useful].max(), members), front.costs.max()
        )
        picked = sorted({int(np.searchsorted(front.costs, cost, side="right")) - 1 for cost in spread})
        found = []
        for member in picked:
            genome = tuple(
                c if free else b
                for b, c, free in zip(base, front.genome(member), self._free[base], strict=True)
            )
            total = float(front.damages[member]) + own
            found.append(Predicted(genome, float(front.costs[member]) + rest, total))
        return found


def _union(members: list[Predicted]) -> list[Predicted]:
    kept: list[Predicted] = []
    for member in sorted(members, key=lambda m: (m.cost, m.total)):
        if not kept or member.total < kept[-1].total:
            kept.append(member)
    return kept
