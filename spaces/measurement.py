"""A number that was measured or predicted, with what one needs to trust it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Document, Frozen


class Measurement(Frozen):
    """One value of one metric.

    Attributes:
        value: in ``unit`` (SI, see :mod:`paretune.spaces.metrics`).
        stderr: standard error, clustered by window or item; ``None`` where it makes no sense.
        n: windows, items or repetitions behind it; 0 for a computed or predicted value.
        source: measured and predicted values are never mixed in one column.
        by: what measured or predicted it, e.g. ``kl/1`` or ``roofline``.
        per_window: the values behind the mean, in window order, for paired comparison.
    """

    value: float
    unit: str = ""
    stderr: float | None = None
    n: int = 0
    source: Literal["measured", "predicted"] = "measured"
    by: str = ""
    per_window: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _finite(self) -> Measurement:
        if not math.isfinite(self.value):
            raise ConfigurationError(
                f"measurement {self.value} by {self.by or 'nobody'}",
                "must be finite",
                "Leave out what could not be measured",
            )
        return self


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

    def value(self, metric: str) -> float | None:
        """The value of ``metric``, ``None`` where it was not measured."""
        found = self.measurements.get(metric)
        return None if found is None else found.value
