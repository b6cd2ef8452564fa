"""The exact front of the additive model: marginals, dynamic programming, nothing learned.

What AMQ, HAWQ-V3 and AutoScheme's allocators approximate; here it is exact on bytes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from search.additive import FrontMaker, Predicted
from search.damage import DamageTable
from search.evidence import Evidence
from search.knapsack import MOST_CELLS
from search.observation import Observation, Problem
from search.proposers.proposer import Proposer
from spaces.space import Genome

_MEMBERS = 256


class AdditiveProposer(Proposer):
    """Proposes members of the exact additive front, the widest gap in cost first."""

    name = "additive"
    uses_marginals = True
    most_cells: ClassVar[int] = MOST_CELLS

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.evidence = Evidence(problem)
        self._makers: dict[str, FrontMaker] = {}
        self._queue: list[Genome] | None = None

    def tell(self, observation: Observation) -> None:
        """Take note; the front is made at the first proposal and stays."""
        self.evidence.add(observation)

    def propose(self, trial: int) -> Genome | None:  # noqa: ARG002 -- nothing here is random
        """The next member of the front that is admissible and new."""
        if self._queue is None:
            self._queue = by_gap([member.genome for member in self.front(self.table())])
        while self._queue:
            genome = self._queue.pop(0)
            if self.is_new(genome):
                return genome
        return None

    def table(self) -> DamageTable:
        """The damage table of what was told so far."""
        known = self.evidence
        return DamageTable(self.problem, known.marginals, known.uniform, known.sparse)

    def front(self, table: DamageTable, members: int = _MEMBERS) -> list[Predicted]:
        """Members of the exact fronts over every cost objective."""
        found: list[Predicted] = []
        for metric in self.problem.objectives[1:]:
            found += self.maker(metric).fronts(table.entries, members)
        return found

    def maker(self, metric: str) -> FrontMaker:
        """The maker of exact fronts over one cost."""
        if metric not in self._makers:
            self._makers[metric] = FrontMaker(self.problem, metric, self.evidence.students, self.most_cells)
        return self._makers[metric]

    def is_new(self, genome: Genome) -> bool:
        """Whether it was not told yet, or only read on little text, and may be measured."""
        digest = self.problem.space.decode(genome).digest
        return digest not in self.evidence.seen and self.problem.admissible(genome)


def by_gap(genomes: list[Genome]) -> list[Genome]:
    """A list reordered so that every prefix is spread evenly: ends, middle, quarters ..."""
    order: dict[int, None] = {}
    steps = [np.linspace(0, len(genomes) - 1, 2**k + 1) for k in range(max(1, len(genomes)).bit_length() + 1)]
    for index in (round(float(x)) for step in steps for x in step):
        if 0 <= index < len(genomes):
            order[index] = None
    return [genomes[index] for index in order]
