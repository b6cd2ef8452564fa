"""Weight quantizers by name: one file each, one line here, one line in the contract test."""

from __future__ import annotations

from paretune.compressors.quantizers.awq import Awq
from paretune.compressors.quantizers.entropy import Entropy
from paretune.compressors.quantizers.ggml_blocks import GgmlBlocks, GgmlImportance
from paretune.compressors.quantizers.gptq import Gptq
from paretune.compressors.quantizers.half_quadratic import HalfQuadratic
from paretune.compressors.quantizers.kmeans import KMeans
from paretune.compressors.quantizers.learned_levels import LearnedLevels
from paretune.compressors.quantizers.minmax import MinMax
from paretune.compressors.quantizers.nearest import RoundToNearest
from paretune.compressors.quantizers.percentile import Percentile
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.quantizers.weighted import Weighted
from paretune.spaces.errors import UnknownNameError

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
