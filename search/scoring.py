"""Scoring a candidate: costs first, limits before quality is paid for, one record an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from paretune.search.records import RecordFile
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import BrokenCandidateError
from paretune.spaces.evaluator import Evaluator
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import EVALUATION_TOKENS, Fidelity, Measurement, Record
from paretune.spaces.metrics import find_metric
from paretune.spaces.space import Point, SearchSpace

_PREDICTED = "_predicted"
_REMEMBERED = 4096


@dataclass
class Scorer:
    """Measures candidates and keeps what was measured.

    Attributes:
        quality: reads the model.
        cost: computes or predicts, without the model.
        objectives: metric names, quality first.
        on_record: called after every new record.
    """

    space: SearchSpace
    quality: Evaluator
    cost: Evaluator
    records: RecordFile
    objectives: tuple[str, ...]
    limits: tuple[Limit, ...]
    on_record: Callable[[Record], None] | None = None

    def __post_init__(self) -> None:
        self._costs: dict[str, Mapping[str, Measurement]] = {}
        self._fidelity = Fidelity(windows=1, window_tokens=1)

    def score(
        self, name: str, point: Point, sampler: str, fidelity: Fidelity, trial: int | None = None
    ) -> Record:
        """The record of a candidate at a fidelity, measured now or in an earlier run of the same folder."""
        return self.score_config(name, self.space.decode(point), sampler, fidelity, trial)

    def score_config(
        self,
        name: str,
        config: CompressionConfig,
        sampler: str,
        fidelity: Fidelity,
        trial: int | None = None,
    ) -> Record:
        """The same for a configuration."""
        known = self.records.find(config.digest, fidelity)
        if known is not None:
            return known
        before = self.records.read_tokens(config.digest, fidelity.text)
        start = time.perf_counter()
        found, broken = dict(self.costs(config)), ""
        try:
            found.update(self.quality.evaluate(config, fidelity))
        except BrokenCandidateError as error:
            broken = error.rule
        seconds = time.perf_counter() - start
        tokens = max(0, fidelity.tokens - before)
        record = Record(
            index=len(self.records), digest=config.digest, name=name, config=config, sampler=sampler,
            trial=trial, versions=self.records.versions, fidelity=fidelity, tokens=tokens,
            evaluations=tokens / EVALUATION_TOKENS, seconds=seconds, measurements=found,
            violations=self._violations(found), broken=broken,
        )  # fmt: skip
        self.records.append(record)
        if self.on_record is not None:
            self.on_record(record)
        return record

    def costs(self, config: CompressionConfig) -> Mapping[str, Measurement]:
        """Exact and predicted costs; those of the last few thousand configurations are remembered."""
        if config.digest not in self._costs:
            if len(self._costs) >= _REMEMBERED:
                self._costs.clear()
            self._costs[config.digest] = self.cost.evaluate(config, self._fidelity)
        return self._costs[config.digest]

    def cost_of(self, point: Point) -> dict[str, float]:
        """Costs by metric name, to be minimised; a time is the predicted one."""
        found = self.costs(self.space.decode(point))
        return {metric: signed(metric, value_of(found, metric)) for metric in self.objectives[1:]}

    def admissible(self, point: Point) -> bool:
        """Whether the candidate is legal and meets every limit that can be judged without its quality."""
        if not self.space.ruling(point):
            return False
        if not self.limits:
            return True
        found = self.costs(self.space.decode(point))
        return all(
            limit.violation(value_of(found, limit.metric)) <= 0
            for limit in self.limits
            if has(found, limit.metric)
        )

    def violations(self, record: Record) -> tuple[float, ...]:
        """By limit of this search, feasible at or below 0; the record may be older than the limits."""
        return tuple(self._violations(record.measurements).values())

    def feasible(self, record: Record) -> bool:
        """Whether a record has a quality and meets the limits of this search."""
        return not record.broken and all(violation <= 0 for violation in self.violations(record))

    def _violations(self, measurements: Mapping[str, Measurement]) -> dict[str, float]:
        return {
            x.text: x.violation(value_of(measurements, x.metric))
            for x in self.limits
            if has(measurements, x.metric)
        }


def value_of(measurements: Mapping[str, Measurement], metric: str) -> float:
    """The measured value of a metric, or the predicted one where nothing was measured.

    Raises:
        KeyError: neither is there.
    """
    found = measurements.get(metric) or measurements.get(metric + _PREDICTED)
    if found is None:
        raise KeyError(metric)
    return found.value


def has(measurements: Collection[str], metric: str) -> bool:
    """Whether a metric is known, measured or predicted."""
    return metric in measurements or metric + _PREDICTED in measurements


def signed(metric: str, value: float) -> float:
    """A value that is better when lower."""
    return value if find_metric(metric).direction == "minimize" else -value
