"""``kmeans``: a codebook for every row, fitted to its weights by their importance.

SqueezeLLM (Kim et al. 2023, arXiv:2306.07629): weighted k-means in one dimension. The importance of a weight is the
mean square of its input channel, the diagonal of the layer's Hessian (SqueezeLLM takes the Fisher information of
the loss); without statistics all weights count the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paretune.compressors.quantizers.affine import weights_at_once
from paretune.compressors.quantizers.importance import channel_importances
from paretune.compressors.quantizers.numbers import nearest_levels
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.spaces.formats import WeightFormat

if TYPE_CHECKING:
    from paretune.compressors.statistics import LayerStatistics

_ITERATIONS = 25


class KMeans(Quantizer):
    """Lloyd's algorithm row by row; touches nothing but its own layer."""

    name = "kmeans"
    number_types = ("codebook",)
    codebooks = ("row",)

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        shares = torch.ones(weight.shape[1], device=weight.device)
        if statistics is not None:
            shares = channel_importances(statistics, weight.device)
        step = max(1, weights_at_once(weight.device) // weight.shape[1])
        levels = torch.cat(
            [
                fit_levels(weight[start : start + step], shares, weight_format.num_bits, scale_dtype)
                for start in range(0, len(weight), step)
            ]
        )
        codes = nearest_levels(weight, levels.to(torch.float32))
        scales = torch.ones(len(weight), 1, device=weight.device)
        return QuantizedWeight(codes, scales, None, group_size, levels=levels)


def fit_levels(
    weight: torch.Tensor, importance: torch.Tensor, num_bits: int, dtype: torch.dtype
) -> torch.Tensor:
    """Ascending levels of every row in ``dtype``, ``(rows, 2^b)``.

    A row that has exact zeros keeps a level at zero. The start: quantiles of the row, the outermost at its ends.

    Args:
        weight: float32 ``(rows, columns)``.
        importance: of the columns.
        num_bits: of the codes.
        dtype: that levels are stored in.
    """
    count = 1 << num_bits
    # Between quantiles of equal counts and equal steps: the cube root of the density is the best spacing.
    ordered = weight.sort(dim=1).values
    places = torch.linspace(0, weight.shape[1] - 1, count, device=weight.device).round().to(torch.int64)
    steps = torch.linspace(0, 1, count, device=weight.device)
    ends = ordered[:, :1] + (ordered[:, -1:] - ordered[:, :1]) * steps
    levels = (ordered[:, places] + ends) / 2
    pinned = (weight == 0).any(dim=1)
    shares = importance.expand_as(weight)
    for _ in range(_ITERATIONS):
        codes = nearest_levels(weight, levels).to(torch.int64) + count // 2
        total = torch.zeros_like(levels).scatter_add_(1, codes, shares)
        summed = torch.zeros_like(levels).scatter_add_(1, codes, shares * weight)
        levels = torch.where(total > 0, summed / total.clamp_min(1e-30), levels)
        levels = _with_zero(levels, pinned).sort(dim=1).values
    return _with_zero(levels, pinned).sort(dim=1).values.to(dtype)


def _with_zero(levels: torch.Tensor, pinned: torch.Tensor) -> torch.Tensor:
    """The level nearest to zero put there, in the rows that are ``pinned``."""
    nearest = levels.abs().argmin(dim=1, keepdim=True)
    return torch.where(pinned.unsqueeze(1), levels.scatter(1, nearest, 0.0), levels)
