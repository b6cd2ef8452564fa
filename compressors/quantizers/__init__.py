"""Weight quantizers by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from compressors.quantizers.awq import Awq
from compressors.quantizers.entropy import Entropy
from compressors.quantizers.ggml_blocks import GgmlBlocks, GgmlImportance
from compressors.quantizers.gptq import Gptq
from compressors.quantizers.half_quadratic import HalfQuadratic
from compressors.quantizers.kmeans import KMeans
from compressors.quantizers.learned_levels import LearnedLevels
from compressors.quantizers.minmax import MinMax
from compressors.quantizers.nearest import RoundToNearest
from compressors.quantizers.percentile import Percentile
from compressors.quantizers.quantized_weight import QuantizedWeight
from compressors.quantizers.quantizer import Quantizer
from compressors.quantizers.weighted import Weighted
from spaces.errors import UnknownNameError

QUANTIZERS: dict[str, Quantizer] = {
    quantizer.name: quantizer
    for quantizer in (
        RoundToNearest(),
        Weighted(),
        HalfQuadratic(),
        Gptq(),
        Awq(),
        MinMax(),
        Percentile(),
        Entropy(),
        KMeans(),
        LearnedLevels(),
        GgmlBlocks(),
        GgmlImportance(),
    )
}


def find_quantizer(name: str) -> Quantizer:
    """The quantizer called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in QUANTIZERS:
        raise UnknownNameError("method", name, QUANTIZERS)
    return QUANTIZERS[name]


__all__ = ["QUANTIZERS", "QuantizedWeight", "Quantizer", "find_quantizer"]
