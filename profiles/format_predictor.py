"""Predicts latency where kernels cannot be called one by one: from whole models, each in one format.

A time is a constant, so much per block, and so much per weight of every format, all at least 0 and fitted to whole
models of this very shape (non-negative least squares, Lawson and Hanson 1974, relative errors). Rates are those of a
format and a place: weights inside the blocks and those of embedding and head, whose shapes are others. One model per
term says nothing of how good the fit is, so a few mixtures are timed as well: how far the fit to the others misses
them is its error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from random import Random

import numpy as np

from paretune.profiles.interpolation import UnknownCostError
from paretune.profiles.predictor import METRIC, MeasuredRun, kept_blocks
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.measurement import Measurement
from paretune.spaces.model import Linear, ModelSpec
from paretune.spaces.size import kept_linears, kept_shape
from paretune.spaces.space import Point, SearchSpace
from paretune.spaces.target import Workload

VERSION = "2"
MIXTURES = 3
Term = tuple[str, str]
"""Place and format; ``("model", "once")`` and ``("model", "block")`` for what is no weight."""
_ONCE: Term = ("model", "once")
_BLOCK: Term = ("model", "block")


class FormatPredictor:
    """Time to first token and time a token, as a sum over formats.

    Args:
        kept: rates of an earlier fit, by metric: place, format, seconds.
        errors: of that fit.

    Attributes:
        rates: by metric: seconds of each term.
        errors: by metric: median of |predicted - measured| / measured over mixtures that the fit did not see; empty
            where none was timed.
    """

    def __init__(
        self,
        kept: Mapping[str, Iterable[tuple[str, str, float]]] | None = None,
        errors: Mapping[str, float] | None = None,
    ) -> None:
        self.rates: dict[str, dict[Term, float]] = {
            metric: {(place, form): seconds for place, form, seconds in rates}
            for metric, rates in (kept or {}).items()
        }
        self.errors: dict[str, float] = dict(errors or {})

    def fit(self, spec: ModelSpec, runs: Iterable[MeasuredRun], mixtures: Iterable[MeasuredRun] = ()) -> None:
        """Fit both metrics to whole models; what no run has remains unknown.

        Args:
            spec: the model.
            runs: of :func:`timing_configs`.
            mixtures: of :func:`mixed_configs`: held out for :attr:`errors`, then fitted to with the others.
        """
        runs, mixtures = list(runs), list(mixtures)
        for metric in METRIC.values():
            timed, held_out = (
                [run for run in some if getattr(run, metric) is not None] for some in (runs, mixtures)
            )
            if not timed:
                continue
            self._fit(metric, spec, timed)
            if held_out:
                times = [(self._seconds(metric, spec, run.config), getattr(run, metric)) for run in held_out]
                self.errors[metric] = float(np.median([abs(told / found - 1.0) for told, found in times]))
                self._fit(metric, spec, timed + held_out)

    def _fit(self, metric: str, spec: ModelSpec, runs: list[MeasuredRun]) -> None:
        from scipy.optimize import nnls

        counted = [terms(spec, run.config) for run in runs]
        names = sorted({name for found in counted for name in found})
        measured = np.array([float(getattr(run, metric)) for run in runs])
        design = np.array([[found[name] for name in names] for found in counted]) / measured[:, None]
        # Weights are counted in millions and blocks in ones: columns of one size keep the fit well behaved.
        sizes = np.abs(design).max(axis=0)
        rates = nnls(design / sizes, np.ones(len(runs)))[0] / sizes
        self.rates[metric] = dict(zip(names, rates.tolist(), strict=True))

    def _seconds(self, metric: str, spec: ModelSpec, config: CompressionConfig) -> float:
        rates, seconds = self.rates[metric], 0.0
        for name, count in terms(spec, config).items():
            if name not in rates:
                raise UnknownCostError(
                    f"{name[1]} weights of {name[0]}", "was not timed in a whole model", "Profile again"
                )
            seconds += rates[name] * count
        return seconds

    def predict(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> Mapping[str, Measurement]:
        """``ttft_s`` and ``tpot_s`` at the workload that was timed.

        Raises:
            UnknownCostError: a format that no timed model had in its place.
        """
        del workload
        found = {}
        for metric, rates in self.rates.items():
            by = f"formats/{VERSION}: {len(rates)} terms of whole models"
            if metric in self.errors:
                by += f"; off by {100 * self.errors[metric]:.2g} % on mixtures that the fit did not see"
            seconds = self._seconds(metric, spec, config)
            found[metric] = Measurement(value=seconds, unit="s", source="predicted", by=by)
        return found


def terms(spec: ModelSpec, config: CompressionConfig) -> Counter[Term]:
    """How often each term occurs in a candidate: weights that one token multiplies with, by place and format."""
    found: Counter[Term] = Counter({_ONCE: 1, _BLOCK: kept_blocks(spec, config)})
    for linear in kept_linears(spec, config):
        place = "blocks" if linear.block is not None else "embedding"
        found[place, config.choice(linear.name).weight.name] += _used_weights(spec, linear, config)
    return found


def _used_weights(spec: ModelSpec, linear: Linear, config: CompressionConfig) -> int:
    rows, columns = kept_shape(spec, linear, config.pruned)
    experts = linear.experts if linear.experts == 1 else spec.active_experts
    return rows * columns * experts


def timing_configs(space: SearchSpace) -> tuple[CompressionConfig, ...]:
    """Whole models that tell the terms of a space apart: dense, less deep, less wide, and one per format and place.

    Depth tells blocks from what is there once, width tells the weights of a block from the rest of it.
    """
    origin = space.origin()
    found: dict[CompressionConfig, None] = {DENSE_CONFIG: None, space.decode(origin): None}
    for kind in ("blocks", "ffn_channels"):
        smaller = _smallest(space, origin, space.index(f"pruned.{kind}"))
        if smaller is not None:
            found[space.decode(smaller)] = None
    known: set[Term] = set().union(*(terms(space.spec, config) for config in found))
    for inner in (True, False):
        for index, choice in _choices(space, inner):
            point = _everywhere(space, origin, inner, index, choice)
            config = space.decode(point)
            if space.ruling(point) and not terms(space.spec, config).keys() <= known:
                known |= terms(space.spec, config).keys()
                found[config] = None
    return tuple(found)


def mixed_configs(space: SearchSpace, count: int = MIXTURES) -> tuple[CompressionConfig, ...]:
    """Whole models whose groups have formats drawn at random, the same ones every time: to hold a fit against."""
    random, found = Random(0), dict.fromkeys(timing_configs(space))
    timed = len(found)
    for _ in range(20 * count):
        point = list(space.origin())
        for index in space.layer_parameters:
            point[index] = random.randrange(len(space.parameters[index].choices))
        if len(found) < timed + count and space.ruling(tuple(point)):
            found[space.decode(tuple(point))] = None
    return tuple(found)[timed:]


def _choices(space: SearchSpace, inner: bool) -> list[tuple[int, int]]:
    """Parameter and choice of everything that groups inside or outside the blocks may be."""
    return [
        (index, choice)
        for index in space.layer_parameters
        if _is_inner(space, index) == inner
        for choice in range(len(space.parameters[index].choices))
    ]


def _everywhere(space: SearchSpace, dense: Point, inner: bool, index: int, choice: int) -> Point:
    """Every parameter of the place that has this choice takes it."""
    wanted, point = space.parameters[index].choices[choice], list(dense)
    for other in space.layer_parameters:
        if _is_inner(space, other) == inner:
            place = space.parameters[other].position(wanted)
            point[other] = dense[other] if place is None else place
    return tuple(point)


def _is_inner(space: SearchSpace, index: int) -> bool:
    group = space.parameters[index].group
    return group is not None and group.block is not None


def _smallest(space: SearchSpace, dense: Point, index: int) -> Point | None:
    """The dense model cut by one parameter as far as the space has it, if it has any cut."""
    for choice in range(len(space.parameters[index].choices) - 1, 0, -1):
        point = (*dense[:index], choice, *dense[index + 1 :])
        if space.ruling(point):
            return point
    return None
