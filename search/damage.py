"""The damage table: what each choice of each gene adds to the KL, from marginals and then from candidates.

Prior: the KL measured with one group changed at a few widths; other widths lie on a line in (bits, log KL),
other methods and sparsities are scaled by what uniform configurations and probes showed. Additivity of small
perturbations of the logits is the assumption of AMQ, HAWQ and AutoScheme alike; it fails where perturbations
are large, so a power law between the sum and the KL is fitted, and then a correction of every entry by
Bayesian linear regression on relative errors of measured candidates, shrunk towards the prior.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.observation import Observation, Problem
from spaces.choice import SiteChoice
from spaces.space import Genome

_SLOPE = math.log(4.5)
"""Log KL gained by one bit where nothing was measured: 4 from the step, a little from clipping."""
_FLOOR = 1e-9
_PRIOR_SPREAD = 0.35
"""Relative standard deviation of an entry around its prior."""
_NOISE = 0.05
"""Relative standard deviation of a measured KL around the law."""
_SMALLEST, _LARGEST = 0.1, 10.0


@dataclass(frozen=True)
class Marginal:
    """The KL measured with one gene at one choice and everything else dense."""

    gene: int
    choice: int
    kl: float


class DamageTable:
    """Predicted damage of every (gene, choice) of a space.

    Args:
        problem: what is searched.
        marginals: one-gene readings; a gene without any is estimated from uniform readings and its size.
        uniform: KL of uniform configurations by (bits, method); used for the ratio between methods.
        sparse: KL of a configuration with every group half zero and 16 bits, where there is one.
    """

    def __init__(
        self,
        problem: Problem,
        marginals: Sequence[Marginal],
        uniform: dict[tuple[int, str], float],
        sparse: float | None = None,
    ) -> None:
        self._problem = problem
        self._uniform = uniform
        self._sparse = sparse
        self._shares = _weight_shares(problem)
        known: dict[int, dict[int, float]] = defaultdict(dict)
        for marginal in marginals:
            known[marginal.gene][marginal.choice] = max(marginal.kl, _FLOOR)
        genes = problem.space.genes
        self.prior = [self._gene_prior(index, known.get(index, {})) for index in range(len(genes))]
        self._offsets = np.concatenate([[0], np.cumsum([len(p) for p in self.prior])]).astype(np.int64)
        self.entries = [prior.copy() for prior in self.prior]
        self.intercept, self.power = 0.0, 1.0

    def total(self, genome: Genome) -> float:
        """Sum of the entries of a genome (groups of cut blocks count as chosen)."""
        return max(_FLOOR, sum(float(e[c]) for e, c in zip(self.entries, genome, strict=True)))

    def predict(self, total: float | np.ndarray) -> np.ndarray:
        """KL that a sum of entries stands for."""
        return np.exp(self.intercept + self.power * np.log(np.maximum(total, _FLOOR)))

    def refine(self, observations: Sequence[Observation]) -> None:
        """Fit the law and correct the entries on candidates of the whole (uncut) model."""
        used = [o for o in observations if o.values[0] > _FLOOR and self._prior_total(o.genome) > _FLOOR]
        if len(used) < 8:
            return
        kls = np.array([o.values[0] for o in used])
        sums = np.array([self._prior_total(o.genome) for o in used])
        self.intercept, self.power = _power_law(np.log(sums), np.log(kls))
        targets = np.exp((np.log(kls) - self.intercept) / self.power)
        design = self._design([o.genome for o in used]) / targets[:, None]
        correction = _ridge(design, 1.0 - sums / targets)
        flat = np.concatenate(self.prior)
        flat = flat * np.clip(1.0 + correction, _SMALLEST, _LARGEST)
        self.entries = [flat[a:b] for a, b in zip(self._offsets, self._offsets[1:], strict=False)]

    # -- prior --------------------------------------------------------------------------------------------

    def _gene_prior(self, index: int, known: dict[int, float]) -> np.ndarray:
        gene = self._problem.space.genes[index]
        if gene.kind != "site":
            return np.array([known.get(c, 0.0) for c in range(len(gene.choices))])
        points = {
            choice.weight.num_bits: kl
            for c, kl in known.items()
            if isinstance(choice := gene.choices[c], SiteChoice) and choice.sparsity is None
        }
        points = points or self._from_uniform(index)
        return np.array(
            [
                known.get(c, self._estimate(index, choice, points)) if isinstance(choice, SiteChoice) else 0.0
                for c, choice in enumerate(gene.choices)
            ]
        )

    def _estimate(self, index: int, choice: SiteChoice, points: dict[int, float]) -> float:
        sparse = 0.0
        if choice.sparsity is not None:
            whole = self._sparse if self._sparse is not None else max(self._uniform.values(), default=1.0)
            sparse = whole * self._shares[index]
        if choice.weight.dense:
            return sparse
        bits = choice.weight.num_bits
        return interpolated(points, bits) * self._method_ratio(bits, choice.method) + sparse

    def _method_ratio(self, bits: int, method: str) -> float:
        first = next((m for b, m in self._uniform if b == bits), method)
        here, base = self._uniform.get((bits, method)), self._uniform.get((bits, first))
        return here / base if here and base else 1.0

    def _from_uniform(self, index: int) -> dict[int, float]:
        share = self._shares[index]
        points = {bits: kl * share for (bits, _), kl in reversed(self._uniform.items())}
        return points or {4: 0.05 * share}

    # -- refinement ---------------------------------------------------------------------------------------

    def _prior_total(self, genome: Genome) -> float:
        return sum(float(p[c]) for p, c in zip(self.prior, genome, strict=True))

    def _design(self, genomes: Sequence[Genome]) -> np.ndarray:
        design = np.zeros((len(genomes), int(self._offsets[-1])))
        flat = np.concatenate(self.prior)
        columns = np.array(genomes, dtype=np.int64) + self._offsets[:-1]
        np.put_along_axis(design, columns, flat[columns], axis=1)
        return design


def interpolated(points: dict[int, float], bits: int) -> float:
    """KL at a width, on straight lines in (bits, log KL) through the measured widths and beyond them."""
    if bits in points:
        return points[bits]
    widths = sorted(points)
    logs = [math.log(max(points[width], _FLOOR)) for width in widths]
    if len(widths) == 1:
        return math.exp(logs[0] - _SLOPE * (bits - widths[0]))
    right = min(max(int(np.searchsorted(widths, bits)), 1), len(widths) - 1)
    a, b = right - 1, right
    slope = (logs[b] - logs[a]) / (widths[b] - widths[a])
    if not widths[0] <= bits <= widths[-1]:
        slope = min(slope, -0.5)  # more bits never do more harm; beyond what was measured noise may say so
    return math.exp(logs[a] + slope * (bits - widths[a]))


def _weight_shares(problem: Problem) -> list[float]:
    spec = problem.space.spec
    sizes = [
        sum(spec.linear(site).weights for site in gene.group.sites) if gene.group is not None else 0
        for gene in problem.space.genes
    ]
    total = sum(sizes) or 1
    return [size / total for size in sizes]


def _power_law(logs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of a line, the slope shrunk towards 1."""
    x, y = logs - logs.mean(), targets - targets.mean()
    strength = 1.0
    power = (float(x @ y) + strength) / (float(x @ x) + strength)
    power = min(max(power, 0.5), 2.0)
    return float(targets.mean() - power * logs.mean()), power


def _ridge(design: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Posterior mean of independent corrections with spread ``_PRIOR_SPREAD`` under noise ``_NOISE``."""
    rows, columns = design.shape
    ratio = (_NOISE / _PRIOR_SPREAD) ** 2
    if rows <= columns:
        kernel = design @ design.T
        kernel[np.diag_indices(rows)] += ratio
        return np.asarray(design.T @ np.linalg.solve(kernel, residual))
    normal = design.T @ design
    normal[np.diag_indices(columns)] += ratio
    return np.asarray(np.linalg.solve(normal, design.T @ residual))
