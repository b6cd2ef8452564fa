"""The narrow door between search and everything that measures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Fidelity, Measurement


class Evaluator(Protocol):
    """Scores a candidate at a fidelity. Implementations are deterministic: same arguments, same numbers."""

    @property
    def name(self) -> str:
        """Registered name."""

    @property
    def version(self) -> str:
        """Changes whenever the numbers would; part of every cache key."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that :meth:`evaluate` returns."""

    def evaluate(self, config: CompressionConfig, fidelity: Fidelity) -> Mapping[str, Measurement]:
        """Measure ``config``. A metric that cannot be measured is absent, never NaN."""
