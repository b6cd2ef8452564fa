"""``hqq``: half-quadratic quantization (Badri and Shaji 2023, mobiusml.github.io/hqq_blog).

Minimises the sum of ``|w - dequantized|^p``, p = 0.7, which lets outliers go rather than stretching the range
for them. An auxiliary error ``e`` splits it into two easy halves, iterated: ``e`` by generalised shrinkage of
the residual, then the zero point by the mean of what remains.

Zero points are integers where the container holds integers: rounded before they are scored. Where the format has
float zero points, as the reference does, they are rounded to the dtype of scales. Other differences from the
reference: the scale is re-fitted by least squares to the codes and rounded to its stored dtype, and of all iterates
the one of least error is kept, group by group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compressors.quantizers.affine import (
    chunks,
    code_range,
    decode,
    encode,
    integer_zeros,
    pack_result,
    round_scales,
)
from compressors.quantizers.quantized_weight import QuantizedWeight
from compressors.quantizers.quantizer import Quantizer
from spaces.errors import FormatError
from spaces.formats import WeightFormat

if TYPE_CHECKING:
    from compressors.statistics import SiteStatistics

_NORM = 0.7
_BETA = 10.0
_BETA_GROWTH = 1.01
_ITERATIONS = 12
_TINY = 1e-12


class HalfQuadratic(Quantizer):
    """HQQ with integer or float zero points; touches nothing but its own site and needs no data."""

    name = "hqq"
    zero_points = ("int", "float")

    def check_format(self, weight_format: WeightFormat) -> None:
        """Refuse, besides what every quantizer refuses, formats without a zero point."""
        super().check_format(weight_format)
        if weight_format.symmetric:
            raise FormatError(
                f"format {weight_format.name}",
                "half-quadratic quantization moves the zero point, so it needs one",
                "Use an asymmetric format, or the method rtn",
            )

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: SiteStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        del statistics
        groups, bits = weight.view(-1, group_size), weight_format.num_bits
        codes = torch.empty(groups.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(len(groups), device=weight.device)
        zeros = torch.empty_like(scales)
        whole = weight_format.zero_point == "int"
        for part in chunks(groups):
            scales[part], zeros[part] = half_quadratic(groups[part], bits, scale_dtype, whole)
            codes[part] = encode(groups[part], scales[part], zeros[part], bits).to(torch.int8)
        return pack_result(weight.shape, codes, scales, zeros, scale_dtype, weight_format)


def half_quadratic(
    groups: torch.Tensor, bits: int, dtype: torch.dtype, whole: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded scales and zeros ``(groups,)`` of least p-norm error.

    Args:
        groups: weights, ``(groups, group_size)``.
        bits: of the codes.
        dtype: that scales, and zeros that are no integers, are stored in.
        whole: whether zeros are integers within the range of the codes.
    """
    low, high = code_range(bits)
    bottom, top = groups.amin(dim=1).clamp_(max=0.0), groups.amax(dim=1).clamp_(min=0.0)
    scales = round_scales((top - bottom) / (high - low), dtype)
    zeros = integer_zeros(bottom, scales, bits)
    best_scales, best_zeros = scales, zeros
    best_error = torch.full_like(scales, torch.inf)
    beta = _BETA
    for _ in range(_ITERATIONS):
        codes = encode(groups, scales, zeros, bits)
        residual = groups - decode(codes, scales, zeros)
        size = residual.abs().clamp_min_(_TINY)
        power = size.pow(_NORM)
        error = power.sum(dim=1)
        better = error < best_error
        best_scales, best_zeros = (
            torch.where(better, scales, best_scales),
            torch.where(better, zeros, best_zeros),
        )
        best_error = torch.where(better, error, best_error)
        target = groups - shrink(residual, size, power, beta)
        zeros = (codes - target / scales.unsqueeze(-1)).mean(dim=1)
        zeros = zeros.round_().clamp_(low, high) if whole else zeros.to(dtype).to(torch.float32)
        scales = refit(target, codes - zeros.unsqueeze(-1), scales, dtype)
        beta *= _BETA_GROWTH
    return best_scales, best_zeros


def shrink(residual: torch.Tensor, size: torch.Tensor, power: torch.Tensor, beta: float) -> torch.Tensor:
    """Generalised soft threshold ``sign(x) relu(|x| - |x|^(p-1) / beta)``, given ``|x|`` and ``|x|^p``."""
    return (size - power / size / beta).relu_().copysign_(residual)


def refit(
    target: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Scales of least squared error for these codes; the old ones where all codes are zero."""
    weight = torch.linalg.vecdot(codes, codes)
    fitted = torch.linalg.vecdot(target, codes) / weight.clamp_min(1.0)
    return torch.where((weight > 0) & (fitted > 0), round_scales(fitted, dtype), scales)
