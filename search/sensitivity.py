"""The sensitivity table: what each choice of each parameter adds to the KL, from marginals and then from candidates.

Prior: the KL measured with one group changed at a few widths, by the method that did least harm when everything had
it; other widths lie on a line in (bits, log KL), other methods and sparsities are scaled by what uniform
configurations and probes showed. Additivity of small perturbations of the logits is the assumption of AMQ, HAWQ and
AutoScheme alike; it fails where perturbations are large, so what it leaves unexplained is learned from measured
candidates (:mod:`paretune.search.residual`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.search.observation import Observation, Problem
from paretune.search.residual import Residual
from paretune.spaces.choice import LayerChoice
from paretune.spaces.space import Point

_SLOPE = math.log(4.5)
"""Log KL gained by one bit where nothing was measured: 4 from the step, a little from clipping."""
_FLOOR = 1e-9
_FEWEST_OBSERVATIONS, _MOST_OBSERVATIONS = 8, 384


@dataclass(frozen=True)
class Marginal:
    """The KL measured with one parameter at one choice and everything else dense."""

    parameter: int
    choice: int
    kl: float


class SensitivityTable:
    """Predicted sensitivity of every (parameter, choice) of a space.

    Args:
        problem: what is searched.
        marginals: one-parameter readings; a parameter without any is estimated from uniform readings and its size.
        uniform: KL of uniform configurations by (bits, method); used for the ratio between methods.
        sparse: KL of a configuration with every group half zero and 16 bits, where there is one.

    Attributes:
        prior: one array a parameter, one entry a choice.
        flat_prior: the same of all parameters in a row.
        flat: the corrected entries.
        offsets: where each parameter begins in ``flat``.
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
            known[marginal.parameter][marginal.choice] = max(marginal.kl, _FLOOR)
        parameters = problem.space.parameters
        self.prior = [self._parameter_prior(index, known.get(index, {})) for index in range(len(parameters))]
        self.offsets = np.cumsum([0, *(len(p) for p in self.prior[:-1])]).astype(np.int64)
        self.flat_prior = np.concatenate(self.prior)
        self.flat = self.flat_prior
        self._residual: Residual | None = None

    def refine(self, observations: Sequence[Observation]) -> None:
        """Correct the entries, and fit the trend, on candidates of the whole (uncut) model.

        Args:
            observations: those that matter most first; a few hundred are taken.
        """
        used = [o for o in observations if _FLOOR < o.values[0] < math.inf][:_MOST_OBSERVATIONS]
        cells = self.cells([o.point for o in used])
        sums = self.flat_prior[cells].sum(axis=1)
        useful = sums > _FLOOR
        if useful.sum() < _FEWEST_OBSERVATIONS:
            return
        logs, kls = np.log(sums[useful]), np.log([o.values[0] for o in used])[useful]
        shares = np.zeros((len(logs), len(self.flat_prior)))
        np.put_along_axis(shares, cells[useful], self.flat_prior[cells[useful]] / sums[useful, None], axis=1)
        self._residual = Residual(logs, shares, kls - logs)
        self.flat = self.flat_prior * self._residual.factors

    def cells(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """Places of points' entries in :attr:`flat`, int64 ``(points, parameters)``."""
        return np.asarray(points, dtype=np.int64).reshape(-1, len(self.prior)) + self.offsets

    def predict(self, points: Sequence[Point] | np.ndarray, more: float | np.ndarray = 0.0) -> np.ndarray:
        """KL of points, ``(points,)``.

        Args:
            points: of the whole model, or of a pruned model whose own KL is ``more``.
            more: added to the sums.
        """
        cells = self.cells(points)
        return self.predict_sums(
            self.flat_prior[cells].sum(axis=1) + more, self.flat[cells].sum(axis=1) + more
        )

    def predict_sums(self, prior: np.ndarray, corrected: np.ndarray) -> np.ndarray:
        """KL that a sum of prior entries, and the same of corrected ones, stand for."""
        logs = np.log(np.maximum(prior, _FLOOR))
        trend = np.zeros_like(logs) if self._residual is None else self._residual.trend(logs)
        return np.asarray(np.maximum(corrected, _FLOOR) * np.exp(trend))

    @property
    def entries(self) -> list[np.ndarray]:
        """The corrected entries, one array a parameter."""
        ends = [*self.offsets[1:], len(self.flat)]
        return [self.flat[a:b] for a, b in zip(self.offsets, ends, strict=True)]

    # -- prior --------------------------------------------------------------------------------------------

    def _parameter_prior(self, index: int, known: dict[int, float]) -> np.ndarray:
        parameter = self._problem.space.parameters[index]
        if parameter.kind != "layer":
            return np.array([known.get(c, 0.0) for c in range(len(parameter.choices))])
        points = {
            choice.weight.num_bits: kl
            for c, kl in known.items()
            if isinstance(choice := parameter.choices[c], LayerChoice) and choice.sparsity is None
        }
        points = points or self._from_uniform(index)
        return np.array(
            [
                known.get(c, self._estimate(index, choice, points))
                if isinstance(choice, LayerChoice)
                else 0.0
                for c, choice in enumerate(parameter.choices)
            ]
        )

    def _estimate(self, index: int, choice: LayerChoice, points: dict[int, float]) -> float:
        sparse = 0.0
        if choice.sparsity is not None:
            whole = self._sparse if self._sparse is not None else max(self._uniform.values(), default=1.0)
            sparse = whole * self._shares[index]
        if choice.weight.dense:
            return sparse
        bits = choice.weight.num_bits
        return interpolated(points, bits) * self._kind_ratio(bits, choice.kind) + sparse

    def _kind_ratio(self, bits: int, kind: str) -> float:
        here = self._uniform.get((bits, kind))
        best = min((kl for (width, _), kl in self._uniform.items() if width == bits), default=None)
        return here / best if here and best else 1.0

    def _from_uniform(self, index: int) -> dict[int, float]:
        share = self._shares[index]
        points = {bits: kl * share for (bits, _), kl in reversed(self._uniform.items())}
        return points or {4: 0.05 * share}


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
    nearest = b if bits > widths[-1] else a
    slope = (logs[b] - logs[a]) / (widths[b] - widths[a])
    if not widths[0] <= bits <= widths[-1]:
        slope = min(slope, -0.5)  # more bits never do more harm; beyond what was measured noise may say so
    return math.exp(logs[nearest] + slope * (bits - widths[nearest]))


def _weight_shares(problem: Problem) -> list[float]:
    spec = problem.space.spec
    sizes = [
        sum(spec.linear(layer).weights for layer in parameter.group.layers)
        if parameter.group is not None
        else 0
        for parameter in problem.space.parameters
    ]
    total = sum(sizes) or 1
    return [size / total for size in sizes]
