"""A number that was measured or predicted, with what one needs to trust it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Document, Frozen

Clustering = Literal["document", "window", "item", ""]
"""What is taken as independent of each other in a standard error; ``""`` where there is none."""

Estimator = Literal["mean", "exp_mean", "percentile"]
"""How a value comes from its parts: their weighted mean, ``exp`` of it, or a percentile of the tokens of all."""


class Sample(Frozen):
    """The windows (or items of a task) that something was read on, so that two readings can be paired.

    Attributes:
        windows: identity of each, in order: a digest of its tokens, or of the item.
        documents: number of the document that most of a window's tokens are of; empty where documents are not known.
        weights: of each in the mean, e.g. bytes; empty where all weigh the same.
        unit: what one is.
    """

    windows: tuple[str, ...]
    documents: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    unit: Literal["window", "item"] = "window"

    @model_validator(mode="after")
    def _consistent(self) -> Sample:
        if any(part and len(part) != len(self.windows) for part in (self.documents, self.weights)):
            raise ConfigurationError(
                f"{len(self.windows)} windows, {len(self.documents)} documents, {len(self.weights)} weights",
                "each window has one of each",
                "Leave out what is not known",
            )
        return self

    def first(self, count: int) -> Sample:
        """The first ``count`` of them."""
        return self.model_copy(
            update={name: getattr(self, name)[:count] for name in ("windows", "documents", "weights")}
        )

    def joined(self, after: Sample) -> Sample:
        """Together with those that were read after these."""
        return self.model_copy(
            update={
                name: getattr(self, name) + getattr(after, name)
                for name in ("windows", "documents", "weights")
            }
        )


class Measurement(Frozen):
    """One value of one metric.

    Attributes:
        value: in ``unit`` (SI, see :mod:`paretune.spaces.metrics`).
        stderr: standard error of the value; ``None`` where it is not known or makes no sense.
        clustered_by: what ``stderr`` takes as independent, see :mod:`paretune.spaces.statistics`.
        clusters: how many of these, counted as equally large ones: ``stderr`` has one degree of freedom less.
        spread: half the range between the quartiles of repetitions, of a time; no standard error.
        n: windows, items or repetitions behind it; 0 for a computed or predicted value.
        source: measured and predicted values are never mixed in one column.
        by: what measured or predicted it, e.g. ``kl/1`` or ``roofline``.
        estimator: how ``value`` comes from the parts.
        per_window: the parts, in the order of ``sample``: losses of a perplexity, scores of the items of an accuracy.
        tails: for a percentile instead: the distribution within each window, at
            :data:`paretune.spaces.statistics.TAIL_LEVELS`.
        sample: the windows of the parts.
    """

    value: float
    unit: str = ""
    stderr: float | None = None
    clustered_by: Clustering = ""
    clusters: int = 0
    spread: float | None = None
    n: int = 0
    source: Literal["measured", "predicted"] = "measured"
    by: str = ""
    estimator: Estimator = "mean"
    per_window: tuple[float, ...] | None = None
    tails: tuple[tuple[float, ...], ...] | None = None
    sample: Sample | None = None

    @model_validator(mode="after")
    def _finite(self) -> Measurement:
        if not math.isfinite(self.value):
            raise ConfigurationError(
                f"measurement {self.value} by {self.by or 'nobody'}",
                "must be finite",
                "Leave out what could not be measured",
            )
        parts = self.per_window if self.tails is None else self.tails
        if len(parts or ()) != len(self.sample.windows if self.sample else ()):
            raise ConfigurationError(
                f"{len(parts or ())} parts of a measurement",
                f"belong to {len(self.sample.windows) if self.sample else 0} windows",
                "Name the window of each part",
            )
        return self

    @property
    def alone(self) -> Measurement:
        """Without the windows behind it."""
        return self.model_copy(update={"per_window": None, "tails": None, "sample": None})


class Fidelity(Frozen):
    """On what a candidate is read: the first ``windows`` of a named text. Rungs are nested prefixes.

    Attributes:
        text: ``search``, ``report`` or ``benchmark``; they share no document.
        windows: how many, from the start of the list.
        window_tokens: tokens of each window.
    """

    text: str = "search"
    windows: int
    window_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens read."""
        return self.windows * self.window_tokens

    @property
    def name(self) -> str:
        """E.g. ``search-32x512``."""
        return f"{self.text}-{self.windows}x{self.window_tokens}"


EVALUATION_TOKENS = 16_384
"""One evaluation, the unit in which the cost of search is counted."""


class Record(Document):
    """One line of ``records.jsonl``: one candidate, read once at one fidelity.

    Attributes:
        index: position in the file, from 0.
        digest: of ``config``.
        name: ``dense``, ``uniform-4``, or a generated name.
        sampler: who proposed it: ``baseline``, ``marginal``, ``probe``, a sampler's name, ``promotion``.
        trial: number of the sampler's proposal; ``None`` for what nobody proposed.
        versions: of Paretune and of the evaluators that measured, e.g. ``paretune/0.1.0 quality/1 cost/1``: numbers of
            another are not taken for these.
        tokens: tokens that this reading paid for (a longer rung pays only the new ones).
        evaluations: the same in units of :data:`EVALUATION_TOKENS`, backward passes counted twice more.
        seconds: wall time of scoring.
        measurements: by metric name.
        violations: by limit, feasible at or below 0.
        broken: why there is no quality, e.g. predictions that are not finite; empty for every candidate that has one.
            Such a record has costs only, and nothing may stand in for the values that are not there.
    """

    index: int
    digest: str
    name: str
    config: CompressionConfig
    sampler: str
    trial: int | None = None
    versions: str = ""
    fidelity: Fidelity
    tokens: int
    evaluations: float
    seconds: float
    measurements: dict[str, Measurement]
    violations: dict[str, float] = Field(default_factory=dict)
    broken: str = ""

    def value(self, metric: str) -> float | None:
        """The value of ``metric``, ``None`` where it was not measured."""
        found = self.measurements.get(metric)
        return None if found is None else found.value
