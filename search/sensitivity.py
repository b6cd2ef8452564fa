"""The sensitivity table: how much worse each choice of each parameter makes the model, from marginals and candidates.

Prior: the loss measured with one group changed at a few widths; other widths lie on a line in (bits, log loss), other
methods are scaled by what uniform configurations showed, zeros by what they showed when every group had them. That the
losses of groups add up is the assumption of AMQ, HAWQ and AutoScheme alike. It holds where perturbations are small: in
a search of the embedded model 97 % of candidates of 4.2 to 5.2 bits were within 20 % of the sum and half of those of
3.2 to 4.2; of 2.6 to 3.2 bits none was (1.7 times the sum at the median), and below 2.6 bits the median was 11 times.
So what the sum leaves unexplained is learned from measured candidates.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from paretune.search.evidence import Evidence
from paretune.search.loss_model import FLOOR
from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.choice import LayerChoice
from paretune.spaces.space import Point, SearchSpace

_SLOPE = math.log(4.5)
"""Log loss gained by one bit where nothing was measured: 4 from the step, a little from clipping."""


class SpaceEvidence(Evidence):
    """Evidence about a search space, which also knows what uniform configurations lose.

    Attributes:
        uniform: loss by (bits, kind) with every group inside the blocks changed alike and nothing else; the first
            readings, which are all of one length.
    """

    def __init__(self, problem: Problem, space: SearchSpace) -> None:
        super().__init__(problem)
        self.space = space
        self._zeros: dict[tuple[int, str, float], float] = {}
        self.uniform: dict[tuple[int, str], float] = {}

    @property
    def sparse(self) -> dict[float, float]:
        """Loss of zeros in every group, by their share: at the widest width, less what that width loses without."""
        found = {}
        for (bits, kind, share), loss in sorted(self._zeros.items()):
            found[share] = max(loss - self.uniform.get((bits, kind), 0.0), FLOOR)
        return found

    def add_candidate(self, observation: Observation) -> None:
        """Uniform configurations of the whole model, with and without zeros."""
        choice, loss = self._shared_choice(observation.point), observation.values[0]
        if choice is None:
            return
        if choice.sparsity is None:
            self.uniform.setdefault((choice.weight.num_bits, choice.kind), loss)
        else:
            key = choice.weight.num_bits, choice.kind, choice.sparsity.fraction
            self._zeros.setdefault(key, loss)

    def _shared_choice(self, point: Point) -> LayerChoice | None:
        """The choice that all groups inside the blocks share while everything else is as in the origin."""
        inside: set[LayerChoice] = set()
        for parameter, choice, origin in zip(self.space.parameters, point, self.origin, strict=True):
            value = parameter.choices[choice]
            if (
                parameter.group is not None
                and parameter.group.kind == "linear"
                and isinstance(value, LayerChoice)
            ):
                inside.add(value)
            elif choice != origin:
                return None
        return inside.pop() if len(inside) == 1 else None


class SensitivityPrior:
    """What every choice of every parameter of a space is thought to lose alone.

    Args:
        space: what is searched.
        marginals: loss with one parameter changed, by (parameter, choice); a parameter without any is estimated from
            uniform configurations and its share of the weights.
        uniform: loss of uniform configurations by (bits, kind).
        sparse: loss with every group at a share of zeros, by share.

    Attributes:
        entries: one array per parameter, one entry per choice.
    """

    def __init__(
        self,
        space: SearchSpace,
        marginals: Mapping[tuple[int, int], float],
        uniform: Mapping[tuple[int, str], float],
        sparse: Mapping[float, float] | None = None,
    ) -> None:
        self.space = space
        self._uniform = uniform
        self._sparse = dict(sparse or {})
        self._shares = _weight_shares(space)
        known: dict[int, dict[int, float]] = defaultdict(dict)
        for (parameter, choice), loss in marginals.items():
            known[parameter][choice] = max(loss, FLOOR)
        parameters = range(len(space.parameters))
        self.entries = [self._parameter_prior(index, known.get(index, {})) for index in parameters]

    # -- prior --------------------------------------------------------------------------------------------

    def _parameter_prior(self, index: int, known: dict[int, float]) -> np.ndarray:
        choices = self.space.parameters[index].choices
        if self.space.parameters[index].kind != "layer":
            return np.array([known.get(c, 0.0) for c in range(len(choices))])
        # By width, as if by the best kind there is; where several kinds were measured, told by the best of them.
        points: dict[int, tuple[float, float]] = {}
        for place, loss in known.items():
            choice = choices[place]
            if isinstance(choice, LayerChoice) and choice.sparsity is None:
                bits, ratio = choice.weight.num_bits, self._kind_ratio(choice.weight.num_bits, choice.kind)
                points[bits] = min(points.get(bits, (math.inf, 0.0)), (ratio, loss / ratio))
        widths = {bits: loss for bits, (_, loss) in points.items()} or self._from_uniform(index)
        return np.array(
            [
                known.get(c, self._estimate(index, choice, widths))
                if isinstance(choice, LayerChoice)
                else 0.0
                for c, choice in enumerate(choices)
            ]
        )

    def _estimate(self, index: int, choice: LayerChoice, points: dict[int, float]) -> float:
        zeros = 0.0
        if choice.sparsity is not None:
            zeros = self._of_zeros(choice.sparsity.fraction) * self._shares[index]
        if choice.weight.dense:
            return zeros
        bits = choice.weight.num_bits
        ratio = self._kind_ratio(bits, choice.kind) * self._group_ratio(index, choice)
        return interpolated(points, bits) * ratio + zeros

    def _of_zeros(self, share: float) -> float:
        """Loss with this share of zeros everywhere: measured, or scaled from the nearest share that was."""
        if share in self._sparse:
            return self._sparse[share]
        if not self._sparse:
            return max(self._uniform.values(), default=1.0)
        nearest = min(self._sparse, key=lambda known: abs(known - share))
        return self._sparse[nearest] * smallest_energy(share) / smallest_energy(nearest)

    def _group_ratio(self, index: int, choice: LayerChoice) -> float:
        """Harm of a group size beside the usual one of its width: it grows with the square of the step.

        The step is the largest of a group's weights, and the largest magnitude of n normal numbers is about
        ``sqrt(2 ln 2n)``.
        """
        parameter = self.space.parameters[index]
        place = parameter.find(choice.weight.num_bits, choice.kind)
        usual = None if place is None else parameter.choices[place]
        if (
            parameter.group is None
            or not isinstance(usual, LayerChoice)
            or choice.weight.number_type != "int"
        ):
            return 1.0
        columns = self.space.spec.linear(parameter.group.layers[0]).in_features
        sizes = (choice.weight.group_size or columns, usual.weight.group_size or columns)
        return math.log(2 * sizes[0]) / math.log(2 * sizes[1])

    def _kind_ratio(self, bits: int, kind: str) -> float:
        """How many times the loss of the best kind of this width another has."""
        here = self._uniform.get((bits, kind))
        best = self._best_uniform().get(bits)
        return here / best if here and best and here > 0 < best else 1.0

    def _best_uniform(self) -> dict[int, float]:
        found: dict[int, float] = {}
        for (bits, _), loss in self._uniform.items():
            found[bits] = min(loss, found.get(bits, loss))
        return found

    def _from_uniform(self, index: int) -> dict[int, float]:
        points = {bits: loss * self._shares[index] for bits, loss in self._best_uniform().items()}
        return points or {4: 0.05 * self._shares[index]}


def interpolated(points: dict[int, float], bits: int) -> float:
    """Loss at a width, on straight lines in (bits, log loss) through the measured widths and beyond them."""
    if bits in points:
        return points[bits]
    widths = sorted(points)
    logs = [math.log(max(points[width], FLOOR)) for width in widths]
    if len(widths) == 1:
        return math.exp(logs[0] - _SLOPE * (bits - widths[0]))
    right = min(max(int(np.searchsorted(widths, bits)), 1), len(widths) - 1)
    a, b = right - 1, right
    nearest = b if bits > widths[-1] else a
    slope = (logs[b] - logs[a]) / (widths[b] - widths[a])
    if not widths[0] <= bits <= widths[-1]:
        slope = min(slope, -0.5)  # more bits never do more harm; beyond what was measured noise may say so
    return math.exp(logs[nearest] + slope * (bits - widths[nearest]))


def smallest_energy(share: float) -> float:
    """Share of a normal distribution's second moment that lies in its smallest magnitudes."""
    if not 0 < share < 1:
        return float(share > 0)
    edge = NormalDist().inv_cdf((1 + share) / 2)
    return share - 2 * edge * NormalDist().pdf(edge)


def _weight_shares(space: SearchSpace) -> list[float]:
    """Weights of each group over those inside the blocks, which are what uniform configurations change."""
    spec = space.spec
    groups = [parameter.group for parameter in space.parameters]
    sizes = [0 if g is None else sum(spec.linear(layer).weights for layer in g.layers) for g in groups]
    inside = sum(size for size, g in zip(sizes, groups, strict=True) if g is not None and g.kind == "linear")
    return [size / (inside or 1) for size in sizes]
