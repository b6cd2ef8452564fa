"""``hqq``: half-quadratic quantization (Badri and Shaji 2023, mobiusml.github.io/hqq_blog).

Minimises the sum of ``|w - dequantized|^p``, p = 0.7, which lets outliers go rather than stretching the range
for them. An auxiliary error ``e`` splits it into two easy halves, iterated: ``e`` by generalised shrinkage of
the residual, then the zero point by the mean of what remains.

Zero points are integers where the container holds integers: rounded before they are scored. Where the format has
float zero points, as the reference does, they are rounded to the dtype of scales. Other differences from the
reference: the scale is re-fitted by least squares to the codes and rounded to its stored dtype; a second descent fits
zero point and scale to the weights themselves, each counted by the mean square of its input channel; and of all
iterates the one whose error, so counted, is least is kept, group by group. Without statistics there is no second
descent and the p-norm decides.
"""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.affine import (
    chunks,
    code_range,
    decode,
    encode,
    pack_result,
    round_scales,
)
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat

_NORM = 0.7
_BETA = 10.0
_BETA_GROWTH = 1.01
_ITERATIONS = 12
_WEIGHTED_ITERATIONS = 8
_TINY = 1e-12


class HalfQuadratic(Quantizer):
    """HQQ with integer or float zero points; touches nothing but its own layer, and needs no data but uses it."""

    name = "hqq"
    version = "2"
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
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        groups, bits = weight.view(-1, group_size), weight_format.num_bits
        importance = None if statistics is None else statistics.importances(weight).view(-1, group_size)
        codes = torch.empty(groups.shape, dtype=torch.int8, device=weight.device)
        scales = torch.empty(len(groups), device=weight.device)
        zeros = torch.empty_like(scales)
        whole = weight_format.zero_point == "int"
        for part in chunks(groups):
            counted = None if importance is None else importance[part]
            scales[part], zeros[part] = half_quadratic(groups[part], bits, scale_dtype, whole, counted)
            codes[part] = encode(groups[part], scales[part], zeros[part], bits).to(torch.int8)
        return pack_result(weight.shape, codes, scales, zeros, scale_dtype, weight_format)


def half_quadratic(
    groups: torch.Tensor,
    bits: int,
    dtype: torch.dtype,
    whole: bool = True,
    importance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounded scales and zeros ``(groups,)`` of least error.

    Args:
        groups: weights, ``(groups, group_size)``.
        bits: of the codes.
        dtype: that scales, and zeros that are no integers, are stored in.
        whole: whether zeros are integers within the range of the codes.
        importance: of the weights, shaped as they are; ``None``: the p-norm decides which iterate is kept.
    """
    low, high = code_range(bits)
    bottom, top = groups.amin(dim=1).clamp_(max=0.0), groups.amax(dim=1).clamp_(min=0.0)
    scales = round_scales((top - bottom) / (high - low), dtype)
    best = _Best(groups, bits, importance, scales, _stored_zeros(low - bottom / scales, bits, dtype, whole))
    scales, zeros, beta = best.scales, best.zeros, _BETA
    for _ in range(_ITERATIONS):
        codes, residual = best.see(scales, zeros)
        size = residual.abs().clamp_min_(_TINY)
        target = groups - shrink(residual, size, size.pow(_NORM), beta)
        zeros = _stored_zeros((codes - target / scales.unsqueeze(-1)).mean(dim=1), bits, dtype, whole)
        scales = refit(target, codes - zeros.unsqueeze(-1), scales, dtype)
        beta *= _BETA_GROWTH
    if importance is not None:
        _descend(best, groups, bits, dtype, whole, importance)
    return best.scales, best.zeros


def _descend(
    best: _Best, groups: torch.Tensor, bits: int, dtype: torch.dtype, whole: bool, importance: torch.Tensor
) -> None:
    """From the best iterate on: zero points and scales by weighted least squares, in turn."""
    scales, zeros, total = best.scales, best.zeros, importance.sum(dim=1)
    counted = importance.sqrt()
    target = groups * counted
    for _ in range(_WEIGHTED_ITERATIONS):
        codes, _ = best.see(scales, zeros)
        shifts = torch.linalg.vecdot(codes - groups / scales.unsqueeze(-1), importance) / total
        zeros = _stored_zeros(shifts, bits, dtype, whole)
        scales = refit(target, (codes - zeros.unsqueeze(-1)) * counted, scales, dtype)
    best.see(scales, zeros)


class _Best:
    """The scales and zeros of least error that were seen, group by group."""

    def __init__(
        self,
        groups: torch.Tensor,
        bits: int,
        importance: torch.Tensor | None,
        scales: torch.Tensor,
        zeros: torch.Tensor,
    ) -> None:
        self._groups, self._bits, self._importance = groups, bits, importance
        self.scales, self.zeros = scales, zeros
        self._errors = torch.full_like(scales, torch.inf)

    def see(self, scales: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and residual under these; remembered where they err less than all before."""
        codes = encode(self._groups, scales, zeros, self._bits)
        residual = self._groups - decode(codes, scales, zeros)
        if self._importance is None:
            errors = residual.abs().clamp_min(_TINY).pow(_NORM).sum(dim=1)
        else:
            errors = torch.linalg.vecdot(residual * self._importance, residual)
        better = errors < self._errors
        self.scales = torch.where(better, scales, self.scales)
        self.zeros = torch.where(better, zeros, self.zeros)
        self._errors = torch.where(better, errors, self._errors)
        return codes, residual


def _stored_zeros(zeros: torch.Tensor, bits: int, dtype: torch.dtype, whole: bool) -> torch.Tensor:
    low, high = code_range(bits)
    return zeros.round().clamp_(low, high) if whole else zeros.to(dtype).to(torch.float32)


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
