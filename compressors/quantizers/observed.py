"""Rounding in a range that an observer reads off the weights: no search, one scale a group.

The arithmetic from range to scale is that of compressed-tensors, bit for bit: a symmetric integer scale maps the range
to ``2^b - 1`` steps, so that both signs reach the same magnitude.
"""

from __future__ import annotations

from abc import abstractmethod

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
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.formats import WeightFormat

_OUTSIDE = 1e-3
_BINS = 256
_SHARES = 24
_LEAST = 0.35
_TINY = 1e-9


class Observed(Quantizer):
    """An observer says which share of the extreme magnitude is kept; beyond it weights are clipped. No data."""

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


class MinMax(Observed):
    """``minmax``: the range of the weights themselves, nothing is clipped ("absmax", "zero-point" where asymmetric).

    What the min-max observer of compressed-tensors gives, bit for bit.
    """

    name = "minmax"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """Everything."""
        del num_bits
        return torch.ones(len(groups), device=groups.device)


class Percentile(Observed):
    """``percentile``: the range ends where all but a thousandth of the magnitudes lie (at least one stays outside).

    Wu et al. 2020, "Integer quantization for deep learning inference" (arXiv:2004.09602), compare percentiles of
    99.9 to 99.9999 per tensor; a group of 128 weights has none of these, so its largest weight alone is let go.
    """

    name = "percentile"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """The magnitude at the percentile over the largest one; 1 where that is nothing."""
        del num_bits
        sizes = groups.abs()
        outside = min(max(1, round(_OUTSIDE * groups.shape[1])), groups.shape[1] - 1)
        largest = sizes.topk(outside + 1, dim=1).values
        share = largest[:, -1] / largest[:, 0]
        return torch.where((largest[:, -1] > 0) & share.isfinite(), share, torch.ones_like(share))


class Entropy(Observed):
    """``entropy``: the range under which the histogram of the codes says most about that of the weights.

    Migacz 2017, "8-bit inference with TensorRT" (GTC): of several ranges the one of least divergence between the
    histogram of magnitudes, whose tail falls into the last bin, and the same histogram in as many steps as there are
    codes. Needs weights enough to fill a histogram: meant for channels and tensors rather than small groups.
    """

    name = "entropy"

    def kept(self, groups: torch.Tensor, num_bits: int) -> torch.Tensor:
        """The share of the range with the least divergence; 1 for a group of zeros."""
        counts = _histogram(groups)
        steps = 1 << (num_bits - 1)
        ends = torch.linspace(1.0, _LEAST, _SHARES).mul(_BINS).round().to(torch.int64).clamp_min(steps)
        ends = torch.unique_consecutive(ends)
        found = torch.stack([_divergence(counts, int(end), steps) for end in ends])
        kept: torch.Tensor = ends.to(groups.device)[found.argmin(dim=0)].to(torch.float32) / _BINS
        return kept


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


def _histogram(groups: torch.Tensor) -> torch.Tensor:
    """Counts of magnitudes in equal bins up to the largest, float32 ``(groups, bins)``; zeros are not counted."""
    sizes = groups.abs()
    largest = sizes.amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    places = (sizes / largest * _BINS).ceil_().sub_(1).clamp_(0, _BINS - 1).to(torch.int64)
    counts = torch.zeros(len(groups), _BINS, device=groups.device)
    return counts.scatter_add_(1, places, (sizes > 0).to(torch.float32))


def _divergence(counts: torch.Tensor, end: int, steps: int) -> torch.Tensor:
    """KL of the clipped histogram to itself in ``steps`` steps, ``(groups,)``."""
    clipped = counts[:, :end].clone()
    inside = clipped.clone()
    clipped[:, -1] += counts[:, end:].sum(dim=1)
    place = torch.arange(end, device=counts.device) * steps // end
    sums = torch.zeros(len(counts), steps, device=counts.device).index_add_(1, place, inside)
    used = torch.zeros_like(sums).index_add_(1, place, (inside > 0).to(torch.float32))
    spread = torch.where(inside > 0, (sums / used.clamp_min(1.0))[:, place], torch.zeros_like(inside))
    p = clipped / clipped.sum(dim=1, keepdim=True).clamp_min(1.0)
    q = spread / spread.sum(dim=1, keepdim=True).clamp_min(1.0)
    return (p * ((p + _TINY) / (q + _TINY)).log()).sum(dim=1)
