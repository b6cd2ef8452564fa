"""``rtn``: round to nearest with clipping that minimises the squared error of each group.

The clipping range of a group is searched over a grid of shrink factors, as in the MSE observers of
compressed-tensors and OMSE (Choukroun et al. 2019, arXiv:1902.06822), with two differences: the error is
taken after the scale was rounded to the dtype it is stored in, and a symmetric scale may be negative, which
puts the level that two's complement has on one side only where it helps.
"""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.affine import (
    best_offer,
    chunks,
    code_range,
    encode,
    integer_zeros,
    pack_result,
    round_scales,
)
from paretune.compressors.quantizers.blocks import to_blocks
from paretune.compressors.quantizers.numbers import numbers_of
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.quantizers.scales import ScaleType, best_scales, scaled_weight
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.formats import Codebook, NumberType, WeightFormat

# Lowest shrink factor and number of grid points, by bits: the wider the codes, the less clipping pays.
_GRID = {
    2: (0.30, 40),
    3: (0.45, 32),
    4: (0.58, 24),
    5: (0.70, 20),
    6: (0.80, 16),
    7: (0.86, 12),
    8: (0.90, 12),
}


class RoundToNearest(Quantizer):
    """Round to nearest; touches nothing but its own layer and needs no data. Makes every format with fixed numbers."""

    name = "rtn"
    number_types: tuple[NumberType, ...] = ("int", "float", "codebook")
    codebooks: tuple[Codebook, ...] = ("none", "normal")
    shares_rows = True

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        tall = weight_format.block_rows or len(weight)
        groups = to_blocks(weight, tall, group_size)
        counted = self.importance(weight, statistics)
        importance = None if counted is None else to_blocks(counted, tall, group_size)
        if weight_format.number_type != "int":
            return _scaled(weight, groups, weight_format, scale_dtype)
        bits = weight_format.num_bits
        codes = torch.empty(groups.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(len(groups), device=weight.device)
        zeros = None if weight_format.symmetric else torch.empty_like(scales)
        search = symmetric_scales if weight_format.symmetric else asymmetric_scales
        for part in chunks(groups):
            weights = None if importance is None else importance[part]
            scales[part], best_zeros = search(groups[part], bits, scale_dtype, weights)
            if zeros is not None and best_zeros is not None:
                zeros[part] = best_zeros
            codes[part] = encode(groups[part], scales[part], best_zeros, bits).to(torch.int8)
        return pack_result(weight.shape, codes, scales, zeros, scale_dtype, weight_format)

    def importance(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor | None:
        """How much the error of each weight counts, shaped as the weight; ``None``: all the same."""
        del weight, statistics
        return None


class Weighted(RoundToNearest):
    """``weighted``: each weight's error counted by the mean square of its input; without statistics it is ``rtn``.

    The diagonal of the layer's Hessian, which statistics hold anyway, in place of equal weights: the idea of
    llama.cpp's importance matrix (ggml-org/llama.cpp, pull request 4861) for plain scales.
    """

    name = "weighted"
    number_types = ("int",)
    codebooks = ("none",)

    def importance(self, weight: torch.Tensor, statistics: LayerStatistics | None) -> torch.Tensor | None:
        """Of the input channels; the same for all where nothing was observed."""
        return None if statistics is None else statistics.importances(weight)


def _scaled(
    weight: torch.Tensor, groups: torch.Tensor, weight_format: WeightFormat, dtype: torch.dtype
) -> QuantizedWeight:
    numbers = numbers_of(weight_format, weight.device)
    scale_type = ScaleType.of(weight, weight_format, dtype)
    return scaled_weight(weight, groups, best_scales(groups, scale_type, numbers), scale_type, numbers)


Searched = tuple[torch.Tensor, torch.Tensor | None]


def symmetric_scales(
    groups: torch.Tensor, bits: int, dtype: torch.dtype, importance: torch.Tensor | None = None
) -> Searched:
    """Rounded scales of least squared error; exactly odd: negated weights negate them."""
    return best_offer(groups, *symmetric_offers(groups, bits, dtype), bits, importance)


def asymmetric_scales(
    groups: torch.Tensor, bits: int, dtype: torch.dtype, importance: torch.Tensor | None = None
) -> Searched:
    """Rounded scales and integer zeros of least squared error."""
    return best_offer(groups, *asymmetric_offers(groups, bits, dtype), bits, importance)


def symmetric_offers(groups: torch.Tensor, bits: int, dtype: torch.dtype) -> Searched:
    """Rounded scales to choose from, ``(offers, groups)``; the widest range of either side first."""
    low, _ = code_range(bits)
    extreme = groups.gather(1, groups.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    lowest, points = _GRID[bits]
    # With the extreme weight on the side of the extra level nothing is clipped from factor 1 on; with the
    # extreme on the other side only from low / (low + 1) on.
    factors = torch.cat(
        [
            torch.linspace(largest, lowest, points) / towards
            for towards, largest in ((low, 1.0), (-low, low / (low + 1)))
        ]
    ).to(groups.device)
    return round_scales(factors[:, None] * extreme, dtype), None


def asymmetric_offers(groups: torch.Tensor, bits: int, dtype: torch.dtype) -> Searched:
    """Rounded scales and integer zeros to choose from, ``(offers, groups)``; the widest range first."""
    low, high = code_range(bits)
    bottom, top = groups.amin(dim=1).clamp_(max=0.0), groups.amax(dim=1).clamp_(min=0.0)
    lowest, points = _GRID[bits]
    factors = torch.linspace(1.0, lowest, points, device=groups.device)[:, None]
    scales = round_scales((top - bottom) * (factors / (high - low)), dtype)
    return scales, integer_zeros(bottom * factors, scales, bits)
