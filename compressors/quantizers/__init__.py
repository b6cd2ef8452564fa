"""Weight quantizers by name: one line here for each, one line in the contract test."""

from __future__ import annotations

from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.spaces.registry import Registry

QUANTIZERS: Registry[Quantizer] = Registry(
    "method",
    __name__,
    {
        "rtn": "nearest:RoundToNearest",
        "weighted": "nearest:Weighted",
        "hqq": "half_quadratic:HalfQuadratic",
        "gptq": "gptq:Gptq",
        "awq": "awq:Awq",
        "minmax": "observed:MinMax",
        "percentile": "observed:Percentile",
        "entropy": "observed:Entropy",
        "kmeans": "codebooks:KMeans",
        "learned": "codebooks:LearnedLevels",
        "ggml": "ggml_blocks:GgmlBlocks",
        "ggml-importance": "ggml_blocks:GgmlImportance",
    },
)
find_quantizer = QUANTIZERS.find

__all__ = ["QUANTIZERS", "QuantizedWeight", "Quantizer", "find_quantizer"]
