"""``gptq``: rounding column by column, each error made up for by the columns still to come.

Frantar et al. 2022 (arXiv:2210.17323), after Optimal Brain Quantization: with H the covariance of the inputs, the
error of a rounded column is spread over the remaining ones along the rows of the upper Cholesky factor of H^-1.
Columns go in order of falling ``diag(H)`` while groups keep their places ("act-order" with static groups), so the
container is the plain one. Scales reach the extreme weight of a group (nine tenths of it at 2 and 3 bits), not the
range of least squared error: later columns take up errors and outgrow a range that clips (benchmarks/log.md).

An exact zero stays zero: its column's error is spread like any other, so pruned weights stay pruned. Without a
covariance (an embedding) there is nothing to make up for, and the result is that of ``rtn``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from compressors.quantizers.affine import code_range, integer_zeros, pack_result, round_scales
from compressors.quantizers.nearest import RoundToNearest
from compressors.quantizers.quantizer import QuantizedWeight, Quantizer
from spaces.errors import ModelError
from spaces.formats import WeightFormat

if TYPE_CHECKING:
    from compressors.statistics import SiteStatistics

_BLOCK = 128
"""Columns after which the errors of a block reach the columns beyond it, in one product."""
_REACH = {2: 0.9, 3: 0.9}
"""Of the extreme weight, by bits."""
_DAMPING = 0.01
_MOST_DAMPING = 1e3


class Gptq(Quantizer):
    """Second-order rounding; touches nothing but its own site."""

    name = "gptq"
    needs_covariance = True
    slab_weights = 1 << 24

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: SiteStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        covariance = None if statistics is None else statistics.covariance
        if covariance is None:
            return RoundToNearest().quantize(weight, weight_format, None, scale_dtype)
        scales, zeros = _scales(weight.view(-1, group_size), weight_format, scale_dtype)
        rows = len(weight)
        order, factor = inverse_factor(covariance.to(weight.device))
        codes = round_in_order(
            weight,
            scales.view(rows, -1).repeat_interleave(group_size, dim=1),
            torch.zeros_like(weight)
            if zeros is None
            else zeros.view(rows, -1).repeat_interleave(group_size, dim=1),
            order,
            factor,
            weight_format.num_bits,
        )
        return pack_result(
            weight.shape, codes.to(torch.int8).view(-1, group_size), scales, zeros, scale_dtype
        )


def _scales(
    groups: torch.Tensor, weight_format: WeightFormat, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zeros ``(groups,)`` that reach the extreme weights; a symmetric scale has the extreme's side."""
    low, high = code_range(weight_format.num_bits)
    reach = _REACH.get(weight_format.num_bits, 1.0)
    if weight_format.symmetric:
        extreme = groups.gather(1, groups.abs().argmax(dim=1, keepdim=True)).squeeze(1)
        return round_scales(extreme * (reach / low), dtype), None
    bottom, top = groups.amin(dim=1).clamp_(max=0.0), groups.amax(dim=1).clamp_(min=0.0)
    scales = round_scales((top - bottom) * (reach / (high - low)), dtype)
    return scales, integer_zeros(bottom * reach, scales, weight_format.num_bits)


def inverse_factor(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of columns, and the upper Cholesky factor of the damped inverse in that order.

    Channels that never fired count as white. Damping starts at a hundredth of the mean diagonal and grows until
    the factorisation exists, so a singular covariance (fewer tokens than channels) is no error.

    Args:
        covariance: ``(columns, columns)``.

    Raises:
        ModelError: a covariance that is not finite.
    """
    found = covariance.to(torch.float64)
    if not bool(torch.isfinite(found).all()):
        raise ModelError(
            "covariance of a site's input",
            "has NaN or infinite numbers",
            "Calibrate in float32, or leave the site to rtn",
        )
    diagonal = found.diagonal().clone()
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 1.0
    found = found.clone()
    found[dead, :] = 0.0
    found[:, dead] = 0.0
    found.diagonal()[dead] = mean
    # Stable, so equal channels keep their order; dead ones come last.
    order = torch.argsort(diagonal, descending=True, stable=True)
    found = found[order][:, order]
    identity = torch.eye(len(found), dtype=found.dtype, device=found.device)
    damping = _DAMPING
    while damping <= _MOST_DAMPING:
        lower, bad = torch.linalg.cholesky_ex(found + damping * mean * identity)
        if int(bad) == 0:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if int(failed) == 0:
                return order, upper.to(torch.float32)
        damping *= 10
    raise ModelError(
        "covariance of a site's input",
        "cannot be inverted",
        "Calibrate on more text, or use rtn for the site",
    )


def round_in_order(
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor,
    order: torch.Tensor,
    factor: torch.Tensor,
    bits: int,
) -> torch.Tensor:
    """Codes of a weight, in its own order of columns.

    Args:
        weight: float32 ``(rows, columns)``.
        scales: of every weight, ``(rows, columns)``.
        zeros: likewise.
        order: in which columns are rounded.
        factor: from :func:`inverse_factor`.
        bits: of a code.
    """
    low, high = code_range(bits)
    pruned = (weight == 0)[:, order]
    left, scales, zeros = weight[:, order].clone(), scales[:, order], zeros[:, order]
    codes = torch.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        stop = min(start + _BLOCK, left.shape[1])
        errors = torch.empty_like(left[:, start:stop])
        for column in range(start, stop):
            now, scale, zero = left[:, column], scales[:, column], zeros[:, column]
            code = (now / scale).round_().add_(zero).clamp_(low, high)
            code = torch.where(pruned[:, column], zero, code)
            error = (now - (code - zero) * scale) / factor[column, column]
            left[:, column:stop] -= error[:, None] * factor[column, column:stop]
            codes[:, column] = code
            errors[:, column - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return torch.empty_like(codes).index_copy_(1, order, codes)
