"""Rounding in a range that an observer reads off the weights: no search, one scale a group.

The arithmetic from range to scale is that of compressed-tensors, bit for bit: a symmetric integer scale maps the range
to ``2^b - 1`` steps, so that both signs reach the same magnitude.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch

from paretune.compressors.quantizers.affine import (
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
from paretune.compressors.quantizers.scales import ScaleType, scaled_weight
from paretune.spaces.formats import WeightFormat

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics


class Observed(Quantizer):
    """An observer says which share of the extreme magnitude is kept; beyond it weights are clipped."""

    number_types = ("int", "float", "codebook")
    codebooks = ("none", "normal")
    shares_rows = True

    @abstractmethod
    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """Share of the largest magnitude that the range keeps, in (0, 1].

        Args:
            groups: ``(groups, group_size)``.
            num_bits: of the codes.

        Returns:
            float32 ``(groups,)``.
        """

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        del statistics
        groups = to_blocks(weight, weight_format.block_rows or len(weight), group_size)
        bits = weight_format.num_bits
        kept = torch.cat([self.kept(groups[part], bits) for part in chunks(groups)])
        if weight_format.number_type == "int":
            scales, zeros = integer_range(groups, kept, weight_format, scale_dtype)
            codes = encode(groups, scales, zeros, bits).to(torch.int8)
            return pack_result(weight.shape, codes, scales, zeros, scale_dtype, weight_format)
        numbers = numbers_of(weight_format, weight.device)
        scale_type = ScaleType.of(weight, weight_format, scale_dtype)
        reach = scale_type.reaching(groups.abs().amax(dim=1) * kept, numbers)
        return scaled_weight(weight, groups, scale_type.stored(reach), scale_type, numbers)


def integer_range(
    groups: torch.Tensor, kept: torch.Tensor, weight_format: WeightFormat, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zeros ``(groups,)`` of the kept share of each group's range."""
    low, high = code_range(weight_format.num_bits)
    bottom, top = groups.amin(dim=1).clamp_(max=0.0) * kept, groups.amax(dim=1).clamp_(min=0.0) * kept
    if weight_format.symmetric:
        return round_scales(torch.maximum(-bottom, top) / ((high - low) / 2), dtype), None
    scales = round_scales((top - bottom) / (high - low), dtype)
    return scales, integer_zeros(bottom, scales, weight_format.num_bits)
