"""Codebooks that are fitted to the weights, by their importance: one for every row, or one for the whole matrix."""

from __future__ import annotations

import torch

from paretune.compressors.quantizers.affine import chunks, round_scales, weights_at_once
from paretune.compressors.quantizers.numbers import nearest_levels
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.formats import WeightFormat

_ROW_ITERATIONS = 25
_MATRIX_ITERATIONS = 12


class KMeans(Quantizer):
    """``kmeans``: a codebook for every row, by Lloyd's algorithm.

    SqueezeLLM (Kim et al. 2023, arXiv:2306.07629): weighted k-means in one dimension. The importance of a weight is
    the mean square of its input channel, the diagonal of the layer's Hessian (SqueezeLLM takes the Fisher information
    of the loss); without statistics all weights count the same.
    """

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
        # One row stands for all: importances are of columns.
        shares = torch.ones_like(weight[0]) if statistics is None else statistics.importances(weight[0])
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
    for _ in range(_ROW_ITERATIONS):
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


class LearnedLevels(Quantizer):
    """``learned``: one codebook for the whole matrix, under scales of groups; both are learned.

    Alternating least squares, as in LQ-Nets (Zhang et al. 2018, arXiv:1807.10029) without their binary basis: codes
    to the nearest level, levels to the weighted mean of what they stand for, scales to the least squares of their
    group, rounded to the dtype they are stored in. The error of a weight counts by the mean square of its input
    channel. It starts from quantiles of the weights in units of their group's largest; zero is always a level.
    """

    name = "learned"
    number_types = ("codebook",)
    codebooks = ("layer",)

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        groups = weight.view(-1, group_size)
        counted = torch.ones_like(weight) if statistics is None else statistics.importances(weight)
        importance = counted.view(-1, group_size)
        levels, scales = learn(groups, importance, weight_format.num_bits, scale_dtype)
        wide = scales.unsqueeze(1)
        codes = torch.cat([nearest_levels(groups[part] / wide[part], levels) for part in chunks(groups)])
        return QuantizedWeight(
            codes.view(weight.shape),
            scales.to(scale_dtype).view(len(weight), -1),
            None,
            group_size,
            levels=levels.to(scale_dtype).unsqueeze(0),
        )


def learn(
    groups: torch.Tensor, importance: torch.Tensor, num_bits: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending levels ``(2^b,)`` and scales ``(groups,)``, both rounded to ``dtype``, in float32."""
    scales = round_scales(groups.abs().amax(dim=1), dtype)
    levels = _start(groups / scales.unsqueeze(1), num_bits, dtype)
    best, best_error = (levels, scales), torch.inf
    for _ in range(_MATRIX_ITERATIONS):
        sums, error = _Sums(levels), 0.0
        fitted = torch.empty_like(scales)
        for part in chunks(groups):
            weight, shares, scale = groups[part], importance[part], scales[part].unsqueeze(1)
            codes = nearest_levels(weight / scale, levels).to(torch.int64) + len(levels) // 2
            numbers = levels[codes]
            error += float((shares * (numbers * scale - weight).square()).sum(dtype=torch.float64))
            sums.add(codes, shares * scale.square(), weight / scale)
            power = (shares * numbers.square()).sum(dim=1)
            fit = (shares * numbers * weight).sum(dim=1) / power.clamp_min(1e-30)
            fitted[part] = torch.where((power > 0) & (fit > 0), fit, scales[part])
        if error < best_error:
            best, best_error = (levels, scales), error
        levels, scales = sums.means(dtype), round_scales(fitted, dtype)
    return best


class _Sums:
    """Weighted means of what each level stands for."""

    def __init__(self, levels: torch.Tensor) -> None:
        self._levels = levels
        self._weights = torch.zeros(len(levels), dtype=torch.float64, device=levels.device)
        self._sums = torch.zeros_like(self._weights)

    def add(self, codes: torch.Tensor, shares: torch.Tensor, values: torch.Tensor) -> None:
        flat = codes.reshape(-1)
        self._weights += torch.bincount(flat, shares.reshape(-1).double(), len(self._levels))
        self._sums += torch.bincount(flat, (shares * values).reshape(-1).double(), len(self._levels))

    def means(self, dtype: torch.dtype) -> torch.Tensor:
        found = (self._sums / self._weights.clamp_min(1e-300)).to(torch.float32)
        found = torch.where(self._weights > 0, found, self._levels)
        return _zeroed(found).to(dtype).to(torch.float32)


def _start(values: torch.Tensor, num_bits: int, dtype: torch.dtype) -> torch.Tensor:
    """Half-way between equal counts and equal steps, with a zero."""
    count = 1 << num_bits
    flat = values.reshape(-1)
    sample = flat[:: max(1, len(flat) // 65536)].sort().values
    places = torch.linspace(0, len(sample) - 1, count, device=values.device).round().to(torch.int64)
    steps = torch.linspace(-1, 1, count, device=values.device)
    return _zeroed((sample[places] + steps) / 2).to(dtype).to(torch.float32)


def _zeroed(levels: torch.Tensor) -> torch.Tensor:
    levels = levels.clone()
    levels[levels.abs().argmin()] = 0.0
    return levels.sort().values
