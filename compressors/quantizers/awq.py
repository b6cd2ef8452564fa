"""``awq``: channels that matter are scaled up before rounding to nearest, and the scale is undone in the tensor before.

Lin et al. 2023 (arXiv:2306.00978). Two parts. Here: rounding to nearest whose clipping range is that of the least
*output* error of each group, AWQ's second step, taken on the covariance of the inputs and not on the inputs
themselves: for a group of columns with covariance C an error e of the weights costs ``e C e^T``. The first step, the
scale of each channel, needs the tensors around a linear and is in :mod:`paretune.compressors.scaled_block`; what a
layer's rounding sees is the scaled weight and the covariance of the scaled input.

Without a covariance (an embedding) nothing is known about inputs, and the result is that of ``rtn``.
"""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.affine import decode, encode, pack_result, weights_at_once
from paretune.compressors.quantizers.nearest import (
    RoundToNearest,
    Searched,
    asymmetric_offers,
    symmetric_offers,
)
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.errors import ModelError
from paretune.spaces.formats import WeightFormat

_DAMPING = 0.01
"""Of the mean square of a group's inputs: decides between ranges that calibration saw no difference of."""


class Awq(Quantizer):
    """Rounding to nearest by output error; the scales of channels are the block's, hence the closure."""

    name = "awq"
    closure = "block"
    needs_covariance = True
    slab_weights = 1 << 21

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        if statistics is None or statistics.covariance is None:
            return RoundToNearest().quantize(weight, weight_format, None, scale_dtype)
        covariance = group_covariances(statistics.covariance.to(weight.device), group_size)
        return round_by_output(weight, covariance, weight_format, scale_dtype)


def group_covariances(covariance: torch.Tensor, group_size: int) -> torch.Tensor:
    """Damped blocks on the diagonal, float32 ``(groups, group_size, group_size)``; a dead group counts as white.

    Args:
        covariance: of a layer's input, ``(columns, columns)``.
        group_size: divides the columns.

    Raises:
        ModelError: a covariance that is not finite.
    """
    if not bool(torch.isfinite(covariance).all()):
        raise ModelError(
            "covariance of a layer's input",
            "has NaN or infinite numbers",
            "Calibrate in float32, or leave the layer to rtn",
        )
    groups = len(covariance) // group_size
    parts = covariance.to(torch.float32).view(groups, group_size, groups, group_size)
    blocks = parts.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    level = blocks.diagonal(dim1=1, dim2=2).mean(dim=1)
    ridge = torch.where(level > 0, _DAMPING * level, torch.ones_like(level))
    identity = torch.eye(group_size, device=blocks.device)
    return blocks + ridge[:, None, None] * identity


def round_by_output(
    weight: torch.Tensor,
    covariances: torch.Tensor,
    weight_format: WeightFormat,
    scale_dtype: torch.dtype,
    stride: int = 1,
) -> QuantizedWeight:
    """Rounded to nearest in the range of least output error, group by group.

    Args:
        weight: float32 ``(rows, columns)``, finite.
        covariances: from :func:`group_covariances`.
        weight_format: of integers.
        scale_dtype: that scales are stored in.
        stride: of the ranges that are tried: 4 tries every fourth, the widest of either side among them.
    """
    bits, size = weight_format.num_bits, covariances.shape[1]
    codes, scales, zeros = [], [], []
    step = max(1, weights_at_once(weight.device) // weight.shape[1])
    for start in range(0, len(weight), step):
        groups = weight[start : start + step].reshape(-1, size)
        offers = symmetric_offers if weight_format.symmetric else asymmetric_offers
        found, shifts = _best(groups, offers(groups, bits, scale_dtype), covariances, bits, stride)
        codes.append(encode(groups, found, shifts, bits).to(torch.int8))
        scales.append(found)
        zeros += [] if shifts is None else [shifts]
    joined = torch.cat(zeros) if zeros else None
    return pack_result(weight.shape, torch.cat(codes), torch.cat(scales), joined, scale_dtype, weight_format)


def _best(
    groups: torch.Tensor, offers: Searched, covariances: torch.Tensor, bits: int, stride: int
) -> Searched:
    """Of several offers those of least output error; the earlier one wins a tie."""
    scales, zeros = offers[0][::stride], None if offers[1] is None else offers[1][::stride]
    count, size = covariances.shape[:2]
    errors = []
    for index, offer in enumerate(scales):
        shifts = None if zeros is None else zeros[index]
        difference = decode(encode(groups, offer, shifts, bits), offer, shifts).sub_(groups)
        parts = difference.view(-1, count, size).transpose(0, 1)
        errors.append((torch.bmm(parts, covariances) * parts).sum(dim=2).t().reshape(-1))
    best = torch.stack(errors).argmin(dim=0, keepdim=True)
    return scales.gather(0, best)[0], None if zeros is None else zeros.gather(0, best)[0]
