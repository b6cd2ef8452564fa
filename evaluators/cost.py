"""What a candidate costs, without running it: exact sizes and predicted times.

Sizes come from :mod:`paretune.spaces.size` alone. Times come from a predictor and carry ``_predicted`` in their name,
so that they can never be read as measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.measurement import Fidelity, Measurement
from paretune.spaces.metrics import METRICS
from paretune.spaces.model import ModelSpec
from paretune.spaces.size import average_bits, memory_bytes, weight_bytes
from paretune.spaces.target import Workload

SIZES = ("average_bits", "weight_bytes", "memory_bytes")
"""Metrics that take no predictor."""


class CostPredictor(Protocol):
    """What :class:`CostEvaluator` needs of :class:`paretune.profiles.predictor.Predictor`."""

    def predict(
        self, spec: ModelSpec, config: CompressionConfig, workload: Workload
    ) -> Mapping[str, Measurement]:
        """``ttft_s``, ``tpot_s`` and, where power is known, ``energy_j_per_token``."""


class CostEvaluator:
    """The cheap :class:`paretune.spaces.evaluator.Evaluator`: microseconds to milliseconds, no model needed.

    Args:
        spec: the model.
        workload: what a deployment does.
        predictor: of the engine on the device; without one, only sizes are returned.
    """

    name = "cost"
    version = "1"

    def __init__(self, spec: ModelSpec, workload: Workload, predictor: CostPredictor | None = None) -> None:
        self._spec = spec
        self._workload = workload
        self._predictor = predictor

    @property
    def metrics(self) -> tuple[str, ...]:
        """Sizes, and ``NAME_predicted`` for times."""
        return SIZES if self._predictor is None else (*SIZES, "ttft_s_predicted", "tpot_s_predicted")

    def evaluate(
        self, config: CompressionConfig, fidelity: Fidelity | None = None
    ) -> Mapping[str, Measurement]:
        """Sizes and predicted times of ``config``; the fidelity plays no part."""
        del fidelity
        weights = weight_bytes(self._spec, config)
        found = {
            "average_bits": _size("average_bits", average_bits(self._spec, config)),
            "weight_bytes": _size("weight_bytes", weights),
            "memory_bytes": _size("memory_bytes", memory_bytes(self._spec, config, self._workload, weights)),
        }
        if self._predictor is not None:
            predicted = self._predictor.predict(self._spec, config, self._workload)
            found.update({f"{name}_predicted": value for name, value in predicted.items()})
        return found


def _size(metric: str, value: float) -> Measurement:
    return Measurement(value=value, unit=METRICS[metric].unit, by="size")
