"""The exact front of the additive model: marginals, dynamic programming, nothing learned.

What AMQ, HAWQ-V3 and AutoScheme's allocators approximate; here it is exact on bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from paretune.search.additive import MOST_CELLS, FrontMaker, Predicted
from paretune.search.samplers.sampler import Observation, Problem, Sampler
from paretune.search.sensitivity import Evidence, SensitivityTable
from paretune.spaces.space import Point

_MEMBERS = 256


class AdditiveSampler(Sampler):
    """Proposes members of the exact additive front, the widest gap in cost first."""

    name = "additive"
    uses_marginals = True
    ends = "converged"
    most_cells: ClassVar[int] = MOST_CELLS

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.evidence = Evidence(problem)
        self._makers: dict[str, FrontMaker] = {}
        self._queue: list[Point] | None = None

    def tell(self, observation: Observation) -> None:
        """Keep it; the front is made at the first proposal and stays."""
        self.evidence.add(observation)

    def propose(self, trial: int) -> Point | None:  # noqa: ARG002 -- nothing here is random
        """The next member of the front that is admissible and new."""
        if self._queue is None:
            self._queue = by_gap([member.point for member in self.front(self.table())])
        while self._queue:
            point = self._queue.pop(0)
            if self.is_new(point):
                return point
        return None

    def state(self) -> dict[str, Any]:
        """What is left of the queue, and the pruned sizes that fronts are made of."""
        return {"queue": self._queue, "sizes": {m: maker.own_of_sizes for m, maker in self._makers.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Sampler.restore`."""
        self._queue = as_points(state["queue"])
        for metric, sizes in state["sizes"].items():
            known = {tuple(base): own for base, own in sizes}
            self._makers[metric] = FrontMaker(self.problem, metric, known, self.most_cells)

    def table(self) -> SensitivityTable:
        """The sensitivity table of what was told so far."""
        known = self.evidence
        return SensitivityTable(self.problem, known.marginals, known.uniform, known.sparse)

    def front(self, table: SensitivityTable, members: int = _MEMBERS) -> list[Predicted]:
        """Members of the exact fronts over every cost objective."""
        found: list[Predicted] = []
        for metric in self.problem.objectives[1:]:
            found += self.maker(metric).fronts(table.entries, members)
        return found

    def maker(self, metric: str) -> FrontMaker:
        """The maker of exact fronts over one cost."""
        if metric not in self._makers:
            self._makers[metric] = FrontMaker(
                self.problem, metric, self.evidence.pruned_sizes, self.most_cells
            )
        return self._makers[metric]

    def is_new(self, point: Point) -> bool:
        """Whether it was not told yet, or only read on little text, and may be measured."""
        return not self.evidence.is_read(point) and self.problem.admissible(point)


def as_points(kept: list[list[int]] | None) -> list[Point] | None:
    """Points that were written as JSON."""
    return None if kept is None else [tuple(point) for point in kept]


def by_gap(points: list[Point]) -> list[Point]:
    """A list reordered so that every prefix is spread evenly: ends, middle, quarters ..."""
    order: dict[int, None] = {}
    steps = [np.linspace(0, len(points) - 1, 2**k + 1) for k in range(max(1, len(points)).bit_length() + 1)]
    for index in (round(float(x)) for step in steps for x in step):
        if 0 <= index < len(points):
            order[index] = None
    return [points[index] for index in order]
