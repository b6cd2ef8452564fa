"""What a proposer sees: the problem, and candidates that were scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from spaces.space import Genome, SearchSpace


@dataclass(frozen=True)
class Observation:
    """One scored candidate.

    Attributes:
        genome: of the candidate.
        values: objectives, all to be minimised (maximised ones are negated), in the order of the problem.
        tokens: how many tokens of the search text stand behind the quality.
        violations: one number a limit, feasible at or below 0.
    """

    genome: Genome
    values: tuple[float, ...]
    tokens: int = 0
    violations: tuple[float, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether every limit is met."""
        return all(violation <= 0 for violation in self.violations)


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        space: of genomes.
        objectives: metric names; the first is the quality, the others are costs.
        gene_costs: for every cost objective and limited cost, the contribution of each choice of each gene
            (``float64 (choices,)`` a gene) when it is additive over the genes of the whole model, with the
            constant rest under :attr:`base_costs`; metrics that are not additive are absent.
        base_costs: the constant rest, by metric.
        cost_of: exact costs of a genome by metric, microseconds to milliseconds.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    gene_costs: Mapping[str, list[np.ndarray]] = field(default_factory=dict)
    base_costs: Mapping[str, float] = field(default_factory=dict)
    cost_of: Callable[[Genome], Mapping[str, float]] = lambda genome: {}
