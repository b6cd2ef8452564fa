"""Costs that add up over genes, and the union of exact fronts over student sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.knapsack import AdditiveFront, exact_front
from search.observation import Problem
from spaces.space import Genome
from spaces.students import STUDENT_KINDS

NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Predicted:
    """A member of an additive front: genome, cost and the sum of its damages (a student's own included)."""

    genome: Genome
    cost: float
    total: float


@dataclass(frozen=True)
class StudentSize:
    """What is known about one student size.

    Attributes:
        base: its genome with everything else dense.
        own: KL of the size alone.
        costs: what every choice of every gene adds, one array a gene; NaN where the size refuses the format.
        rest: cost of everything else.
        free: which genes are open in it, bool ``(genes,)``.
    """

    base: Genome
    own: float
    costs: list[np.ndarray]
    rest: float
    free: np.ndarray

    @cached_property
    def cells(self) -> np.ndarray:
        """The costs of all genes in a row, float64 ``(cells,)``."""
        return np.concatenate(self.costs)

    @cached_property
    def free_cells(self) -> np.ndarray:
        """Which choices are open, bool ``(cells,)``."""
        open_ones: np.ndarray = np.repeat(self.free, [len(cost) for cost in self.costs]) & ~np.isnan(
            self.cells
        )
        return open_ones

    def opened(self, damages: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Costs and damages of the open genes' choices, refused ones too dear; a zero for the other genes."""
        costs, harms = [], []
        for cost, damage, free in zip(self.costs, damages, self.free, strict=True):
            legal = ~np.isnan(cost)
            costs.append(np.where(legal, cost, np.nanmax(cost)) if free else np.zeros(1))
            harms.append(np.where(legal, damage, np.inf) if free else np.zeros(1))
        return costs, harms


def additive_costs(problem: Problem, metric: str, base: Genome) -> tuple[list[np.ndarray], float]:
    """What every choice of every gene adds to ``metric``, and the rest, around the student of ``base``.

    Exact for bytes; for a predicted time it is the difference that one gene makes alone.
    """
    space = problem.space
    student = space.student(base)
    whole = float(problem.cost_of(base)[metric])
    found, chosen = [], 0.0
    for index, gene in enumerate(space.genes):
        if gene.kind in STUDENT_KINDS or not _present(problem, index, base):
            cost = np.zeros(len(gene.choices))
        elif metric == "weight_bytes" and gene.group is not None:
            cost = np.array(space.choice_bytes(gene, student), dtype=np.float64)
        else:
            changed = [_changed(base, index, c) for c in range(len(gene.choices))]
            cost = np.array([_cost(problem, metric, genome) for genome in changed]) - whole
        found.append(cost)
        chosen += float(cost[base[index]])
    return found, whole - chosen


def _cost(problem: Problem, metric: str, genome: Genome) -> float:
    """NaN for what the student size refuses."""
    return float(problem.cost_of(genome)[metric]) if problem.space.ruling(genome) else float("nan")


def _changed(base: Genome, index: int, choice: int) -> Genome:
    return (*base[:index], choice, *base[index + 1 :])


def _present(problem: Problem, index: int, base: Genome) -> bool:
    """Whether the student has the group that the gene chooses for."""
    group = problem.space.genes[index].group
    return group is None or problem.space.student(base).keeps_block(group.block)


def student_of(problem: Problem, genome: Genome) -> Genome:
    """The genes of the student size alone."""
    return tuple(c for gene, c in zip(problem.space.genes, genome, strict=True) if gene.kind in STUDENT_KINDS)


def is_student_gene(problem: Problem, index: int) -> bool:
    """Whether the gene decides the size of the student."""
    return problem.space.genes[index].kind in STUDENT_KINDS


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
        self._sizes = {student_of(problem, base): self._size(base, own) for base, own in students.items()}
        self.exact = True

    def _size(self, base: Genome, own: float) -> StudentSize:
        costs, rest = additive_costs(self.problem, self.metric, base)
        genes = range(len(base))
        free = [not is_student_gene(self.problem, g) and _present(self.problem, g, base) for g in genes]
        return StudentSize(base, own, costs, rest, np.array(free))

    def size_of(self, genome: Genome) -> StudentSize | None:
        """The student size of a genome; ``None`` if it was not given."""
        return self._sizes.get(student_of(self.problem, genome))

    def fronts(self, entries: Sequence[np.ndarray], members: int) -> list[Predicted]:
        """Members of the union, evenly thinned to ``members`` a student, ascending in cost."""
        found: list[Predicted] = []
        for size in self._sizes.values():
            front = exact_front(*size.opened(entries), self._cells)
            self.exact = self.exact and front.exact
            found += _members(front, size, members)
        return _union(found)


def _members(front: AdditiveFront, size: StudentSize, members: int) -> list[Predicted]:
    picked = _picked(front, members)
    genomes = np.where(size.free, front.genomes(picked), size.base)
    # The grid may be coarse; what a member costs is the sum of its choices.
    parts = [cost[genomes[:, gene]] for gene, cost in enumerate(size.costs)]
    exact = size.rest + np.sum(parts, axis=0)
    return [
        Predicted(tuple(genome), float(cost), float(total) + size.own)
        for genome, cost, total in zip(genomes.tolist(), exact, front.damages[picked], strict=True)
    ]


def _picked(front: AdditiveFront, members: int) -> np.ndarray:
    """All members, or about so many at even steps of cost where they are many."""
    if len(front) <= members:
        return np.arange(len(front))
    # Beyond a ten-thousandth of the largest damage a member is the dense model for every purpose.
    useful = front.damages >= NEGLIGIBLE * front.damages.max(initial=0.0)
    steps = np.linspace(front.costs.min(), front.costs[useful].max(), members)
    return np.unique(np.searchsorted(front.costs, np.append(steps, front.costs.max()), side="right") - 1)


def _union(members: list[Predicted]) -> list[Predicted]:
    kept: list[Predicted] = []
    for member in sorted(members, key=lambda m: (m.cost, m.total)):
        if not kept or member.total < kept[-1].total:
            kept.append(member)
    return kept
