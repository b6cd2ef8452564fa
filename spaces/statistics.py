"""The one place where errors, intervals and comparisons come from.

**What is independent.** Windows of one document resemble each other, so errors are clustered by document (Liang and
Zeger, 1986) where a sample holds at least :data:`FEWEST_DOCUMENTS`, counted as equally large ones (Kish's effective
number, ``(sum n)^2 / sum n^2``). With fewer, or where documents are not known, every window stands for itself; then the
error is that of other windows of the same documents, and ``clustered_by`` says ``window``. Items of tasks stand for
themselves. Intervals and tests take Student's t with one degree of freedom less than there are clusters.

**Pairs.** Two readings are compared on the windows that both have, found by their identity, and on no others. A
perplexity is compared through the losses (delta method), a percentile by a bootstrap that draws the same clusters for
both (Efron and Tibshirani, 1993), with a fixed seed. Each side keeps its own weights; documents are those that either
side knows.

**No scatter is no certainty.** Where all clusters say the same, their error is 0 and Student's t has nothing to go by.
What is left is their common sign, which chance alone gives in ``2`` of ``2^clusters`` cases (Fisher's sign flips): that
is the p-value, and below six clusters the interval is not known.

**Many comparisons.** Nothing is corrected for how many are made: of twenty differences that are none, one is clear.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from paretune.spaces.errors import BrokenCandidateError, ConfigurationError
from paretune.spaces.measurement import Clustering, Estimator, Measurement, Sample
from paretune.spaces.schema import Frozen

FEWEST_DOCUMENTS = 5
"""Clusters from which a variance between documents can be told."""

CONFIDENCE = 0.95

TAIL_LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 1.0)
"""Where the distribution of the tokens of a window is kept, so that percentiles can be drawn again."""

_NO_SCATTER = 1e-9
"""Share of a value below which its standard error is the rounding of equal clusters."""
_PERCENTILE = 0.99
_RESAMPLES = 500
_SEED = 0


class Estimate(Frozen):
    """A value and how well it is known.

    Attributes:
        value: the estimate.
        stderr: its standard error; ``None`` where there is a single cluster.
        n: windows or items behind it.
        clustered_by: what was taken as independent.
        clusters: how many of these, counted as equally large ones.
    """

    value: float
    stderr: float | None
    n: int
    clustered_by: Clustering = ""
    clusters: int = 0

    @classmethod
    def of(cls, found: Measurement) -> Estimate:
        """What a measurement says of itself."""
        return cls(
            value=found.value, stderr=found.stderr, n=found.n, clustered_by=found.clustered_by, clusters=found.clusters
        )  # fmt: skip

    @property
    def reach(self) -> float:
        """Half the width of the interval of 95 %; 0 where it is not known."""
        reach = self.interval()[1] - self.value
        return reach if math.isfinite(reach) else 0.0

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Bounds that hold the truth with this probability; infinite where the error is not known."""
        if self.stderr is None or (self._scatterless and self.p_value > 1 - confidence):
            return -math.inf, math.inf
        if self._scatterless:
            return self.value, self.value
        reach = _t_quantile(0.5 + confidence / 2, self.clusters) * self.stderr
        return self.value - reach, self.value + reach

    @property
    def clear(self) -> bool:
        """Whether the interval of 95 % leaves zero out."""
        low, high = self.interval()
        return low > 0 or high < 0

    @property
    def p_value(self) -> float:
        """Two-sided probability of a value at least as far from zero if the truth is zero; 1 where it is not known."""
        if self.stderr is None or self.value == 0:
            return 1.0
        if self._scatterless:
            return min(1.0, 2.0 ** (1 - self.clusters))
        from scipy.special import stdtr

        return float(2 * stdtr(_degrees(self.clusters), -abs(self.value) / self.stderr))

    @property
    def _scatterless(self) -> bool:
        return self.stderr is not None and self.stderr <= _NO_SCATTER * abs(self.value)


class Difference(Estimate):
    """``first - second``.

    Attributes:
        paired: whether both were read on the same windows; else the errors are those of independent readings (wider).
    """

    paired: bool = True


class ItemTest(Frozen):
    """Whether one model answers the items of a task better than another.

    Attributes:
        difference: of the mean scores, first less second.
        test: exact McNemar (1947) where every item is right or wrong; else Student's t on the differences of the items.
        only_first, only_second: items that one alone has right; ``None`` where items have shares of a point.
        p_value: two-sided.
    """

    difference: Difference
    test: Literal["McNemar", "paired t"]
    only_first: int | None = None
    only_second: int | None = None
    p_value: float


def mean(values: Sequence[float] | np.ndarray, sample: Sample | None = None) -> Estimate:
    """Weighted mean of what was read on each window.

    Args:
        values: one per window.
        sample: the windows; each stands for itself if left out.

    Raises:
        ConfigurationError: no window, or not one value for each.
    """
    parts = np.asarray(values, dtype=np.float64)
    groups = _Groups(sample or numbered(np.size(parts)))
    groups.check(parts)
    value = groups.mean(parts)
    return Estimate(value=value, stderr=groups.error(parts - value), **groups.facts)


def measure(
    values: Sequence[float] | np.ndarray,
    sample: Sample,
    *,
    estimator: Estimator = "mean",
    unit: str = "",
    by: str = "",
) -> Measurement:
    """The measurement of a mean, or of ``exp`` of a mean with the error of the delta method.

    Args:
        values: one per window: losses for a perplexity (``exp_mean``).
        sample: the windows.
        estimator: which of the two.
        unit, by: see :class:`paretune.spaces.measurement.Measurement`.

    Raises:
        BrokenCandidateError: a perplexity that no float holds.
        ConfigurationError: no window, or not one value for each.
    """
    parts = np.asarray(values, dtype=np.float64)
    found = mean(parts, sample)
    value, slope = (_exp(found.value),) * 2 if estimator == "exp_mean" else (found.value, 1.0)
    return Measurement(
        value=value, unit=unit, stderr=_scaled(found.stderr, slope),
        clustered_by=found.clustered_by, clusters=found.clusters, n=found.n, by=by, estimator=estimator,
        per_window=tuple(parts.tolist()), sample=sample,
    )  # fmt: skip


def measure_percentile(tokens: np.ndarray, sample: Sample, *, unit: str = "", by: str = "") -> Measurement:
    """The 99th percentile of the tokens of all windows, with a bootstrap error.

    Args:
        tokens: ``(windows, tokens)``, not negative.
        sample: the windows.
        unit, by: see :class:`paretune.spaces.measurement.Measurement`.

    Raises:
        ConfigurationError: no window, or not tokens of each.
    """
    groups = _Groups(sample)
    groups.check(tokens, dimensions=2)
    tails = tuple(
        tuple(float(f"{value:.6g}") for value in row)
        for row in np.quantile(tokens, TAIL_LEVELS, axis=1).T.tolist()
    )
    return Measurement(
        value=groups.percentile_of(tokens), unit=unit, stderr=groups.bootstrap(tails), by=by,
        estimator="percentile", tails=tails, sample=sample, **groups.facts,
    )  # fmt: skip


def difference(first: Measurement, second: Measurement) -> Difference:
    """``first - second`` on the windows that both were read on.

    Where one of them does not know its windows, the whole values are compared as independent readings.

    Raises:
        ConfigurationError: values of different kinds, or not one window in common.
    """
    _check_alike(first, second)
    if first.sample is None or second.sample is None:
        return _independent(first, second)
    left, right = _common(first.sample, second.sample)
    groups = _Groups(_chosen(first.sample, left), _chosen(second.sample, right))
    if first.estimator == "percentile":
        one, two = _rows(first.tails, left), _rows(second.tails, right)
        everything = len(left) == len(first.sample.windows) == len(second.sample.windows)
        value = (
            first.value - second.value if everything else groups.percentile(one) - groups.percentile(two, 1)
        )
        return Difference(value=value, stderr=groups.bootstrap(one, two), **groups.facts)
    one, two = _rows(first.per_window, left), _rows(second.per_window, right)
    means, slopes = (groups.mean(one), groups.mean(two, 1)), (1.0, 1.0)
    value = means[0] - means[1]
    if first.estimator == "exp_mean":
        slopes = _exp(means[0]), _exp(means[1])
        value = slopes[0] - slopes[1]
    return Difference(
        value=value,
        stderr=groups.error(slopes[0] * (one - means[0]), -slopes[1] * (two - means[1])),
        **groups.facts,
    )


def ratio(first: Measurement, second: Measurement) -> Estimate | None:
    """``first / second`` on the windows that both have, by the delta method; ``None`` if second is 0.

    Percentiles, and values of which one does not know its windows, are compared as independent readings.

    Raises:
        ConfigurationError: values of different kinds, or not one window in common.
    """
    _check_alike(first, second)
    if first.sample is None or second.sample is None or first.estimator == "percentile":
        if second.value == 0:
            return None
        whole = first.value / second.value
        gap = _independent(first, second.model_copy(update={"stderr": _scaled(second.stderr, whole)}))
        stderr = _scaled(gap.stderr, 1 / second.value)
        return Estimate(
            value=whole, stderr=stderr, n=gap.n, clustered_by=gap.clustered_by, clusters=gap.clusters
        )
    left, right = _common(first.sample, second.sample)
    groups = _Groups(_chosen(first.sample, left), _chosen(second.sample, right))
    one, two = _rows(first.per_window, left), _rows(second.per_window, right)
    means = groups.mean(one), groups.mean(two, 1)
    if first.estimator == "exp_mean":  # the logarithm of the ratio is a difference of means
        share = _exp(means[0] - means[1])
        slopes = share, share
    elif means[1] == 0:
        return None
    else:
        share = means[0] / means[1]
        slopes = 1 / means[1], share / means[1]
    stderr = groups.error(slopes[0] * (one - means[0]), -slopes[1] * (two - means[1]))
    return Estimate(value=share, stderr=stderr, **groups.facts)


def compare_items(first: Measurement, second: Measurement) -> ItemTest:
    """The test of two scores of one task on the items that both answered.

    Raises:
        ConfigurationError: no item in common, or a score that is no mean of its items.
    """
    if first.estimator != "mean" or first.sample is None or second.sample is None:
        raise ConfigurationError(
            "a score without its items",
            "cannot be tested against another",
            "Compare the values and their errors",
        )
    gap = difference(first, second)
    left, right = _common(first.sample, second.sample)
    one, two = _rows(first.per_window, left), _rows(second.per_window, right)
    if not all(((scores == 0) | (scores == 1)).all() for scores in (one, two)):
        return ItemTest(difference=gap, test="paired t", p_value=gap.p_value)
    only = int(((one == 1) & (two == 0)).sum()), int(((one == 0) & (two == 1)).sum())
    return ItemTest(
        difference=gap, test="McNemar", only_first=only[0], only_second=only[1], p_value=_mcnemar(*only)
    )


class _Groups:
    """Windows in groups that are independent of each other.

    Args:
        samples: one or, for a pair, two of the same windows. Each keeps its weights; documents are the first's that
            knows them.
    """

    def __init__(self, *samples: Sample) -> None:
        count = len(samples[0].windows)
        if not count:
            raise ConfigurationError("no window", "nothing can be said about none", "Read at least one")
        weights = [np.asarray(sample.weights or np.ones(count), dtype=np.float64) for sample in samples]
        self._weights = [own / own.sum() for own in weights]
        shares = np.mean(self._weights, axis=0)
        self._labels = np.arange(count)
        unit: Clustering = samples[0].unit
        documents = next((sample.documents for sample in samples if sample.documents), ())
        if documents:
            labels = np.unique(documents, return_inverse=True)[1]
            if _effective(np.bincount(labels, shares)) >= FEWEST_DOCUMENTS:
                self._labels, unit = labels, "document"
        self._groups = int(self._labels.max()) + 1
        effective = _effective(np.bincount(self._labels, shares))
        self.facts: dict[str, Any] = {"n": count, "clustered_by": unit, "clusters": effective}

    def check(self, values: np.ndarray, dimensions: int = 1) -> None:
        """Refuse what does not hold one value, or one row of tokens, for each window.

        Raises:
            ConfigurationError: it has another shape.
        """
        if values.ndim != dimensions or len(values) != len(self._labels) or not values.size:
            raise ConfigurationError(
                f"values of shape {values.shape} of {len(self._labels)} windows",
                "must be one per window" if dimensions == 1 else "must be tokens of each window",
                "Give what was read on each window, in the order of the windows",
            )

    def mean(self, values: np.ndarray, side: int = 0) -> float:
        """Mean with the weights of a side, exactly rounded."""
        return math.fsum((self._weights[side] * values).tolist())

    def error(self, *influences: np.ndarray) -> float | None:
        """Standard error of a sum of means, from what each window adds to each, which is centred."""
        if self._groups < 2:
            return None
        added = np.sum([own * part for own, part in zip(self._weights, influences, strict=True)], axis=0)
        found = math.hypot(*np.bincount(self._labels, added).tolist())
        return _finite(math.sqrt(self._groups / (self._groups - 1)) * found)

    def percentile_of(self, tokens: np.ndarray) -> float:
        """Of the tokens of all windows together, each window's as often as it weighs."""
        own = self._weights[0]
        if np.all(own == own[0]):
            return float(np.quantile(tokens, _PERCENTILE))
        counts = np.broadcast_to(own[:, None], tokens.shape)
        return float(np.quantile(tokens, _PERCENTILE, weights=counts, method="inverted_cdf"))

    def percentile(self, tails: Sequence[Sequence[float]] | np.ndarray, side: int = 0) -> float:
        """The same from the distribution within each window."""
        return float(_pooled(np.asarray(tails), self._weights[side][None])[0])

    def bootstrap(
        self,
        tails: Sequence[Sequence[float]] | np.ndarray,
        others: Sequence[Sequence[float]] | np.ndarray | None = None,
    ) -> float | None:
        """Standard error of the percentile, or of its difference to that of others, when groups are drawn again."""
        if self._groups < 2:
            return None
        rng = np.random.default_rng(_SEED)
        drawn = rng.multinomial(self._groups, np.full(self._groups, 1 / self._groups), _RESAMPLES)
        counts = drawn[:, self._labels]
        found = _pooled(np.asarray(tails), counts * self._weights[0])
        if others is not None:
            found = found - _pooled(np.asarray(others), counts * self._weights[1])
        return float(found.std(ddof=1) * math.sqrt(self._groups / (self._groups - 1)))


def _pooled(tails: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The percentile of the tokens of all windows, from the distribution within each.

    Args:
        tails: values at :data:`TAIL_LEVELS`, ``(windows, levels)``.
        counts: how often each window counts, ``(draws, windows)``.
    """
    values = np.unique(tails)
    below = np.stack([np.interp(values, row, TAIL_LEVELS, left=0.0) for row in tails])
    shares = counts @ below / counts.sum(axis=1, keepdims=True)
    after = np.argmax(shares >= _PERCENTILE - 1e-12, axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(counts))
    low, high = shares[rows, before], shares[rows, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(high > low, (_PERCENTILE - low) / (high - low), 1.0)
    return np.asarray(values[before] + np.clip(part, 0.0, 1.0) * (values[after] - values[before]))


def _effective(shares: np.ndarray) -> int:
    """How many equally large groups say as much as these."""
    return math.floor(float(np.square(shares.sum()) / np.square(shares).sum()) + 1e-9)


def _common(first: Sample, second: Sample) -> tuple[list[int], list[int]]:
    """Places in both samples of the windows that both have, in the order of the first."""
    places = {window: place for place, window in enumerate(_distinct(second.windows))}
    pairs = [
        (place, places[window]) for place, window in enumerate(_distinct(first.windows)) if window in places
    ]
    if not pairs:
        raise ConfigurationError(
            f"readings on {len(first.windows)} and {len(second.windows)} {first.unit}s",
            f"have no {first.unit} in common, so they cannot be compared",
            "Read both on the same text",
        )
    return [one for one, _ in pairs], [two for _, two in pairs]


def _distinct(windows: Sequence[str]) -> list[tuple[str, int]]:
    """Identities with how often each was there before."""
    seen: Counter[str] = Counter()
    found = []
    for window in windows:
        found.append((window, seen[window]))
        seen[window] += 1
    return found


def _chosen(sample: Sample, places: Sequence[int]) -> Sample:
    def of(part: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(part[place] for place in places) if part else ()

    return Sample(
        windows=tuple(sample.windows[place] for place in places),
        documents=tuple(int(number) for number in of(sample.documents)),
        weights=of(sample.weights),
        unit=sample.unit,
    )


def numbered(count: int) -> Sample:
    """Windows that are known by their place alone."""
    return Sample(windows=tuple(map(str, range(count))))


def _rows(parts: Sequence[float] | Sequence[Sequence[float]] | None, places: Sequence[int]) -> np.ndarray:
    return np.asarray(parts, dtype=np.float64)[places]


def _check_alike(first: Measurement, second: Measurement) -> None:
    if (first.estimator, first.unit) != (second.estimator, second.unit):
        raise ConfigurationError(
            f"a {first.estimator} in {first.unit or 'no unit'} and a {second.estimator} in {second.unit or 'no unit'}",
            "are values of different kinds",
            "Compare values of one metric",
        )


def _independent(first: Measurement, second: Measurement) -> Difference:
    stderr = (
        None if first.stderr is None or second.stderr is None else math.hypot(first.stderr, second.stderr)
    )
    return Difference(
        value=first.value - second.value, stderr=stderr, n=min(first.n, second.n),
        clustered_by=first.clustered_by, clusters=min(first.clusters or first.n, second.clusters or second.n),
        paired=False,
    )  # fmt: skip


def _scaled(error: float | None, factor: float) -> float | None:
    return None if error is None else _finite(abs(factor) * error)


def _finite(error: float) -> float | None:
    """An error that no float holds is not known."""
    return error if math.isfinite(error) else None


def _exp(loss: float) -> float:
    """A perplexity, or a ratio of two.

    Raises:
        BrokenCandidateError: no float holds it.
    """
    try:
        return math.exp(loss)
    except OverflowError as error:
        raise BrokenCandidateError(
            f"a mean loss of {loss:,.0f} nat",
            "has a perplexity that no float holds, so it has no quality",
            "Use wider formats",
        ) from error


def _t_quantile(probability: float, clusters: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(_degrees(clusters), probability))


def _degrees(clusters: int) -> float:
    """Of freedom; a value that does not say how many clusters it has is taken for one of many."""
    return max(1, clusters - 1) if clusters else math.inf


def _mcnemar(wins: int, losses: int) -> float:
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)
