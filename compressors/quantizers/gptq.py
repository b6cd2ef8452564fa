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

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from paretune.compressors.quantizers.affine import code_range, integer_zeros, pack_result, round_scales
from paretune.compressors.quantizers.nearest import RoundToNearest
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.compressors.quantizers.quantizer import Quantizer, finite_weight
from paretune.compressors.statistics import LayerStatistics
from paretune.spaces.errors import ModelError
from paretune.spaces.formats import WeightFormat

_BLOCK = 128
"""Columns after which the errors of a block reach the columns beyond it, in one product."""
_REACH = {2: 0.9, 3: 0.9}
"""Of the extreme weight, by bits."""
_DAMPING = 0.01
_MOST_DAMPING = 1e3


class Gptq(Quantizer):
    """Second-order rounding; touches nothing but its own layer."""

    name = "gptq"
    version = "2"
    needs_covariance = True
    shares_formats = True
    slab_weights = 1 << 21

    def quantize_all(
        self,
        weight: torch.Tensor,
        formats: Sequence[WeightFormat],
        statistics: LayerStatistics | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        layer: str = "weight",
    ) -> list[QuantizedWeight]:
        """Formats of one group size in one pass: rows do not depend on each other, so formats are more rows."""
        if statistics is None or statistics.covariance is None:
            return super().quantize_all(weight, formats, statistics, scale_dtype, layer)
        weight = finite_weight(weight, layer)
        grids = [_Grid.of(weight, one, self._group_size(weight, one), scale_dtype) for one in formats]
        order, factor = shared_factor(statistics, weight.device)
        made: dict[int, QuantizedWeight] = {}
        for size in dict.fromkeys(grid.group_size for grid in grids):
            alike = {i: grid for i, grid in enumerate(grids) if grid.group_size == size}
            codes = round_in_order(weight, list(alike.values()), order, factor)
            for (i, grid), part in zip(alike.items(), codes.chunk(len(alike)), strict=True):
                made[i] = grid.pack(part, scale_dtype)
        return [made[i] for i in range(len(grids))]

    def _quantize(
        self,
        weight: torch.Tensor,
        weight_format: WeightFormat,
        group_size: int,
        statistics: LayerStatistics | None,
        scale_dtype: torch.dtype,
    ) -> QuantizedWeight:
        del group_size
        if statistics is None or statistics.covariance is None:
            return RoundToNearest().quantize(weight, weight_format, None, scale_dtype)
        return self.quantize_all(weight, [weight_format], statistics, scale_dtype)[0]


@dataclass(frozen=True)
class _Grid:
    """Scales and zeros ``(groups,)`` of a weight of ``rows`` rows in one format."""

    rows: int
    group_size: int
    weight_format: WeightFormat
    scales: torch.Tensor
    zeros: torch.Tensor | None

    @classmethod
    def of(cls, weight: torch.Tensor, weight_format: WeightFormat, size: int, dtype: torch.dtype) -> _Grid:
        return cls(len(weight), size, weight_format, *_scales(weight.view(-1, size), weight_format, dtype))

    def across(self, values: torch.Tensor | None) -> torch.Tensor:
        """A number a group, ``(groups of a row, rows)``; zeros where there are none."""
        found = torch.zeros_like(self.scales) if values is None else values
        return found.view(self.rows, -1).t()

    def pack(self, codes: torch.Tensor, dtype: torch.dtype) -> QuantizedWeight:
        groups = codes.reshape(-1, self.group_size)
        return pack_result(codes.shape, groups, self.scales, self.zeros, dtype, self.weight_format)


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


def shared_factor(
    statistics: LayerStatistics, device: torch.device, ordered: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`inverse_factor` of a covariance, made once for all rows, formats and layers that share it.

    Raises:
        ModelError: a covariance that is not finite.
        ValueError: there is none.
    """
    if statistics.covariance is None:
        raise ValueError("a factor needs a covariance")
    made = statistics.factors
    if (device, ordered) not in made:
        made[device, ordered] = inverse_factor(statistics.covariance.to(device), ordered)
    return made[device, ordered]


def inverse_factor(covariance: torch.Tensor, ordered: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Order of columns, and the upper Cholesky factor of the damped inverse in that order.

    Channels that never fired count as white. Damping starts at a hundredth of the mean diagonal and grows until
    the factorisation exists, so a singular covariance (fewer tokens than channels) is no error.

    Args:
        covariance: ``(columns, columns)``.
        ordered: by falling curvature; as they are if not.

    Raises:
        ModelError: a covariance that is not finite.
    """
    found = covariance.to(torch.float64, copy=True)
    if not bool(torch.isfinite(found).all()):
        raise ModelError(
            "covariance of a layer's input",
            "has NaN or infinite numbers",
            "Calibrate in float32, or leave the layer to rtn",
        )
    diagonal = found.diagonal().clone()
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if bool((~dead).any()) else 1.0
    found[dead, :] = 0.0
    found[:, dead] = 0.0
    found.diagonal()[dead] = mean
    # Stable, so equal channels keep their order; dead ones come last.
    order = torch.argsort(diagonal, descending=True, stable=True)
    if not ordered:
        order = torch.arange(len(diagonal), device=diagonal.device)
    # L L^T of the reversed H is R R^T of H with R upper, so R^-1 is the factor of H^-1: no inverse is factorised.
    backwards = order.flip(0)
    found = found[backwards.unsqueeze(1), backwards]
    lower = _damped_lower(found, mean)
    del found
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
    return order, inverse.to(torch.float32).flip(0, 1)


def _damped_lower(covariance: torch.Tensor, mean: float) -> torch.Tensor:
    """Lower Cholesky factor of a covariance, which is damped in place until there is one."""
    added, damping = 0.0, _DAMPING
    while damping <= _MOST_DAMPING:
        covariance.diagonal().add_((damping - added) * mean)
        lower: torch.Tensor
        lower, bad = torch.linalg.cholesky_ex(covariance)
        if int(bad) == 0:
            return lower
        added, damping = damping, damping * 10
    raise ModelError(
        "covariance of a layer's input",
        "cannot be inverted",
        "Calibrate on more text, or use rtn for the layer",
    )


def round_in_order(
    weight: torch.Tensor, grids: Sequence[_Grid], order: torch.Tensor, factor: torch.Tensor
) -> torch.Tensor:
    """Codes of a weight in several formats, int8 ``(formats * rows, columns)``, in its own order of columns.

    Args:
        weight: float32 ``(rows, columns)``.
        grids: of it, of one group size.
        order: in which columns are rounded.
        factor: from :func:`inverse_factor`.
    """
    # Columns become rows: what is read and written at every step lies together.
    left = weight.t()[order].repeat(1, len(grids))
    scales = torch.cat([grid.across(grid.scales) for grid in grids], dim=1)
    zeros = torch.cat([grid.across(grid.zeros) for grid in grids], dim=1)
    low, high = _ranges(weight, grids)
    groups, diagonal = (order // grids[0].group_size).tolist(), factor.diagonal().tolist()
    pruned = left == 0
    codes = torch.empty(left.shape, dtype=torch.int8, device=left.device)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = torch.empty_like(left[start:stop])
        for column in range(start, stop):
            now, scale, zero = left[column], scales[groups[column]], zeros[groups[column]]
            code = (now / scale).round_().add_(zero).clamp_(low, high)
            code = torch.where(pruned[column], zero, code)
            error = (now - (code - zero) * scale) / diagonal[column]
            left[column:stop].addr_(factor[column, column:stop], error, alpha=-1.0)
            codes[column] = code
            errors[column - start] = error
        left[stop:] -= factor[start:stop, stop:].t() @ errors
    return torch.empty_like(codes).index_copy_(0, order, codes).t().contiguous()


def _ranges(weight: torch.Tensor, grids: Sequence[_Grid]) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest code of every row of every format, ``(formats * rows,)``."""
    ranges = weight.new_tensor([code_range(grid.weight_format.num_bits) for grid in grids])
    low, high = ranges.repeat_interleave(len(weight), dim=0).unbind(dim=1)
    return low, high
