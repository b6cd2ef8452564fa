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
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from paretune.search.additive import is_size_parameter, pruned_of
from paretune.search.samplers.sampler import Observation, Problem
from paretune.spaces.choice import LayerChoice
from paretune.spaces.space import Point

_SLOPE = math.log(4.5)
"""Log loss gained by one bit where nothing was measured: 4 from the step, a little from clipping."""
_FLOOR = 1e-9
_FEWEST_OBSERVATIONS, _MOST_OBSERVATIONS = 8, 384


class Evidence:
    """Sorts observations by what their points change from the origin.

    Attributes:
        marginals: loss with one parameter changed, by (parameter, choice); the last reading counts.
        uniform: loss by (bits, kind) with every group inside the blocks changed alike and nothing else; the first
            readings, which are all of one length.
        pruned_sizes: base point of a pruned size -> loss of it alone; the whole model has 0.
        whole: candidates of the whole model, for the refinement of a table.
        observations: everything told.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._origin = problem.space.origin()
        self._read: dict[str, int] = {}
        self._most = 0
        self._broken: set[str] = set()
        self._zeros: dict[tuple[int, str, float], float] = {}
        self.marginals: dict[tuple[int, int], float] = {}
        self.uniform: dict[tuple[int, str], float] = {}
        self.pruned_sizes: dict[Point, float] = {self._origin: 0.0}
        self.whole: list[Observation] = []
        self.observations: list[Observation] = []

    def add(self, observation: Observation) -> None:
        """Keep an observation where it belongs."""
        point, loss = observation.point, observation.values[0]
        digest = self._problem.space.decode(point).digest
        if observation.broken:
            self._broken.add(digest)
            return
        self._most = max(observation.tokens, self._most)
        self._read[digest] = max(observation.tokens, self._read.get(digest, 0))
        self.observations.append(observation)
        changed = [i for i, (a, b) in enumerate(zip(point, self._origin, strict=True)) if a != b]
        if not changed:
            return
        if pruned_of(self._problem, point) == pruned_of(self._problem, self._origin):
            self._add_whole(observation, changed)
        elif all(is_size_parameter(self._problem, index) for index in changed):
            self.pruned_sizes[point] = loss

    def is_read(self, point: Point) -> bool:
        """Whether a point was read on as much text as any: what was read on less could still be on the front."""
        digest = self._problem.space.decode(point).digest
        tokens = self._read.get(digest)
        return digest in self._broken or (tokens is not None and tokens >= self._most)

    @property
    def compared(self) -> list[Observation]:
        """What was read on the most text, which alone is compared; everything where none of that was told."""
        return [o for o in self.observations if o.tokens == self._most]

    @property
    def sparse(self) -> dict[float, float]:
        """Loss of zeros in every group, by their share: at the widest width, less what that width loses without."""
        found = {}
        for (bits, kind, share), loss in sorted(self._zeros.items()):
            found[share] = max(loss - self.uniform.get((bits, kind), 0.0), _FLOOR)
        return found

    def _add_whole(self, observation: Observation, changed: list[int]) -> None:
        point, loss = observation.point, observation.values[0]
        if len(changed) == 1:
            self.marginals[changed[0], point[changed[0]]] = loss
            return
        self.whole.append(observation)
        choice = self._shared_choice(point)
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
        for parameter, choice, origin in zip(
            self._problem.space.parameters, point, self._origin, strict=True
        ):
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


class SensitivityTable:
    """Predicted loss of every (parameter, choice) of a space.

    Args:
        problem: what is searched.
        marginals: loss with one parameter changed, by (parameter, choice); a parameter without any is estimated from
            uniform configurations and its share of the weights.
        uniform: loss of uniform configurations by (bits, kind).
        sparse: loss with every group at a share of zeros, by share.

    Attributes:
        prior: one array per parameter, one entry per choice.
        flat_prior: the same of all parameters in a row.
        flat: the corrected entries.
        offsets: where each parameter begins in ``flat``.
    """

    def __init__(
        self,
        problem: Problem,
        marginals: Mapping[tuple[int, int], float],
        uniform: Mapping[tuple[int, str], float],
        sparse: Mapping[float, float] | None = None,
    ) -> None:
        self._problem = problem
        self._uniform = uniform
        self._sparse = dict(sparse or {})
        self._shares = _weight_shares(problem)
        known: dict[int, dict[int, float]] = defaultdict(dict)
        for (parameter, choice), loss in marginals.items():
            known[parameter][choice] = max(loss, _FLOOR)
        parameters = range(len(problem.space.parameters))
        self.prior = [self._parameter_prior(index, known.get(index, {})) for index in parameters]
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
        logs, losses = np.log(sums[useful]), np.log([o.values[0] for o in used])[useful]
        shares = np.zeros((len(logs), len(self.flat_prior)))
        np.put_along_axis(shares, cells[useful], self.flat_prior[cells[useful]] / sums[useful, None], axis=1)
        tokens = np.array([max(o.tokens, 1) for o in used], dtype=np.float64)[useful]
        # A mean over windows is the noisier the fewer there are.
        noise = _NOISE * np.sqrt(tokens.max() / tokens)
        self._residual = Residual(logs, shares, losses - logs, noise)
        self.flat = self.flat_prior * self._residual.factors

    def cells(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """Places of points' entries in :attr:`flat`, int64 ``(points, parameters)``."""
        return np.asarray(points, dtype=np.int64).reshape(-1, len(self.prior)) + self.offsets

    def predict(self, points: Sequence[Point] | np.ndarray, more: float | np.ndarray = 0.0) -> np.ndarray:
        """Loss of points, ``(points,)``.

        Args:
            points: of the whole model, or of a pruned model whose own loss is ``more``.
            more: added to the sums.
        """
        return self.predict_sums(self.flat[self.cells(points)].sum(axis=1) + more)

    def predict_sums(self, sums: np.ndarray) -> np.ndarray:
        """Loss that sums of corrected entries stand for."""
        found: np.ndarray = np.maximum(sums, _FLOOR)
        return found if self._residual is None else found * np.exp(self._residual.trend(np.log(found)))

    @property
    def entries(self) -> list[np.ndarray]:
        """The corrected entries, one array per parameter."""
        ends = [*self.offsets[1:], len(self.flat)]
        return [self.flat[a:b] for a, b in zip(self.offsets, ends, strict=True)]

    @property
    def parameters(self) -> np.ndarray:
        """The parameter of every entry, int64 ``(cells,)``."""
        return np.repeat(np.arange(len(self.prior)), [len(p) for p in self.prior])

    # -- prior --------------------------------------------------------------------------------------------

    def _parameter_prior(self, index: int, known: dict[int, float]) -> np.ndarray:
        choices = self._problem.space.parameters[index].choices
        if self._problem.space.parameters[index].kind != "layer":
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
        parameter = self._problem.space.parameters[index]
        place = parameter.find(choice.weight.num_bits, choice.kind)
        usual = None if place is None else parameter.choices[place]
        if (
            parameter.group is None
            or not isinstance(usual, LayerChoice)
            or choice.weight.number_type != "int"
        ):
            return 1.0
        columns = self._problem.space.spec.linear(parameter.group.layers[0]).in_features
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


def smallest_energy(share: float) -> float:
    """Share of a normal distribution's second moment that lies in its smallest magnitudes."""
    if not 0 < share < 1:
        return float(share > 0)
    edge = NormalDist().inv_cdf((1 + share) / 2)
    return share - 2 * edge * NormalDist().pdf(edge)


def _weight_shares(problem: Problem) -> list[float]:
    """Weights of each group over those inside the blocks, which are what uniform configurations change."""
    spec = problem.space.spec
    groups = [parameter.group for parameter in problem.space.parameters]
    sizes = [0 if g is None else sum(spec.linear(layer).weights for layer in g.layers) for g in groups]
    inside = sum(size for size, g in zip(sizes, groups, strict=True) if g is not None and g.kind == "linear")
    return [size / (inside or 1) for size in sizes]


# -- what the sum leaves unexplained -------------------------------------------------------------------------

_LEVEL = 0.7
_TREND = 0.7
_LENGTH = 1.0
"""Of the trend, in units of log sum: it may turn once in a factor of e."""
_SPREAD = 0.6
"""Log standard deviation of an entry around its prior."""
_NOISE = 0.05
"""Log standard deviation of the longest readings."""
_MOST_FACTOR = 3.0
"""In logarithm."""


class Residual:
    """The log ratio of a measured loss to its sum of entries, by a Gaussian process.

    The ratio is a constant, a smooth trend along the logarithm of the sum (large perturbations do more harm together
    than apart), and a correction of every entry that acts through the entry's share of the sum: Bayesian linear
    regression in its dual form (Rasmussen and Williams 2006, chapter 2). The corrections are turned into factors of the
    entries, so that the sum stays additive and can be minimised exactly; that is the posterior mean only where they are
    small, and factors are bounded. The trend is then fitted again along the corrected sum: what is predicted depends on
    nothing else, so wherever it rises with that sum the exact front of the sum is the front of the prediction.

    Args:
        logs: of the sums, ``(n,)``.
        shares: of entries, ``(n, entries)``.
        ratios: logarithms, ``(n,)``.
        noise: standard deviation of each, ``(n,)``.

    Attributes:
        factors: of every entry, ``(entries,)``.
    """

    def __init__(
        self, logs: np.ndarray, shares: np.ndarray, ratios: np.ndarray, noise: float | np.ndarray = _NOISE
    ) -> None:
        kernel = _LEVEL**2 + _smooth(logs, logs) + _SPREAD**2 * (shares @ shares.T)
        variance = np.broadcast_to(np.square(noise), logs.shape)
        weights = np.linalg.solve(kernel + np.diag(variance), ratios)
        self.factors = np.exp(np.clip(_SPREAD**2 * (weights @ shares), -_MOST_FACTOR, _MOST_FACTOR))
        corrected = np.log1p(np.maximum(shares @ (self.factors - 1), -1 + 1e-12))
        self._logs, rest = logs + corrected, ratios - corrected
        self._weights = np.linalg.solve(
            _LEVEL**2 + _smooth(self._logs, self._logs) + np.diag(variance + _SCATTER**2), rest
        )

    def trend(self, logs: np.ndarray) -> np.ndarray:
        """Log ratio at corrected sums whose logarithms are ``logs`` ``(m,)``."""
        found: np.ndarray = (_LEVEL**2 + _smooth(logs, self._logs)) @ self._weights
        return found


_SCATTER = 0.1
"""Log standard deviation of candidates around the trend once entries are corrected."""


def _smooth(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference: np.ndarray = (first[:, None] - second[None, :]) / _LENGTH
    return _TREND**2 * np.exp(-0.5 * difference**2)
