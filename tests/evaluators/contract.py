"""What every evaluator promises."""

from __future__ import annotations

import math

from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.formats import integer_format
from paretune.spaces.measurement import Fidelity


def four_bits(spec, bits=4, group_size=32):
    choice = LayerChoice(weight=integer_format(bits, group_size), method="rtn")
    return CompressionConfig(layers={linear.name: choice for linear in spec.block_linears})


def check_evaluator(evaluator, spec, fidelity: Fidelity):
    """Deterministic, finite, and no metric that was not announced; state leaves no trace."""
    assert evaluator.name
    assert evaluator.version
    first = evaluator.evaluate(four_bits(spec), fidelity)
    evaluator.evaluate(DENSE_CONFIG, fidelity)
    again = evaluator.evaluate(four_bits(spec), fidelity)
    assert dict(first) == dict(again)
    assert set(first) <= set(evaluator.metrics)
    assert all(math.isfinite(m.value) for m in first.values())
